// What `aclrtlaunch_NAME.h`, which the vendor's build generates for a kernel, is in a simulated build:
//
//     #include "sim/aclrtlaunch.h"
//     extern "C" void NAME(GM_ADDR x, GM_ADDR y);
//     SIM_ACLRT_LAUNCH(NAME)
//
// after which ACLRT_LAUNCH_KERNEL(NAME)(blocks, stream, x, y) runs the kernel, as on the device.
#pragma once

#include "acl/acl.h"
#include "sim/launch.h"

#ifndef ACLRT_LAUNCH_KERNEL
#define ACLRT_LAUNCH_KERNEL(kernel_func) aclrtlaunch_##kernel_func
#endif

namespace sim {

// Remembers a failure for aclGetRecentErrMsg and for the next synchronisation; returns the runtime's code for it.
uint32_t record_failure(const char* what);
// Device time, in seconds, that launches and operators have taken so far by the simulator's estimate.
double device_seconds();
void spend(double seconds);

template <typename... Params, typename... Args>
uint32_t aclrt_launch(const char* name, uint32_t blocks, void (*kernel)(Params...), Args... args) {
    try {
        spend(launch(name, blocks, kernel, args...).seconds);
        return 0;
    } catch (const std::exception& error) {
        return record_failure(error.what());
    }
}

}  // namespace sim

#define SIM_ACLRT_LAUNCH(name)                                                                    \
    template <typename... Args>                                                                   \
    uint32_t aclrtlaunch_##name(uint32_t blockDim, aclrtStream, Args... args) {                   \
        return ::sim::aclrt_launch(#name, blockDim, &::name, args...);                            \
    }
