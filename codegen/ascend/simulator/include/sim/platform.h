// The chip that is simulated: the fields of the toolkit's platform description files.
#pragma once

#include <cstdint>
#include <string>

namespace sim {

// Sizes in bytes, rates in bytes per cycle and core, frequency in MHz. The defaults are Ascend 910B2's.
struct Platform {
    std::string name = "Ascend910B2";
    uint32_t cube_core_cnt = 24;
    uint32_t vector_core_cnt = 48;
    uint32_t cube_freq = 1800;
    uint32_t ub_size = 196608;
    uint32_t l1_size = 524288;
    uint32_t l0_a_size = 65536;
    uint32_t l0_b_size = 65536;
    uint32_t l0_c_size = 131072;
    uint32_t bt_size = 1024;
    uint32_t fb0_size = 2048;
    uint32_t ddr_read_rate = 32;
    uint32_t ddr_write_rate = 32;
    double hbm_bytes_per_second = 1.6e12;

    // Reads "key=value" lines, the keys being the fields above; keys that are not fields are skipped.
    // Throws std::invalid_argument on a value that is not a number.
    static Platform parse(const std::string& text);
};

struct Options {
    // The vendor's compiler can insert the waits between V and V, and between S and V, MTE2 or MTE3 of a vector core.
    // Off by default: a kernel that passes is right whether or not that option of the compiler is on.
    bool auto_sync = false;
    bool check_uninitialised = true;
};

// The configuration of launches from now on. The first use reads the environment, once: PANGU_SIM_PLATFORM names a file
// for Platform::parse, PANGU_SIM_AUTO_SYNC=1 sets auto_sync.
void configure(const Platform& platform, const Options& options = {});
const Platform& platform();
const Options& options();

}  // namespace sim
