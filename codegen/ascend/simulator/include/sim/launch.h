// Running kernels: device memory, launches, and what each launch did.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "sim/core.h"

namespace sim {

// Global memory that kernels may touch. Everything outside is out of bounds.
struct Allocation {
    uint8_t* base = nullptr;
    uint64_t bytes = 0;
    std::string name;
    bool owned = false;
    Shadow shadow;
    bool touched = false;  // by the running launch
};

// 512-byte aligned device memory, uninitialised. Throws std::bad_alloc.
void* gm_allocate(uint64_t bytes, const std::string& name = "");
void gm_free(void* base);
// Host memory that plays device memory; its bytes count as written unless `initialised` is false.
void gm_register(void* base, uint64_t bytes, const std::string& name, bool initialised = true);
void gm_unregister(void* base);
// The host, or a vendor operator, wrote these bytes.
void gm_written(const void* address, uint64_t bytes);
void gm_name(const void* base, const std::string& name);
// The allocation that holds `address`, or nullptr.
Allocation* gm_find(const void* address);

struct CoreReport {
    CoreKind kind;
    int index;
    double cycles = 0;
    std::array<PipeStatistics, kPipes> pipes;
};

struct Report {
    std::string kernel;
    std::string kind;  // "AIV", "AIC", "MIX 1:2", ...
    uint32_t blocks = 0;
    std::vector<CoreReport> cores;
    std::array<PipeStatistics, kPipes> total;
    uint64_t gm_read_bytes = 0, gm_written_bytes = 0;
    double cycles = 0;    // of the slowest core, with as many waves as the chip's cores need
    double seconds = 0;   // estimated; see include/sim/cost.h for the assumptions
    std::string json() const;
};

// Every launch since the last clear, in order.
const std::vector<Report>& reports();
// A vendor operator among the launches: no cores, no pipes, only its estimated time.
void add_operator_report(const std::string& name, double seconds);
void clear_reports();
std::string reports_json();

// Kernel kinds, with the vendor's numbers (KernelMetaType). `kMixDefault` asks for the kernel's own declaration.
struct KernelKind {
    bool aic = false;
    int aiv_per_block = 1;
    const char* text = "AIV";
};
KernelKind kernel_kind(int meta_type);

// What KERNEL_TASK_TYPE_DEFAULT leaves in the binary: the function that stands in, and the type.
struct KindEntry {
    const char* function;
    int meta_type;
};
int declared_kind(const std::string& kernel);
void declare_kinds(const KindEntry* begin, const KindEntry* end);

Report launch_body(const std::string& name, uint32_t blocks, KernelKind kind, const std::function<void()>& body);

}  // namespace sim

extern "C" {
// The section's bounds; absent when no kernel of this binary declares a type.
extern const sim::KindEntry __start_pangu_sim_kinds[] __attribute__((weak, visibility("hidden")));
extern const sim::KindEntry __stop_pangu_sim_kinds[] __attribute__((weak, visibility("hidden")));
}

namespace sim {

// Runs `kernel(args...)` on `blocks` blocks, as `kernel<<<blocks, nullptr, stream>>>(args...)` would, and returns when every
// core is done. The kind of cores is what KERNEL_TASK_TYPE_DEFAULT in the kernel says, else vector cores.
// Throws SimError.
template <typename... Params, typename... Args>
Report launch(const std::string& name, uint32_t blocks, void (*kernel)(Params...), Args&&... args) {
    declare_kinds(__start_pangu_sim_kinds, __stop_pangu_sim_kinds);
    return launch_body(name, blocks, kernel_kind(declared_kind(name)), [&] { kernel(static_cast<Params>(args)...); });
}

}  // namespace sim

// The vendor's CPU twin runs a kernel so; here it is a launch.
#define ICPU_RUN_KF(kernel, blocks, ...) ::sim::launch(#kernel, blocks, kernel, ##__VA_ARGS__)
