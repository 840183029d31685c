// Launches: one fibre per core, run in turn. A core runs until it ends or waits for another core, so the order is always
// the same, and kernels without synchronisation between cores run core after core.
#include "sim/launch.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <exception>

#include "launch_state.h"
#include "sim/cost.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace sim {
namespace {

constexpr size_t kStackBytes = 1 << 20;

struct Fibre {
    Core* core = nullptr;
    ucontext_t context;
    void* stack = nullptr;
    bool done = false;
    bool killed = false;
    std::function<bool()> ready;
    Site site;
    std::string waits_for;
    void* fake_stack = nullptr;
};

struct Abandoned {};  // unwinds the fibres that are left when another one failed

struct Scheduler {
    Launch* launch = nullptr;
    const std::function<void()>* body = nullptr;
    Fibre* current = nullptr;
    ucontext_t main;
    void* main_fake_stack = nullptr;
    const void* main_stack = nullptr;
    size_t main_stack_size = 0;
    std::exception_ptr error;
};

Scheduler scheduler;
std::vector<void*> free_stacks;
std::vector<std::unique_ptr<Core>> core_pool[2];
std::vector<Report> all_reports;

void* take_stack() {
    if (!free_stacks.empty()) {
        void* stack = free_stacks.back();
        free_stacks.pop_back();
        return stack;
    }
    void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) throw std::bad_alloc();
    return stack;
}

void switch_to_main(Fibre& fibre, bool ends) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(ends ? nullptr : &fibre.fake_stack, scheduler.main_stack, scheduler.main_stack_size);
#endif
    if (ends) setcontext(&scheduler.main);
    swapcontext(&fibre.context, &scheduler.main);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fibre.fake_stack, &scheduler.main_stack, &scheduler.main_stack_size);
#endif
}

void run_fibre() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.main_stack, &scheduler.main_stack_size);
#endif
    Fibre& fibre = *scheduler.current;
    try {
        (*scheduler.body)();
        fibre.core->end_of_kernel();
    } catch (const Abandoned&) {
    } catch (...) {
        if (!scheduler.error) scheduler.error = std::current_exception();
    }
    fibre.done = true;
    switch_to_main(fibre, true);
}

void resume(Fibre& fibre) {
    scheduler.current = &fibre;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler.main_fake_stack, fibre.stack, kStackBytes);
#endif
    swapcontext(&scheduler.main, &fibre.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler.main_fake_stack, nullptr, nullptr);
#endif
    scheduler.current = nullptr;
}

void start(Fibre& fibre) {
    fibre.stack = take_stack();
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack;
    fibre.context.uc_stack.ss_size = kStackBytes;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, run_fibre, 0);
}

[[noreturn]] void deadlock(const std::vector<Fibre>& fibres) {
    std::string text;
    for (const Fibre& fibre : fibres) {
        if (fibre.done) continue;
        if (text.size() > 600) {
            text += "; ...";
            break;
        }
        text += (text.empty() ? "" : "; ") + fibre.core->name() + " waits at " + fibre.site.text() + " for " + fibre.waits_for;
    }
    throw SimError(Fault::Deadlock, text + ": deadlock: no core can go on");
}

// Lets the unfinished fibres unwind, so that what they hold is released.
void abandon(std::vector<Fibre>& fibres) {
    for (Fibre& fibre : fibres) {
        if (fibre.done || !fibre.stack) continue;
        fibre.killed = true;
        resume(fibre);
    }
}

void run_all(std::vector<Fibre>& fibres) {
    size_t left = fibres.size();
    while (left > 0 && !scheduler.error) {
        bool progress = false;
        for (Fibre& fibre : fibres) {
            if (fibre.done || (fibre.ready && !fibre.ready())) continue;
            if (!fibre.stack) start(fibre);
            fibre.ready = nullptr;
            resume(fibre);
            progress = true;
            if (fibre.done) {
                --left;
                free_stacks.push_back(fibre.stack);
                fibre.stack = nullptr;
            }
            if (scheduler.error) break;
        }
        if (!progress && left > 0) {
            try {
                deadlock(fibres);
            } catch (...) {
                scheduler.error = std::current_exception();
            }
        }
    }
}

Core* take_core(CoreKind kind, size_t nth) {
    auto& pool = core_pool[int(kind)];
    while (pool.size() <= nth) pool.push_back(std::make_unique<Core>(kind, 0, 0, 0));
    return pool[nth].get();
}

