#include "sim/fault.h"

#include <cstring>

namespace sim {

std::string Site::text() const {
    const char* slash = std::strrchr(file, '/');
    return std::string(slash ? slash + 1 : file) + ":" + std::to_string(line);
}

const char* fault_name(Fault fault) {
    switch (fault) {
        case Fault::BufferOverflow: return "buffer overflow";
        case Fault::Misaligned: return "misaligned";
        case Fault::OutOfBounds: return "out of bounds";
        case Fault::EmptyQueue: return "empty queue";
        case Fault::MissingSync: return "missing synchronisation";
        case Fault::CrossCoreRace: return "race between cores";
        case Fault::Uninitialised: return "uninitialised read";
        case Fault::Protocol: return "misuse";
        case Fault::Deadlock: return "deadlock";
        case Fault::Unsupported: return "unsupported";
    }
    return "fault";
}

}  // namespace sim
