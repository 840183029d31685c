// Timing loops of benchmarks/cpu_kernels.py: programs of the generated library, and a plain read of memory.
#include "pangu_abi.h"
#include "pool.h"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <vector>

namespace {

// Wall time, or the processor time of all threads (for one thread on a machine that others use too).
double now(bool processor) {
  timespec t{};
  clock_gettime(processor ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Read {
  const float *data;
  float sink[64 * 16];
};

void read_range(void *arg, int64_t begin, int64_t end, int32_t worker) {
  Read &r = *static_cast<Read *>(arg);
  float lanes[64] = {};
  for (int64_t i = begin * 64; i < end * 64; i += 64)
    for (int l = 0; l < 64; ++l) lanes[l] += r.data[i + l];
  for (int l = 0; l < 64; ++l) r.sink[worker % 64 * 16] += lanes[l];
}

} // namespace

// Mean seconds of a run; the copies of the operands take turns.
extern "C" __attribute__((visibility("default"))) double bench_run(int program, void *const *executions, int copies, int count, int threads, int processor) {
  pangu_pool pool(threads);
  std::vector<pangu_exec> runs(static_cast<size_t>(copies));
  for (int i = 0; i < copies; ++i) {
    std::memcpy(&runs[i], executions[i], sizeof(pangu_exec));
    runs[i].pool = &pool;
    pangu_generated_model.programs[program].run(&runs[i]);
  }
  const double begin = now(processor != 0);
  for (int i = 0; i < count; ++i) pangu_generated_model.programs[program].run(&runs[i % copies]);
  return (now(processor != 0) - begin) / count;
}

// Mean seconds of summing nbytes; a large buffer is walked through so that nothing is in the cache.
extern "C" __attribute__((visibility("default"))) double bench_read(int64_t nbytes, int count, int threads, int processor) {
  static std::vector<float> buffer(int64_t{512} << 18, 1.0f);
  pangu_pool pool(threads);
  Read r{};
  const int64_t blocks = std::max<int64_t>(1, std::min<int64_t>(nbytes, int64_t{512} << 20) / 256), total = static_cast<int64_t>(buffer.size()) / 64;
  int64_t at = 0;
  const double begin = now(processor != 0);
  for (int i = 0; i < count; ++i) {
    if (at + blocks > total) at = 0;
    r.data = buffer.data() + at * 64;
    at += blocks;
    pangu_parallel_for(&pool, blocks, 256, read_range, &r);
  }
  return (now(processor != 0) - begin) / count;
}
