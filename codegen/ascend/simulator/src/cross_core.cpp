// Synchronisation between cores: flags with three reaches, meetings of all cores, flags in a workspace.
#include "ascendc/sync.h"
#include "launch_state.h"
#include "sim/cost.h"

namespace sim {
namespace {

constexpr size_t kFlagCounterLimit = 15;

void deliver(Core& to, int flag, const Clock& clock, Site site) {
    if (to.cross_flags[flag].size() >= kFlagCounterLimit)
        fail(Fault::Protocol, site, "CrossCoreSetFlag", "flag " + std::to_string(flag) + " was set 16 times without a wait");
    to.cross_flags[flag].push_back(clock);
}

// Answers `receivers` once every one of `group` has set the flag.
void meet(const std::vector<Core*>& group, const std::vector<Core*>& receivers, int flag, Site site) {
    for (Core* each : group)
        if (each->cross_pending[flag].empty()) return;
    Clock agreed;
    for (Core* each : group) {
        agreed.join(each->cross_pending[flag].front());
        each->cross_pending[flag].pop_front();
    }
    agreed.time += kCrossCoreCycles;
    for (Core* each : receivers) deliver(*each, flag, agreed, site);
}

std::vector<Core*> select(const Launch& launch, int block, int kind) {  // block -1: all; kind -1: both
    std::vector<Core*> result;
    for (Core* each : launch.cores)
        if ((block < 0 || each->block == block) && (kind < 0 || int(each->kind) == kind)) result.push_back(each);
    return result;
}

Clock arrive(Core& core) {
    core.barrier_all();
    return core.exported(core.finished_all());
}

void take_over(Core& core, const Clock& agreed) { core.clock[int(Pipe::S)].join(agreed); }

void meet_all(std::pair<int, const void*> key, uint32_t expected, bool everyone, Site site) {
    Core& self = core();
    Launch& launch = *self.launch;
    Launch::Meeting& meeting = launch.meetings[key];
    const uint64_t round = meeting.round;
    if (meeting.arrived == 0) meeting.clock = {};
    meeting.clock.join(arrive(self));
    if (++meeting.arrived == expected) {
        meeting.arrived = 0;
        ++meeting.round;
        meeting.agreed = meeting.clock.world;
        meeting.time = meeting.clock.time + kCrossCoreCycles;
        if (everyone) ++launch.barrier_generation;
    } else {
        wait_until([&] { return meeting.round > round; }, site, "the other cores in SyncAll");
    }
    Clock agreed;
    agreed.world = meeting.agreed;
    agreed.time = meeting.time;
    take_over(self, agreed);
    if (everyone) self.barrier_generation = launch.barrier_generation;
}

}  // namespace

// The chip's scheduler of flags between cores does not run for the two plain types.
static void demand_mixed_type(const Launch& launch, Site site, const char* call) {
    const std::string type = launch.kind.text;
    if (type == "AIV" || type == "AIC")
        fail(Fault::Protocol, site, call,
             "kernels of type KERNEL_TYPE_" + type + "_ONLY have no synchronisation between cores; declare KERNEL_TYPE_MIX_" + type +
                 "_1_0 or a mixed type");
}

void cross_core_set(int mode, Pipe pipe, int flag, Site site) {
    Core& self = core();
    Launch& launch = *self.launch;
    demand_mixed_type(launch, site, "CrossCoreSetFlag");
    self.clock[int(Pipe::S)].time += kFlagCycles;
    self.cross_pending[flag].push_back(self.exported(self.finished(pipe)));
    if (mode == 0) {
        const auto group = select(launch, -1, int(self.kind));
        meet(group, group, flag, site);
    } else if (mode == 1) {
        const auto group = select(launch, self.block, int(CoreKind::AIV));
        meet(group, group, flag, site);
    } else {
        const auto from = select(launch, self.block, int(self.kind));
        const auto to = select(launch, self.block, int(self.kind == CoreKind::AIC ? CoreKind::AIV : CoreKind::AIC));
        if (to.empty()) fail(Fault::Protocol, site, "CrossCoreSetFlag", "mode 2 in a kernel that has one kind of core only");
        meet(from, to, flag, site);
    }
}

void cross_core_wait(int flag, Site site) {
    Core& self = core();
    auto& queue = self.cross_flags[flag];
    wait_until([&] { return !queue.empty(); }, site, "flag " + std::to_string(flag) + " of CrossCoreSetFlag");
    self.clock[int(Pipe::S)].time += kFlagCycles;
    take_over(self, queue.front());
    queue.pop_front();
}

void sync_all(bool vector_only, Site site) {
    Core& self = core();
    Launch& launch = *self.launch;
    demand_mixed_type(launch, site, "SyncAll");
    if (vector_only && self.kind == CoreKind::AIC) return;
    const uint32_t expected = uint32_t(select(launch, -1, vector_only ? int(CoreKind::AIV) : -1).size());
    const Platform& chip = platform();
    if (launch.blocks > (launch.kind.aic ? chip.cube_core_cnt : chip.vector_core_cnt))
        fail(Fault::Deadlock, site, "SyncAll", std::to_string(launch.blocks) + " blocks on a chip that runs fewer at once");
    meet_all({vector_only ? 0 : 1, nullptr}, expected, expected == launch.cores.size(), site);
}

void sync_some(const void* workspace, uint32_t cores, Site site) {
    meet_all({2, workspace}, cores, cores == core().launch->cores.size(), site);
}

void block_set(const void* workspace, int block, int event, Site site) {
    Core& self = core();
    auto& flags = self.launch->block_flags;
    const auto key = std::make_tuple(workspace, block, event);
    if (flags.count(key)) fail(Fault::Protocol, site, "IBSet", "set twice without IBWait");
    flags[key] = arrive(self);
}

void block_wait(const void* workspace, int block, int event, Site site) {
    Core& self = core();
    auto& flags = self.launch->block_flags;
    const auto key = std::make_tuple(workspace, block, event);
    wait_until([&] { return flags.count(key) != 0; }, site, "IBSet of block " + std::to_string(block));
    take_over(self, flags[key]);
    flags.erase(key);
}

}  // namespace sim

namespace AscendC {

int64_t GetBlockIdx() {
    const sim::Core& core = sim::core();
    if (core.kind == sim::CoreKind::AIC) return core.block;
    return core.block * core.launch->kind.aiv_per_block + core.sub_block;
}
int64_t GetBlockNum() { return sim::core().launch->blocks; }
int64_t GetSubBlockIdx() { return sim::core().sub_block; }
int64_t GetSubBlockNum() { return GetTaskRation(); }
int64_t GetTaskRation() {
    const sim::Core& core = sim::core();
    return core.kind == sim::CoreKind::AIC ? 1 : core.launch->kind.aiv_per_block;
}
int64_t GetSystemCycle() { return int64_t(sim::core().clock[int(sim::Pipe::S)].time); }

}  // namespace AscendC
