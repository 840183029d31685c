#include "sim/core.h"

#include <algorithm>
#include <cstdio>

#include "launch_state.h"
#include "sim/cost.h"

namespace sim {

void Clock::join(const Clock& other) {
    for (int pipe = 0; pipe < kPipes; ++pipe) own[pipe] = std::max(own[pipe], other.own[pipe]);
    time = std::max(time, other.time);
    if (!other.world || world == other.world) return;
    if (!world) {
        world = other.world;
        return;
    }
    bool ahead = true, behind = true;
    for (size_t core = 0; core < world->size(); ++core) {
        for (int pipe = 0; pipe < kPipes; ++pipe) {
            const uint32_t mine = (*world)[core][pipe], theirs = (*other.world)[core][pipe];
            ahead = ahead && mine >= theirs;
            behind = behind && mine <= theirs;
        }
    }
    if (ahead) return;
    if (behind) {
        world = other.world;
        return;
    }
    World merged = *world;
    for (size_t core = 0; core < merged.size(); ++core)
        for (int pipe = 0; pipe < kPipes; ++pipe) merged[core][pipe] = std::max(merged[core][pipe], (*other.world)[core][pipe]);
    world = std::make_shared<const World>(std::move(merged));
}

Core::Core(CoreKind kind, int index, int block, int sub_block) : kind(kind), index(index), block(block), sub_block(sub_block) {}

void Core::reset(Launch* owner, int new_index, int new_block, int new_sub_block) {
    launch = owner;
    index = new_index;
    block = new_block;
    sub_block = new_sub_block;
    pipe = nullptr;
    const Platform& chip = platform();
    const bool cube = kind == CoreKind::AIC;
    const uint32_t sizes[kSpaces] = {0, cube ? 0 : chip.ub_size, cube ? chip.l1_size : 0, cube ? chip.l0_a_size : 0,
                                     cube ? chip.l0_b_size : 0, cube ? chip.l0_c_size : 0, cube ? chip.bt_size : 0,
                                     cube ? chip.fb0_size : 0};
    for (int space = 0; space < kSpaces; ++space) {
        if (memory[space].size() == sizes[space]) {
            shadow[space].clear();
            continue;
        }
        memory[space].resize(sizes[space]);
        shadow[space].resize(sizes[space]);
    }
    buffers.clear();
    issued = {};
    clock = {};
    completed = {};
    for (size_t event = 0; event < flags.size(); ++event) {
        if (set_events[event] == 0) continue;
        for (Flag& flag : flags[event]) flag.set = false;
    }
    set_events = {};
    occupied_events = {};
    for (auto& queue : cross_flags) queue.clear();
    for (auto& queue : cross_pending) queue.clear();
    cross_sets = {};
    barrier_generation = 0;
    unit_flag_m = unit_flag_fix = {};
    statistics = {};
    mask[0] = mask[1] = ~0ull;
    counter_mode = false;
    compare_mask[0] = compare_mask[1] = 0;
    store_kind = AccessKind::Write;
    atomic_op = 0;
    atomic_type = -1;
    pad_value_set = false;
    deq_scale = 1.0;
    fixpipe_matrices = {1, 0, 0};
    fixpipe_scale = 0;
}

std::string Core::label() const {
    if (kind == CoreKind::AIC) return "AIC " + std::to_string(block);
    return "AIV " + std::to_string(block * launch->kind.aiv_per_block + sub_block);
}

std::string Core::name() const { return "kernel '" + launch->kernel + "', " + label(); }

bool Core::ordered(const Access& earlier, Pipe now, bool in_order) const {
    if (earlier.core == kSeveralCores) return barrier_generation > earlier.epoch;
    const Clock& mine = clock[int(now)];
    if (earlier.core != index) return mine.world && (*mine.world)[earlier.core][int(earlier.pipe)] >= earlier.epoch;
    const bool scalar = now == Pipe::S || earlier.pipe == Pipe::S;
    if (earlier.pipe == now && (now == Pipe::S || in_order)) return true;
    // The scalar unit issues in order and a load blocks it, so what it read is read before anything later starts.
    if (earlier.pipe == Pipe::S && earlier.kind == AccessKind::Read) return true;
    if (options().auto_sync && kind == CoreKind::AIV && (scalar || (now == Pipe::V && earlier.pipe == Pipe::V))) return true;
    return mine.own[int(earlier.pipe)] >= earlier.epoch;
}

Clock Core::finished(Pipe of) const {
    Clock result = clock[int(of)];
    result.join(clock[int(Pipe::S)]);
    result.own[int(of)] = issued[int(of)];
    result.time = std::max(result.time, completed[int(of)]);
    return result;
}

Clock Core::finished_all() const {
    Clock result;
    for (int each = 0; each < kPipes; ++each) result.join(finished(Pipe(each)));
    return result;
}

Clock Core::exported(const Clock& from) const {
    World world = from.world ? *from.world : World(launch->cores.size());
    for (int each = 0; each < kPipes; ++each) world[index][each] = std::max(world[index][each], from.own[each]);
    Clock result;
    result.world = std::make_shared<const World>(std::move(world));
    result.time = from.time;
    return result;
}

void Core::barrier(Pipe of) {
    clock[int(of)].own[int(of)] = issued[int(of)];
    clock[int(of)].time = std::max(clock[int(of)].time, completed[int(of)]);
}

void Core::barrier_all() {
    const Clock all = finished_all();
    for (Clock& each : clock) each = all;
}

static const char* flag_text(Pipe from, Pipe to, int id, char* out, size_t size) {
    std::snprintf(out, size, "%s_%s, event %d", pipe_name(from), pipe_name(to), id);
    return out;
}

void Core::set_flag(int event, Pipe from, Pipe to, int id, Site site) {
    char text[48];
    flag_text(from, to, id, text, sizeof text);
    if (id < 0 || id >= 8) fail(Fault::Protocol, site, "SetFlag", std::string(text) + ": event ids are 0 to 7");
    Flag& flag = flags[event][id];
    if (flag.set)
        fail(Fault::Protocol, site, "SetFlag",
             std::string(text) + " is set already (" + flag.site.text() + ") and nothing waited for it");
    clock[int(Pipe::S)].time += kFlagCycles;
    flag = {true, finished(from), site};
    set_events[event] |= uint8_t(1 << id);
}

void Core::wait_flag(int event, Pipe from, Pipe to, int id, Site site) {
    char text[48];
    flag_text(from, to, id, text, sizeof text);
    if (id < 0 || id >= 8) fail(Fault::Protocol, site, "WaitFlag", std::string(text) + ": event ids are 0 to 7");
    Flag& flag = flags[event][id];
    if (!flag.set) fail(Fault::Deadlock, site, "WaitFlag", std::string(text) + " waits for a flag that nothing has set");
    clock[int(Pipe::S)].time += kFlagCycles;
    flag.set = false;
    set_events[event] &= uint8_t(~(1 << id));
    clock[int(to)].join(flag.clock);
}

int Core::allocate_event(int event, Site site) {
    for (int id = 0; id < 8; ++id) {
        if (occupied_events[event] & (1 << id)) continue;
        occupied_events[event] |= uint8_t(1 << id);
        return id;
    }
    fail(Fault::Protocol, site, "AllocEventID", "all 8 event ids of this pair of pipes are in use");
}

void Core::end_of_kernel() {
    for (size_t event = 0; event < flags.size(); ++event)
        for (int id = 0; id < 8 && set_events[event] != 0; ++id)
            if (flags[event][id].set)
                fail(Fault::Protocol, flags[event][id].site, "SetFlag",
                     "event " + std::to_string(id) + " was set and nothing waited for it; flags must come in pairs");
}

void fail(Fault fault, Site site, const char* api, const std::string& message) {
    throw SimError(fault, core().name() + ": " + api + " at " + site.text() + ": " + fault_name(fault) + ": " + message);
}

}  // namespace sim
