// The simulator from other languages: plain C, status codes, no exceptions across the boundary. Single-threaded.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Sets the chip from "key=value" lines (the keys of the platform files; empty: Ascend 910B2) and the options for launches
// from now on. auto_sync: the compiler inserts waits (sim::Options). Returns 0, or 1 with a message.
int pangu_sim_configure(const char* platform, int auto_sync, int check_uninitialised);

// Host memory that plays device memory. `initialised` 0: reading it before something writes it is a fault.
int pangu_sim_gm_register(void* base, uint64_t bytes, const char* name, int initialised);
int pangu_sim_gm_unregister(void* base);

// Runs kernel(args...) on `blocks` blocks. Arguments are pointers and integers of up to 64 bits, at most 16.
// Returns 0; 1 + the number of the fault (sim::Fault); or 100 for any other failure. pangu_sim_error() has the message.
int pangu_sim_launch(const char* name, void* kernel, uint32_t blocks, const uint64_t* args, uint32_t count);

const char* pangu_sim_error(void);

// One JSON object per launch since the last clear, in an array. Valid until the next call.
const char* pangu_sim_reports(void);
void pangu_sim_clear_reports(void);

#ifdef __cplusplus
}
#endif
