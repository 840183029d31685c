// What the simulator reports when a kernel breaks one of the chip's rules.
#pragma once

#include <stdexcept>
#include <string>

namespace sim {

// A place in the kernel's source. As a default argument, Site::here() is the caller's line.
struct Site {
    const char* file = "?";
    int line = 0;

    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
    std::string text() const;
};

enum class Fault {
    BufferOverflow,  // more UB, L1, L0A, L0B, L0C, bias or fixpipe memory than the chip has
    Misaligned,      // an address or a length that the instruction does not take
    OutOfBounds,     // bytes outside a tensor or outside every device allocation
    EmptyQueue,      // a tensor taken from a queue that nothing enqueued
    MissingSync,     // two pipes of a core touch the same bytes and nothing orders them
    CrossCoreRace,   // two cores touch the same bytes of global memory and nothing orders them
    Uninitialised,   // bytes read that nothing wrote
    Protocol,        // an API used against its rules: flags set twice, a freed tensor, an exhausted queue
    Deadlock,        // cores wait and none can go on
    Unsupported,     // an operand or parameter that the chip, or this simulator, does not have
};

const char* fault_name(Fault fault);

// Thrown out of sim::launch. what() is one line: kernel, core, instruction, source line, tensor, and what to do.
class SimError : public std::runtime_error {
public:
    SimError(Fault fault, const std::string& message) : std::runtime_error(message), fault(fault) {}
    const Fault fault;
};

}  // namespace sim
