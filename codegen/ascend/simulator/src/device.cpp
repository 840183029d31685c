// Device memory, the configuration, the kernels' declared kinds, and reports as JSON.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>

#include "launch_state.h"

namespace sim {
namespace {

std::map<const uint8_t*, std::unique_ptr<Allocation>>& allocations() {
    static std::map<const uint8_t*, std::unique_ptr<Allocation>> all;
    return all;
}

struct Configuration {
    Platform platform;
    Options options;

    Configuration() {
        if (const char* path = std::getenv("PANGU_SIM_PLATFORM")) {
            std::ifstream file(path);
            if (!file) throw std::invalid_argument(std::string("PANGU_SIM_PLATFORM: cannot read ") + path);
            std::stringstream text;
            text << file.rdbuf();
            platform = Platform::parse(text.str());
        }
        const char* auto_sync = std::getenv("PANGU_SIM_AUTO_SYNC");
        options.auto_sync = auto_sync && auto_sync[0] == '1';
    }
};

Configuration& configuration() {
    static Configuration current;
    return current;
}

Allocation& add(void* base, uint64_t bytes, const std::string& name, bool owned, bool initialised) {
    auto allocation = std::make_unique<Allocation>();
    allocation->base = static_cast<uint8_t*>(base);
    allocation->bytes = bytes;
    allocation->name = name;
    allocation->owned = owned;
    allocation->shadow.resize(bytes);
    if (initialised) allocation->shadow.set_initialised(0, bytes, true);
    return *(allocations()[allocation->base] = std::move(allocation));
}

std::map<std::string, int>& kinds() {
    static std::map<std::string, int> all;
    return all;
}

}  // namespace

Platform Platform::parse(const std::string& text) {
    Platform result;
    const std::map<std::string, uint32_t*> fields = {
        {"cube_core_cnt", &result.cube_core_cnt}, {"vector_core_cnt", &result.vector_core_cnt}, {"cube_freq", &result.cube_freq},
        {"ub_size", &result.ub_size}, {"l1_size", &result.l1_size}, {"l0_a_size", &result.l0_a_size},
        {"l0_b_size", &result.l0_b_size}, {"l0_c_size", &result.l0_c_size}, {"bt_size", &result.bt_size},
        {"fb0_size", &result.fb0_size}, {"ddr_read_rate", &result.ddr_read_rate}, {"ddr_write_rate", &result.ddr_write_rate}};
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        const size_t equals = line.find('=');
        if (equals == std::string::npos) continue;
        const std::string key = line.substr(0, equals), value = line.substr(equals + 1);
        if (key == "name") result.name = value;
        if (key == "hbm_bytes_per_second") result.hbm_bytes_per_second = std::stod(value);
        const auto field = fields.find(key);
        if (field != fields.end()) *field->second = uint32_t(std::stoul(value));
    }
    return result;
}

void configure(const Platform& platform, const Options& options) {
    configuration().platform = platform;
    configuration().options = options;
}

const Platform& platform() { return configuration().platform; }
const Options& options() { return configuration().options; }

void* gm_allocate(uint64_t bytes, const std::string& name) {
    const std::lock_guard guard(device_lock());
    void* base = nullptr;
    const uint64_t rounded = (bytes + 511) / 512 * 512;
    if (posix_memalign(&base, 512, rounded ? rounded : 512) != 0) throw std::bad_alloc();
    add(base, bytes, name, true, false);
    return base;
}

void gm_free(void* base) {
    const std::lock_guard guard(device_lock());
    const auto found = allocations().find(static_cast<uint8_t*>(base));
    if (found == allocations().end()) throw std::invalid_argument("gm_free: not the start of a device allocation");
    if (found->second->owned) std::free(base);
    allocations().erase(found);
}

void gm_register(void* base, uint64_t bytes, const std::string& name, bool initialised) {
    const std::lock_guard guard(device_lock());
    add(base, bytes, name, false, initialised);
}

void gm_unregister(void* base) { gm_free(base); }

Allocation* gm_find(const void* address) {
    const std::lock_guard guard(device_lock());
    auto after = allocations().upper_bound(static_cast<const uint8_t*>(address));
    if (after == allocations().begin()) return nullptr;
    Allocation& candidate = *std::prev(after)->second;
    return static_cast<const uint8_t*>(address) < candidate.base + candidate.bytes ? &candidate : nullptr;
}

void gm_written(const void* address, uint64_t bytes) {
    Allocation* allocation = gm_find(address);
    if (!allocation) return;
    const uint64_t begin = uint64_t(static_cast<const uint8_t*>(address) - allocation->base);
    allocation->shadow.set_initialised(begin, std::min(begin + bytes, allocation->bytes), true);
}

void gm_name(const void* base, const std::string& name) {
    if (Allocation* allocation = gm_find(base)) allocation->name = name;
}

KernelKind kernel_kind(int meta_type) {
    switch (meta_type) {
        case 1: return {true, 0, "AIC"};
        case 3: return {true, 0, "MIX_AIC_1_0"};
        case 2: return {false, 1, "MIX_AIV_1_0"};
        case 4: return {true, 1, "MIX_AIC_1_1"};
        case 5: return {true, 2, "MIX_AIC_1_2"};
        default: return {false, 1, "AIV"};
    }
}

void declare_kinds(const KindEntry* begin, const KindEntry* end) {
    for (const KindEntry* entry = begin; entry < end; ++entry) kinds()[entry->function] = entry->meta_type;
}

int declared_kind(const std::string& kernel) {
    const auto found = kinds().find(kernel);
    return found == kinds().end() ? 0 : found->second;
}

std::string Report::json() const {
    char text[512];
    std::snprintf(text, sizeof text,
                  "{\"kernel\": \"%s\", \"kind\": \"%s\", \"blocks\": %u, \"cycles\": %.0f, \"seconds\": %.9f, "
                  "\"gm_read_bytes\": %llu, \"gm_written_bytes\": %llu, \"pipes\": {",
                  kernel.c_str(), kind.c_str(), blocks, cycles, seconds, static_cast<unsigned long long>(gm_read_bytes),
                  static_cast<unsigned long long>(gm_written_bytes));
    std::string result = text;
    for (int pipe = 0; pipe < kPipes; ++pipe) {
        std::snprintf(text, sizeof text, "%s\"%s\": {\"instructions\": %llu, \"bytes\": %llu, \"busy_cycles\": %.0f}",
                      pipe ? ", " : "", pipe_name(Pipe(pipe)), static_cast<unsigned long long>(total[pipe].instructions),
                      static_cast<unsigned long long>(total[pipe].bytes), total[pipe].busy_cycles);
        result += text;
    }
    return result + "}}";
}

std::string reports_json() {
    std::string result = "[";
    for (const Report& report : reports()) result += (result.size() > 1 ? ",\n " : "") + report.json();
    return result + "]";
}

}  // namespace sim
