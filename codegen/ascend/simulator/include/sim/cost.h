// How long instructions take: assumptions of the estimate, in one place.
//
// Sources. Vector parallelism (elements per cycle), Mmad and L1-to-L0 bandwidth: the vendor's published theoretical
// performance tables of the 2201 architecture (910B, 910_93). Rates of global memory: the platform description
// (bytes per cycle and core). HBM: the boards' published peak, shared by all cores.
//
// Model. Every pipe runs its instructions in order; an instruction starts when its pipe is free, when the scalar unit has
// issued it, and after the flags it waited for. So double buffering overlaps and a missing overlap shows. A launch takes the
// time of its slowest core, with ceil(blocks / cores) waves, or the time its global memory traffic takes at the HBM peak,
// whichever is longer; plus kLaunchSeconds.
//
// Two numbers per kind of instruction are our assumptions, as the tables leave them out: how long it keeps its pipe besides
// its throughput, and how long after that its result takes to arrive. Flags, barriers and queues wait for the latter; the
// pipe's next instruction does not.
// Not modelled: L2 hits (traffic counts once per copy), bank conflicts in UB, instruction cache misses.
#pragma once

namespace sim {

constexpr double kIssueCycles = 1;      // the scalar unit, per instruction it hands to another pipe
constexpr double kScalarCycles = 1;     // per simulated scalar access to a register or UB
constexpr double kScalarGmCycles = 100; // a scalar access to global memory through the data cache
constexpr double kVectorIssue = 2, kVectorLatency = 16;
constexpr double kCubeIssue = 4, kCubeLatency = 20;
constexpr double kLocalCopyIssue = 4, kLocalCopyLatency = 24;       // L1 to L0
constexpr double kGlobalCopyIssue = 16, kGlobalCopyLatency = 400;   // to and from global memory, Fixpipe
constexpr double kBlockCycles = 4;      // a block of a strided copy, at least
constexpr double kFlagCycles = 2;
constexpr double kCrossCoreCycles = 200;
constexpr double kLaunchSeconds = 3e-6;

// Throughput in bytes or elements per cycle where the platform file has no entry.
constexpr double kVectorBytes = 256;      // one repeat per cycle: Add, Mul, Max, Cast to the same width, Duplicate, Select
constexpr double kSlowElements = 32;      // Exp, Ln, Sqrt, Div
constexpr double kGatherElements = 5;
constexpr double kSortElements = 2;
constexpr double kReduceCycles = 7;       // one whole-repeat reduction
constexpr double kFixpipeElements = 64;

}  // namespace sim
