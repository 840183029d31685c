// linear.cpp: speed of the matrix kernels; benchmarks/linear.py builds it, runs it and adds numpy's sgemm.
//
//   linear THREADS REPEATS TOKENS..    prints one JSON object a line
// For one token: bytes of weights a second, beside a plain read of the same bytes in the same loop. For more: GFLOP/s.
// Each number is the best of REPEATS, the kernel and the plain read taking turns.
#include "pangu_linear.h"
#include "pool.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace {

typedef uint64_t words __attribute__((vector_size(32), aligned(8)));

// Wall-clock time; with one thread its processor time, which other jobs disturb less.
bool processor_time = false;
double seconds() {
  timespec t;
  clock_gettime(processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

std::atomic<uint64_t> sink{0};

void plain_read(pangu_pool *pool, const uint8_t *data, int64_t bytes) {
  pangu::parallel(pool, bytes / 4096, 4096, [&](int64_t begin, int64_t end) {
    words sum[4] = {};
    for (const uint8_t *p = data + begin * 4096; p < data + end * 4096; p += 128)
      for (int i = 0; i < 4; ++i) {
        words v;
        std::memcpy(&v, p + 32 * i, 32);
        sum[i] ^= v;
      }
    const words all = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
    sink += all[0] ^ all[1] ^ all[2] ^ all[3];
  });
}

struct Format {
  int32_t code;
  const char *name;
};
const Format kFormats[] = {{PANGU_F32, "f32"}, {PANGU_BF16, "bf16"}, {PANGU_BF16C, "bf16c"}, {PANGU_Q8, "q8"}, {PANGU_Q8I, "q8i"}, {PANGU_Q4, "q4"}};

int64_t weight_bytes(int32_t format, int64_t O, int64_t I) {
  const int64_t rows = (O * pangu::weight_row_bytes(format, I) + 63) / 64 * 64;
  return rows + (pangu::is_int8(format) || format == PANGU_BF16C ? 4 * O : format == PANGU_Q4 ? 2 * O * pangu::weight_groups(I) : 0);
}

void fill(uint8_t *data, int32_t format, int64_t O, int64_t I) {
  const int64_t bytes = weight_bytes(format, O, I);
  uint64_t seed = 1;
  for (int64_t i = 0; i < bytes; ++i) data[i] = static_cast<uint8_t>((seed = seed * 6364136223846793005u + 1) >> 56);
  for (int64_t i = 0; format == PANGU_F32 && i < O * I; ++i) reinterpret_cast<float *>(data)[i] = static_cast<float>(data[4 * i]) / 256;
  for (int64_t i = 0; format == PANGU_BF16 && i < O * I; ++i) data[2 * i + 1] = static_cast<uint8_t>((data[2 * i + 1] & 0x80) | 0x3c);
  const int64_t scales = (O * pangu::weight_row_bytes(format, I) + 63) / 64 * 64;
  for (int64_t i = 0; (pangu::is_int8(format) || format == PANGU_BF16C) && i < O; ++i) reinterpret_cast<float *>(data + scales)[i] = 0.01f;
  const pangu::Weight w = pangu::weight_view(data, format, O, I);
  for (int64_t o = 0; format == PANGU_BF16C && o < O; ++o) std::memset(data + (pangu::PackedRow(w, o, I).tail - data), 0, 4); // no listed weights
  for (int64_t i = scales + 1; format == PANGU_Q4 && i < bytes; i += 2) data[i] = 0x28;
}

void measure(const Format &f, int64_t O, int64_t I, int64_t T, int threads, int repeats) {
  pangu_pool pool(threads);
  const int64_t bytes = weight_bytes(f.code, O, I);
  uint8_t *const data = static_cast<uint8_t *>(std::aligned_alloc(4096, static_cast<size_t>((bytes + 8191) / 4096 * 4096)));
  fill(data, f.code, O, I);
  std::vector<float> x(static_cast<size_t>(T * I)), y(static_cast<size_t>(T * O));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 37) / 18.0f - 1.0f;
  const pangu::Weight w = pangu::weight_view(data, f.code, O, I);
  double best = 1e9, best_read = 1e9;
  for (int i = 0; i < repeats; ++i) {
    const double a = seconds();
    pangu::linear(&pool, T, O, I, x.data(), I, w, y.data(), O);
    const double b = seconds();
    best = std::min(best, b - a);
    if (T > 1) continue;
    plain_read(&pool, data, bytes);
    best_read = std::min(best_read, seconds() - b);
  }
  std::printf("{\"format\": \"%s\", \"O\": %d, \"I\": %d, \"T\": %d, \"threads\": %d, \"seconds\": %.6f, \"gflops\": %.1f", f.name, int(O), int(I),
              int(T), threads, best, 2.0 * double(T) * double(O) * double(I) / best / 1e9);
  if (T == 1)
    std::printf(", \"gbytes_per_s\": %.2f, \"read_gbytes_per_s\": %.2f, \"share\": %.3f", double(bytes) / best / 1e9, double(bytes) / best_read / 1e9,
                best_read / best);
  std::printf("}\n");
  std::fflush(stdout);
  std::free(data);
}

} // namespace

int main(int argc, char **argv) {
  if (argc < 4) return std::fprintf(stderr, "linear THREADS REPEATS TOKENS..\n"), 2;
  const int threads = std::atoi(argv[1]), repeats = std::atoi(argv[2]);
  processor_time = threads == 1;
  const char *const size = std::getenv("MEGABYTES");
  const int64_t megabytes = size != nullptr ? std::atoi(size) : 96;
  for (int a = 3; a < argc; ++a)
    for (const Format &f : kFormats) {
      const int64_t T = std::atoi(argv[a]), I = 2560;
      // One token: far more than the caches hold. Many: one projection.
      const int64_t O = T > 8 ? 3072 : (megabytes << 20) / pangu::weight_row_bytes(f.code, I) / 16 * 16;
      measure(f, O, I, T, threads, repeats);
    }
  return 0;
}