void build_cores(Launch& launch) {
    size_t cubes = 0, vectors = 0;
    const auto add = [&](CoreKind kind, int block, int sub_block) {
        Core* core = take_core(kind, kind == CoreKind::AIC ? cubes++ : vectors++);
        core->reset(&launch, int(launch.cores.size()), block, sub_block);
        launch.cores.push_back(core);
    };
    for (uint32_t block = 0; block < launch.blocks; ++block) {
        if (launch.kind.aic) add(CoreKind::AIC, int(block), 0);
        for (int sub = 0; sub < launch.kind.aiv_per_block; ++sub) add(CoreKind::AIV, int(block), sub);
    }
}

// A flag between cores that nobody waits for would meet the next kernel.
std::exception_ptr leftover_flags(const Launch& launch) {
    for (const Core* core : launch.cores)
        for (size_t id = 0; id < core->cross_flags.size(); ++id)
            if (!core->cross_flags[id].empty() || !core->cross_pending[id].empty())
                return std::make_exception_ptr(SimError(
                    Fault::Protocol, core->name() + ": CrossCoreSetFlag: misuse: flag " + std::to_string(id) +
                                         (core->cross_flags[id].empty() ? " was not set by all cores of its group"
                                                                        : " reached this core and it never waited")));
    return nullptr;
}

Report make_report(const Launch& launch) {
    Report report;
    report.kernel = launch.kernel;
    report.kind = launch.kind.text;
    report.blocks = launch.blocks;
    report.gm_read_bytes = launch.gm_read;
    report.gm_written_bytes = launch.gm_written;
    for (Core* core : launch.cores) {
        CoreReport each{core->kind, core->index, core->finished_all().time, core->statistics};
        report.cycles = std::max(report.cycles, each.cycles);
        for (int pipe = 0; pipe < kPipes; ++pipe) {
            report.total[pipe].instructions += each.pipes[pipe].instructions;
            report.total[pipe].bytes += each.pipes[pipe].bytes;
            report.total[pipe].busy_cycles += each.pipes[pipe].busy_cycles;
        }
        report.cores.push_back(each);
    }
    const Platform& chip = platform();
    const double at_once = launch.kind.aic ? chip.cube_core_cnt : chip.vector_core_cnt;
    report.cycles *= std::ceil(launch.blocks / at_once);
    const double traffic = double(launch.gm_read + launch.gm_written) / chip.hbm_bytes_per_second;
    report.seconds = kLaunchSeconds + std::max(report.cycles / (chip.cube_freq * 1e6), traffic);
    return report;
}

}  // namespace

Core& core() {
    if (!scheduler.current) throw std::logic_error("an AscendC call outside of a kernel launch");
    return *scheduler.current->core;
}

void wait_until(const std::function<bool()>& ready, Site site, const std::string& what) {
    Fibre& fibre = *scheduler.current;
    while (!ready()) {
        fibre.ready = ready;
        fibre.site = site;
        fibre.waits_for = what;
        switch_to_main(fibre, false);
        if (fibre.killed) throw Abandoned{};
    }
}

std::recursive_mutex& device_lock() {
    static std::recursive_mutex lock;
    return lock;
}

Report launch_body(const std::string& name, uint32_t blocks, KernelKind kind, const std::function<void()>& body) {
    const std::lock_guard guard(device_lock());
    if (scheduler.launch) throw std::logic_error("a launch inside a kernel");
    if (blocks == 0) throw SimError(Fault::Protocol, "kernel '" + name + "': launched with no blocks");
    Launch launch;
    launch.kernel = name;
    launch.kind = kind;
    launch.blocks = blocks;
    build_cores(launch);
    std::vector<Fibre> fibres(launch.cores.size());
    for (size_t i = 0; i < fibres.size(); ++i) fibres[i].core = launch.cores[i];
    scheduler.launch = &launch;
    scheduler.body = &body;
    scheduler.error = nullptr;
    run_all(fibres);
    abandon(fibres);
    if (!scheduler.error) scheduler.error = leftover_flags(launch);
    for (Fibre& fibre : fibres)
        if (fibre.stack) free_stacks.push_back(fibre.stack);
    for (Allocation* allocation : launch.touched) {
        allocation->touched = false;
        allocation->shadow.forget_accesses();
    }
    scheduler.launch = nullptr;
    if (scheduler.error) std::rethrow_exception(std::exchange(scheduler.error, nullptr));
    all_reports.push_back(make_report(launch));
    return all_reports.back();
}

const std::vector<Report>& reports() { return all_reports; }
void clear_reports() { all_reports.clear(); }

void add_operator_report(const std::string& name, double seconds) {
    Report report;
    report.kernel = name;
    report.kind = "vendor";
    report.seconds = seconds;
    all_reports.push_back(report);
}

}  // namespace sim
