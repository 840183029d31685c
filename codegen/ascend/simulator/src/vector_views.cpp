#include "ascendc/vector_data.h"

namespace sim {

LocalView view_at(uint64_t host_address, Site site) {
    Core& self = core();
    const uint64_t base = uint64_t(self.bytes(Space::UB));
    for (Buffer& buffer : self.buffers) {
        if (buffer.space != Space::UB || host_address < base + buffer.address) continue;
        const uint64_t offset = host_address - base - buffer.address;
        if (offset < buffer.bytes)
            return {&buffer, buffer.generation, uint32_t(buffer.address + offset), uint32_t(buffer.bytes - offset)};
    }
    fail(Fault::OutOfBounds, site, "TransDataTo5HD", "an address outside of every buffer of UB");
}

}  // namespace sim
