// pangu_device.h: an Ascend device as the host program sees it: streams, scratch, memory, and transfers.
#pragma once

#include "pangu_abi.h"

#include "acl/acl.h"

#include <array>
#include <cstdint>
#include <initializer_list>

namespace pangu_ascend {

using Memory = void *; // device memory

inline Memory at(Memory memory, int64_t nbytes) { return static_cast<uint8_t *>(memory) + nbytes; }
inline uint32_t u32(int64_t x) { return static_cast<uint32_t>(x); }

// What a host thread works with. Everything that it starts runs on one stream, in order.
struct Device {
  aclrtStream stream = nullptr;
  uint32_t vector_cores = 0;
  uint32_t cube_cores = 0; // AI cores, which have vector cores beside their cube core
  Memory scratch(uint64_t nbytes); // for the next call alone: calls run one after the other

private:
  Memory scratch_ = nullptr;
  uint64_t scratch_bytes_ = 0;
};

// The calling thread's; made at its first use. Throws pangu_core::Error where there is no device.
Device &thread_device();

// The device table of the runtime core.
extern const pangu_device kDevice;

// Throws pangu_core::Error with the driver's own words.
void check(int64_t status, const char *what);
void check_launch(uint32_t status, const char *kernel);

// [rows, width] float32: cos, then sin, of position * theta^(-2i/width), angles in float64. Made once for each width and theta.
Memory rotary_table(Device &d, int64_t width, double theta, int64_t rows);

// Program inputs: int64 indices as int32, float32 as it is or as bf16.
void upload_i32(Device &d, Memory to, const void *from, int64_t n);
void upload_f32(Device &d, Memory to, const void *from, int64_t n);
void upload_bf16(Device &d, Memory to, const void *from, int64_t n);
// Program results: they wait for everything before them on the stream.
void download_bf16(Device &d, void *to, Memory from, int64_t n);
void download_f32(Device &d, void *to, Memory from, int64_t n);
void download_i32(Device &d, void *to, Memory from, int64_t n);
// mtp_verify's verdict, from the drafts and [accepted, next token].
void read_accepted(Device &d, Memory drafts, Memory result, int64_t count, int64_t start, void *out);
void read_tokens(Device &d, Memory drafts, Memory result, int64_t count, int64_t start, void *out);
void read_length(Device &d, Memory drafts, Memory result, int64_t count, int64_t start, void *out);

} // namespace pangu_ascend
