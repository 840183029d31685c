#include <exception>

#include "ascendc/queue.h"

namespace AscendC {

// On a cube core the vendor's constructor takes these M_MTE1 events for its own use and sets their flags; a kernel that
// sets them by number collides with that, here as there.
constexpr int kReservedCubeEvents = 3;

TPipe::TPipe(sim::Site site) { Init(site); }

TPipe::~TPipe() noexcept(false) {
    if (alive_ && std::uncaught_exceptions() == 0) Destroy();
}

void TPipe::Init(sim::Site site) {
    sim::Core& core = sim::core();
    if (alive_) Reset(site);
    if (!alive_ && core.kind == sim::CoreKind::AIC) {
        const int event = int(HardEvent::M_MTE1);
        for (int i = 0; i < kReservedCubeEvents; ++i)
            core.set_flag(event, sim::Pipe::M, sim::Pipe::MTE1, core.allocate_event(event, site), site);
    }
    core.pipe = this;
    alive_ = true;
}

void TPipe::Reset(sim::Site site) {
    sim::Core& core = sim::core();
    for (Queued& queued : queues_) {
        sim::Buffer& buffer = *queued.buffer;
        if (buffer.free_event < 0) continue;
        const sim::PipePair pipes = sim::pipes_of(queued.free_event);
        core.wait_flag(int(queued.free_event), pipes.from, pipes.to, buffer.free_event, site);
        core.occupied_events[int(queued.free_event)] &= uint8_t(~(1 << buffer.free_event));
        buffer.free_event = -1;
    }
    queues_.clear();
    for (uint32_t& used : used_) used = 0;
}

void TPipe::Destroy(sim::Site site) {
    if (!alive_) return;
    Reset(site);
    sim::Core& core = sim::core();
    if (core.kind == sim::CoreKind::AIC) {
        const int event = int(HardEvent::M_MTE1);
        for (int id = 0; id < kReservedCubeEvents; ++id) {
            core.wait_flag(event, sim::Pipe::M, sim::Pipe::MTE1, id, site);
            core.occupied_events[event] &= uint8_t(~(1 << id));
        }
    }
    core.barrier_all();
    alive_ = false;
}

TEventID TPipe::FetchEventID(HardEvent event, sim::Site site) {
    const int id = sim::core().allocate_event(int(event), site);
    sim::core().occupied_events[int(event)] &= uint8_t(~(1 << id));
    return TEventID(id);
}

sim::Buffer& TPipe::take(TPosition position, uint32_t len, uint32_t num, sim::Site site) {
    sim::Core& core = sim::core();
    const sim::Space space = sim::space_of(position);
    if (space == sim::Space::GM)
        sim::fail(sim::Fault::Unsupported, site, "InitBuffer", std::string("no local memory at ") + sim::position_name(position));
    if (len == 0) sim::fail(sim::Fault::Protocol, site, "InitBuffer", "a buffer of 0 bytes");
    const uint32_t bytes = (len + 31) / 32 * 32;
    uint32_t& used = used_[int(space)];
    const uint32_t size = core.size(space);
    // The other kind of core has none of this memory; mixed kernels may set it up there as long as nothing uses it.
    if (size != 0 && uint64_t(used) + bytes > size)
        sim::fail(sim::Fault::BufferOverflow, site, "InitBuffer",
                  std::to_string(num) + " x " + std::to_string(bytes) + " bytes for " + sim::position_name(position) + ": " +
                      std::to_string(used) + " of " + std::to_string(size) + " bytes of " + sim::space_name(space) +
                      " are taken already");
    sim::Buffer buffer;
    buffer.space = space;
    buffer.address = used;
    buffer.bytes = bytes;
    buffer.position = sim::position_name(position);
    buffer.site = site;
    used += bytes;
    core.buffers.push_back(buffer);
    return core.buffers.back();
}

}  // namespace AscendC
