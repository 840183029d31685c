#include "pangu_device.h"

#include "error.h"

#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

using pangu_core::Error;

namespace pangu_ascend {

namespace {

constexpr int32_t kDeviceId = 0; // of those that ASCEND_RT_VISIBLE_DEVICES leaves

void start_driver() {
  static std::once_flag once;
  std::call_once(once, [] {
    const aclError status = aclInit(nullptr);
    if (status != ACL_SUCCESS && status != ACL_ERROR_REPEAT_INITIALIZE) check(status, "aclInit"); // the application may have
    check(aclrtSetDevice(kDeviceId), "aclrtSetDevice");
  });
}

uint32_t capability(aclDeviceInfo what, const char *name) {
  int64_t value = 0;
  check(aclGetDeviceCapability(kDeviceId, what, &value), name);
  if (value <= 0) throw Error(PANGU_INTERNAL, std::string(name) + ": the driver reports no cores");
  return static_cast<uint32_t>(value);
}

void synchronise(Device &d) { check(aclrtSynchronizeStream(d.stream), "aclrtSynchronizeStream"); }

template <typename T> std::vector<T> fetch(Device &d, Memory from, int64_t n) {
  std::vector<T> values(static_cast<size_t>(n));
  synchronise(d);
  const size_t nbytes = values.size() * sizeof(T);
  if (nbytes > 0) check(aclrtMemcpy(values.data(), nbytes, from, nbytes, ACL_MEMCPY_DEVICE_TO_HOST), "aclrtMemcpy");
  return values;
}

template <typename T> void send(Memory to, const std::vector<T> &values) {
  const size_t nbytes = values.size() * sizeof(T);
  if (nbytes > 0) check(aclrtMemcpy(to, nbytes, values.data(), nbytes, ACL_MEMCPY_HOST_TO_DEVICE), "aclrtMemcpy");
}

// Nearest bf16, ties to even.
uint16_t bf16_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float wide(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

Memory allocate(int64_t nbytes) {
  thread_device();
  Memory memory = nullptr;
  const aclError status = aclrtMalloc(&memory, static_cast<size_t>(nbytes), ACL_MEM_MALLOC_HUGE_FIRST);
  if (status != ACL_SUCCESS)
    throw Error(PANGU_NO_MEMORY, "the device has no memory for " + std::to_string(nbytes) + " bytes; open the session with a smaller max_context");
  return memory;
}

void release(Memory memory) {
  if (memory != nullptr) (void)aclrtFree(memory);
}

void upload(Memory to, const void *host, int64_t nbytes) {
  thread_device();
  check(aclrtMemcpy(to, static_cast<size_t>(nbytes), host, static_cast<size_t>(nbytes), ACL_MEMCPY_HOST_TO_DEVICE), "aclrtMemcpy");
}

void download(void *host, const void *from, int64_t nbytes) {
  synchronise(thread_device());
  check(aclrtMemcpy(host, static_cast<size_t>(nbytes), from, static_cast<size_t>(nbytes), ACL_MEMCPY_DEVICE_TO_HOST), "aclrtMemcpy");
}

void clear(Memory memory, int64_t nbytes) {
  synchronise(thread_device());
  check(aclrtMemset(memory, static_cast<size_t>(nbytes), 0, static_cast<size_t>(nbytes)), "aclrtMemset");
}

void open() { thread_device(); }

} // namespace

const pangu_device kDevice = {open, allocate, release, upload, download, clear};

void check(int64_t status, const char *what) {
  if (status == 0) return;
  const char *words = aclGetRecentErrMsg();
  throw Error(PANGU_INTERNAL, std::string(what) + " failed with " + std::to_string(status) + (words != nullptr ? std::string(": ") + words : ""));
}

void check_launch(uint32_t status, const char *kernel) { check(status, kernel); }

Device &thread_device() {
  thread_local Device device;
  if (device.stream != nullptr) return device;
  start_driver();
  check(aclrtSetDevice(kDeviceId), "aclrtSetDevice");
  device.cube_cores = capability(ACL_DEVICE_INFO_AI_CORE_NUM, "aclGetDeviceCapability");
  device.vector_cores = capability(ACL_DEVICE_INFO_VECTOR_CORE_NUM, "aclGetDeviceCapability");
  check(aclrtCreateStream(&device.stream), "aclrtCreateStream");
  return device;
}

Memory Device::scratch(uint64_t nbytes) {
  if (nbytes <= scratch_bytes_) return scratch_;
  synchronise(*this); // what still runs may be using it
  release(scratch_);
  scratch_ = nullptr, scratch_bytes_ = 0;
  const uint64_t rounded = (nbytes + (1u << 20) - 1) >> 20 << 20;
  scratch_ = allocate(static_cast<int64_t>(rounded));
  scratch_bytes_ = rounded;
  return scratch_;
}

Memory rotary_table(Device &, int64_t width, double theta, int64_t rows) {
  static std::mutex lock;
  static std::map<std::tuple<int64_t, double, int64_t>, Memory> made;
  const std::lock_guard<std::mutex> held(lock);
  Memory &table = made[{width, theta, rows}];
  if (table != nullptr) return table;
  std::vector<float> values(static_cast<size_t>(rows * width));
  for (int64_t half = 0; half < width / 2; ++half) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(half) / static_cast<double>(width));
    for (int64_t row = 0; row < rows; ++row) {
      values[static_cast<size_t>(row * width + half)] = static_cast<float>(std::cos(static_cast<double>(row) * frequency));
      values[static_cast<size_t>(row * width + width / 2 + half)] = static_cast<float>(std::sin(static_cast<double>(row) * frequency));
    }
  }
  Memory fresh = allocate(static_cast<int64_t>(values.size() * sizeof(float)));
  send(fresh, values);
  return table = fresh;
}

