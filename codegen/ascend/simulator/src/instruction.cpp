#include <algorithm>
#include <cstdio>
#include <cstring>

#include "launch_state.h"
#include "sim/cost.h"

namespace sim {

static std::string hex(uint64_t value) {
    char text[24];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

std::string describe(const LocalView& view) {
    if (!view.buffer) return "an unset LocalTensor";
    const Buffer& buffer = *view.buffer;
    return std::string(buffer.position) + (buffer.in_queue ? " queue tensor" : " buffer") + " (InitBuffer at " +
           buffer.site.text() + ") at " + space_name(buffer.space) + "+" + hex(view.address) + ", " +
           std::to_string(view.bytes) + " bytes";
}

std::string describe(const GlobalView& view) {
    const Allocation* allocation = view.allocation ? view.allocation : gm_find(view.address);
    std::string text = "GlobalTensor (SetGlobalBuffer at " + view.site.text() + ")";
    if (!allocation) return text + " at host address " + hex(uint64_t(view.address)) + ", which is no device memory";
    const std::string name = allocation->name.empty() ? "allocation" : "'" + allocation->name + "'";
    return text + " in " + name + "+" + hex(uint64_t(view.address - allocation->base));
}

Instruction::Instruction(const char* name, Pipe pipe, Site site)
    : name_(name), core_(core()), pipe_(pipe), site_(site), site_id_(core_.launch->intern(name, site)) {
    Clock& scalar = core_.clock[int(Pipe::S)];
    Clock& mine = core_.clock[int(pipe)];
    if (pipe != Pipe::S) {
        // Whatever the scalar unit waited for is over before it issues this; its own stores are not (they need a flag).
        const uint32_t stores_seen = mine.own[int(Pipe::S)];
        const double scalar_time = scalar.time += kIssueCycles;
        mine.join(scalar);
        mine.own[int(Pipe::S)] = std::max(stores_seen, scalar.own[int(Pipe::S)]);
        start_ = std::max(mine.time, scalar_time);
    } else {
        start_ = scalar.time;
    }
    ++core_.issued[int(pipe)];
}

Instruction::~Instruction() {
    // Cycles a pipe cannot take its next instruction, and cycles until the result is there, by pipe.
    static const double occupied[kPipes] = {0, kVectorIssue, kCubeIssue, kLocalCopyIssue, kGlobalCopyIssue, kGlobalCopyIssue,
                                            kGlobalCopyIssue};
    static const double latency[kPipes] = {0, kVectorLatency, kCubeLatency, kLocalCopyLatency, kGlobalCopyLatency,
                                           kGlobalCopyLatency, kGlobalCopyLatency};
    PipeStatistics& statistics = core_.statistics[int(pipe_)];
    const double cycles = cycles_ + occupied[int(pipe_)];
    ++statistics.instructions;
    statistics.bytes += bytes_;
    statistics.busy_cycles += cycles;
    core_.clock[int(pipe_)].time = start_ + cycles;
    core_.completed[int(pipe_)] = std::max(core_.completed[int(pipe_)], start_ + cycles + latency[int(pipe_)]);
}

void Instruction::cost(double cycles, uint64_t bytes) {
    cycles_ += cycles;
    bytes_ += bytes;
}

void Instruction::fail(Fault fault, const std::string& message, const LocalView* view) const {
    sim::fail(fault, site_, name_, message + (view ? "; tensor: " + describe(*view) : ""));
}

void Instruction::on(CoreKind kind) const {
    if (core_.kind == kind) return;
    fail(Fault::Unsupported, std::string("this instruction needs ") + (kind == CoreKind::AIC ? "a cube" : "a vector") +
                                 " core; guard it with ASCEND_IS_" + (kind == CoreKind::AIC ? "AIC" : "AIV") +
                                 " or set the kernel's type with KERNEL_TASK_TYPE_DEFAULT");
}

void Instruction::in_space(const LocalView& view, std::initializer_list<Space> spaces, const char* operand) const {
    if (!view.buffer) fail(Fault::Protocol, std::string("operand ") + operand + " is an unset LocalTensor");
    for (Space space : spaces)
        if (view.buffer->space == space) return;
    fail(Fault::Unsupported, std::string("operand ") + operand + " cannot be in " + space_name(view.buffer->space), &view);
}

void Instruction::check_live(const LocalView& view) const {
    if (!view.buffer) fail(Fault::Protocol, "an operand is an unset LocalTensor");
    const Buffer& buffer = *view.buffer;
    if (buffer.state == BufferState::Plain) return;
    if (buffer.state == BufferState::Free || buffer.generation != view.generation)
        fail(Fault::Protocol, "the tensor was given back with FreeTensor", &view);
}

void Instruction::check_bounds(const LocalView& view, uint64_t offset, uint64_t bytes, uint32_t align) const {
    if (offset + bytes > view.bytes)
        fail(Fault::OutOfBounds, "bytes " + std::to_string(offset) + " to " + std::to_string(offset + bytes) +
                                     " of a tensor of " + std::to_string(view.bytes) + " bytes", &view);
    if (align > 1 && (view.address + offset) % align != 0)
        fail(Fault::Misaligned, "address " + hex(view.address + offset) + " is not a multiple of " + std::to_string(align) +
                                    " bytes", &view);
}

void Instruction::race(const Access& earlier, AccessKind kind, const std::string& tensor, uint64_t address) const {
    const SiteRecord& record = core_.launch->sites[earlier.site];
    const std::string what = std::string(kind == AccessKind::Read ? "reads " : "writes ") + tensor + ", byte " + hex(address) +
                             ", which " + record.instruction + " at " + record.site.text() +
                             (earlier.kind == AccessKind::Read ? " reads" : " writes");
    if (earlier.core != core_.index) {
        const std::string who = earlier.core == kSeveralCores ? "on several cores" : "on " + core_.launch->cores[earlier.core]->label();
        sim::fail(Fault::CrossCoreRace, site_, name_,
                  what + " " + who + ": order them with CrossCoreSetFlag/CrossCoreWaitFlag or SyncAll, or use atomics");
    }
    const std::string from = pipe_name(earlier.pipe), to = pipe_name(pipe_);
    const std::string advice = earlier.pipe == pipe_ ? "PipeBarrier<PIPE_" + to + ">" : "SetFlag/WaitFlag<HardEvent::" + from +
                               "_" + to + ">, EnQue/DeQue, or AllocTensor/FreeTensor";
    sim::fail(Fault::MissingSync, site_, name_, what + ", and nothing orders pipe " + to + " after pipe " + from + ": " + advice +
                                                    " is missing");
}

Access Instruction::access(uint32_t mask, AccessKind kind) const {
    Access result;
    result.mask = mask;
    result.epoch = core_.issued[int(pipe_)];
    result.site = site_id_;
    result.core = uint16_t(core_.index);
    result.pipe = pipe_;
    result.kind = kind;
    return result;
}

void Instruction::check_initialised(const LocalView& view, uint64_t begin, uint64_t end) const {
    if (!options().check_uninitialised) return;
    const Space space = view.buffer->space;
    const uint64_t missing = core_.shadow[int(space)].first_uninitialised(begin, end);
    if (missing != end) fail(Fault::Uninitialised, "nothing wrote " + std::string(space_name(space)) + "+" + hex(missing), &view);
}

void Instruction::touch_cell(const LocalView& view, uint64_t cell, uint32_t mask, AccessKind kind) {
    Shadow& shadow = core_.shadow[int(view.buffer->space)];
    const uint32_t missing = mask & ~shadow.initialised_mask(cell);
    if (kind == AccessKind::Read && missing != 0)
        check_initialised(view, cell * kCell + __builtin_ctz(missing), cell * kCell + __builtin_ctz(missing) + 1);
    const Access* conflict = shadow.record(cell, access(mask, kind), 0, [&](const Access& old) {
        return core_.ordered(old, pipe_, in_order_);
    });
    if (conflict) race(*conflict, kind, describe(view), cell * kCell);
    if (kind != AccessKind::Read) shadow.mark_initialised(cell, mask);
}

void Instruction::touch(const LocalView& view, uint64_t begin, uint64_t end, AccessKind kind) {
    Shadow& shadow = core_.shadow[int(view.buffer->space)];
    uint64_t where = begin;
    const Access* conflict = shadow.record(begin, end, access(0, kind), 0, where, [&](const Access& old) {
        return core_.ordered(old, pipe_, in_order_);
    });
    if (conflict) race(*conflict, kind, describe(view), where);
    if (kind != AccessKind::Read) shadow.set_initialised(begin, end, true);
}

const uint8_t* Instruction::read(const LocalView& view, uint64_t offset, uint64_t bytes, uint32_t align) {
    check_live(view);
    check_bounds(view, offset, bytes, align);
    const uint64_t begin = view.address + offset;
    check_initialised(view, begin, begin + bytes);
    touch(view, begin, begin + bytes, AccessKind::Read);
    return core_.bytes(view.buffer->space) + begin;
}

uint8_t* Instruction::write(const LocalView& view, uint64_t offset, uint64_t bytes, uint32_t align) {
    check_live(view);
    check_bounds(view, offset, bytes, align);
    const uint64_t begin = view.address + offset;
    touch(view, begin, begin + bytes, AccessKind::Write);
    return core_.bytes(view.buffer->space) + begin;
}

const uint8_t* Instruction::read_block(const LocalView& view, uint64_t offset, uint32_t mask) {
    check_live(view);
    check_bounds(view, offset, 32 - __builtin_clz(mask), kCell);
    const uint64_t begin = view.address + offset;
    touch_cell(view, begin / kCell, mask, AccessKind::Read);
    return core_.bytes(view.buffer->space) + begin;
}

uint8_t* Instruction::write_block(const LocalView& view, uint64_t offset, uint32_t mask) {
    check_live(view);
    check_bounds(view, offset, 32 - __builtin_clz(mask), kCell);
    const uint64_t begin = view.address + offset;
    touch_cell(view, begin / kCell, mask, AccessKind::Write);
    return core_.bytes(view.buffer->space) + begin;
}

const uint8_t* Instruction::read_any(const LocalView& view, uint64_t offset, uint64_t bytes, uint32_t align,
                                     uint8_t* initialised) {
    check_live(view);
    check_bounds(view, offset, bytes, align);
    const Space space = view.buffer->space;
    const uint64_t begin = view.address + offset, end = begin + bytes;
    touch(view, begin, end, AccessKind::Read);
    for (uint64_t byte = begin; byte < end; ++byte)
        initialised[byte - begin] = core_.shadow[int(space)].initialised_mask(byte / kCell) >> (byte % kCell) & 1;
    return core_.bytes(space) + begin;
}

uint8_t* Instruction::write_any(const LocalView& view, uint64_t offset, uint64_t bytes, uint32_t align,
                                const uint8_t* initialised) {
    uint8_t* address = write(view, offset, bytes, align);
    Shadow& shadow = core_.shadow[int(view.buffer->space)];
    const uint64_t begin = view.address + offset;
    const auto next = [&](uint64_t from) {
        const void* found = std::memchr(initialised + from, 0, bytes - from);
        return found ? uint64_t(static_cast<const uint8_t*>(found) - initialised) : bytes;
    };
    for (uint64_t byte = next(0); byte < bytes; byte = next(byte + 1))
        shadow.set_initialised(begin + byte, begin + byte + 1, false);
    return address;
}

void Instruction::leave_uninitialised(const LocalView& view, uint64_t offset, uint64_t bytes) {
    if (bytes == 0) return;
    write(view, offset, bytes);
    const uint64_t begin = view.address + offset;
    core_.shadow[int(view.buffer->space)].set_initialised(begin, begin + bytes, false);
}

Allocation& Instruction::resolve(const GlobalView& view, uint64_t offset, uint64_t bytes, bool write) const {
    Allocation* allocation = view.allocation;
    const std::string verb = write ? "writes " : "reads ";
    if (!allocation) sim::fail(Fault::OutOfBounds, site_, name_, verb + describe(view));
    const uint64_t begin = uint64_t(view.address - allocation->base) + offset;
    if (view.address < allocation->base || begin + bytes > allocation->bytes)
        sim::fail(Fault::OutOfBounds, site_, name_, verb + "bytes " + hex(begin) + " to " + hex(begin + bytes) + " of " +
                                                        std::to_string(allocation->bytes) + " bytes; tensor: " + describe(view));
    if (view.bytes != 0 && offset + bytes > view.bytes)
        sim::fail(Fault::OutOfBounds, site_, name_, verb + "bytes " + std::to_string(offset) + " to " +
                                                        std::to_string(offset + bytes) + " of a tensor set to " +
                                                        std::to_string(view.bytes) + " bytes; tensor: " + describe(view));
    return *allocation;
}

void Instruction::touch(const GlobalView& view, Allocation& allocation, uint64_t begin, uint64_t end, AccessKind kind) {
    Launch& launch = *core_.launch;
    if (!allocation.touched) {
        allocation.touched = true;
        launch.touched.push_back(&allocation);
    }
    uint64_t where = begin;
    const Access* conflict = allocation.shadow.record(begin, end, access(0, kind), launch.barrier_generation, where,
                                                      [&](const Access& old) { return core_.ordered(old, pipe_, in_order_); });
    if (conflict) race(*conflict, kind, describe(view), where);
}

const uint8_t* Instruction::read(const GlobalView& view, uint64_t offset, uint64_t bytes) {
    Allocation& allocation = resolve(view, offset, bytes, false);
    const uint64_t begin = uint64_t(view.address - allocation.base) + offset;
    if (options().check_uninitialised) {
        const uint64_t missing = allocation.shadow.first_uninitialised(begin, begin + bytes);
        if (missing != begin + bytes)
            sim::fail(Fault::Uninitialised, site_, name_, "nothing wrote byte " + hex(missing) + "; tensor: " + describe(view));
    }
    touch(view, allocation, begin, begin + bytes, AccessKind::Read);
    core_.launch->gm_read += bytes;
    return view.address + offset;
}

uint8_t* Instruction::write(const GlobalView& view, uint64_t offset, uint64_t bytes) {
    Allocation& allocation = resolve(view, offset, bytes, true);
    const uint64_t begin = uint64_t(view.address - allocation.base) + offset;
    const bool atomic = pipe_ != Pipe::S && core_.store_kind == AccessKind::Atomic;
    if (atomic && options().check_uninitialised) {
        const uint64_t missing = allocation.shadow.first_uninitialised(begin, begin + bytes);
        if (missing != begin + bytes)
            sim::fail(Fault::Uninitialised, site_, name_, "an atomic store adds to byte " + hex(missing) +
                                                              ", which nothing wrote; tensor: " + describe(view));
    }
    touch(view, allocation, begin, begin + bytes, atomic ? AccessKind::Atomic : AccessKind::Write);
    allocation.shadow.set_initialised(begin, begin + bytes, true);
    core_.launch->gm_written += bytes;
    return view.address + offset;
}

}  // namespace sim
