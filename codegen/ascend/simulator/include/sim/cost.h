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
// Heads (cycles that an instruction pays besides its throughput) are our assumptions, as the tables leave them out.
// Not modelled: L2 hits (traffic counts once per copy), bank conflicts in UB, instruction cache misses.
#pragma once

namespace sim {

constexpr double kIssueCycles = 1;      // the scalar unit, per instruction it hands to another pipe
constexpr double kScalarCycles = 1;     // per simulated scalar access to a register or UB
constexpr double kScalarGmCycles = 100; // a scalar access to global memory through the data cache
constexpr double kVectorHead = 14;      // start of a vector instruction
constexpr double kCubeHead = 20;        // start of a Mmad
constexpr double kLocalCopyHead = 20;   // L1 to L0, L0C to L1
constexpr double kGlobalCopyHead = 300; // a copy to or from global memory: latency of the first byte
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