void upload_i32(Device &, Memory to, const void *from, int64_t n) {
  const int64_t *source = static_cast<const int64_t *>(from);
  send(to, std::vector<int32_t>(source, source + n));
}

void upload_f32(Device &, Memory to, const void *from, int64_t n) {
  const float *source = static_cast<const float *>(from);
  send(to, std::vector<float>(source, source + n));
}

void upload_bf16(Device &, Memory to, const void *from, int64_t n) {
  const float *source = static_cast<const float *>(from);
  std::vector<uint16_t> bits(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) bits[static_cast<size_t>(i)] = bf16_bits(source[i]);
  send(to, bits);
}

void download_bf16(Device &d, void *to, Memory from, int64_t n) {
  const std::vector<uint16_t> bits = fetch<uint16_t>(d, from, n);
  for (int64_t i = 0; i < n; ++i) static_cast<float *>(to)[i] = wide(bits[static_cast<size_t>(i)]);
}

void download_f32(Device &d, void *to, Memory from, int64_t n) {
  const std::vector<float> values = fetch<float>(d, from, n);
  if (n > 0) std::memcpy(to, values.data(), values.size() * sizeof(float));
}

void download_i32(Device &d, void *to, Memory from, int64_t n) {
  const std::vector<int32_t> values = fetch<int32_t>(d, from, n);
  for (int64_t i = 0; i < n; ++i) static_cast<int64_t *>(to)[i] = values[static_cast<size_t>(i)];
}

void read_accepted(Device &d, Memory, Memory result, int64_t, int64_t, void *out) {
  *static_cast<int64_t *>(out) = fetch<int32_t>(d, result, 2)[0];
}

void read_tokens(Device &d, Memory drafts, Memory result, int64_t count, int64_t, void *out) {
  const std::vector<int32_t> verdict = fetch<int32_t>(d, result, 2), guesses = fetch<int32_t>(d, drafts, count);
  int64_t *tokens = static_cast<int64_t *>(out);
  for (int64_t i = 0; i <= count; ++i) tokens[i] = i < verdict[0] ? guesses[static_cast<size_t>(i)] : i == verdict[0] ? verdict[1] : -1;
}

void read_length(Device &d, Memory, Memory result, int64_t, int64_t start, void *out) {
  *static_cast<int64_t *>(out) = start + fetch<int32_t>(d, result, 2)[0] + 1;
}

} // namespace pangu_ascend
