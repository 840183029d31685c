// pieces.cpp: absorbed attention over pieces of keys: against a softmax in float64, and the same bits on any number of threads and
// whatever tokens are in the call.
//
// A program of its own, so that it runs under the address sanitizer and under an emulator. Prints one line for each failure;
// exit status 1 if there was one.
#include "pangu_abi.h"
#define PANGU_WEIGHT_FORMATS (1u << PANGU_F32) // what the compiler has to look at
#include "pangu_kernels.h"
#include "pool.h"

#include <cstdio>
#include <memory>

namespace {

uint64_t seed = 1;
uint32_t random_bits() { return static_cast<uint32_t>((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 33); }
float uniform() { return static_cast<float>(random_bits()) / 1073741824.0f - 1.0f; }

constexpr int64_t kNope = 12, kRope = 6, kV = 10, kLatent = 21, kQuery = kNope + kRope, kKey = kLatent + kRope, kHead = kNope + kV;
using Dense = pangu::DenseAttention<kNope, kRope, kV, kLatent>;

int failures = 0;

struct Case {
  int64_t heads, sinks, rows, T; // rows: of the cache, the call's T included
  std::vector<float> q, sink, cache, kv_b;

  Case(int64_t heads_, int64_t sinks_, int64_t rows_, int64_t T_)
      : heads(heads_), sinks(sinks_), rows(rows_), T(T_), q(size(T * heads * kQuery)), sink(size(sinks * kKey)), cache(size(rows * kKey)), kv_b(size(heads * kHead * kLatent)) {
    for (std::vector<float> *all : {&q, &sink, &cache, &kv_b})
      for (float &x : *all) x = uniform();
    for (size_t i = 0; i < cache.size(); i += size(97 * kKey)) cache[i] *= 30; // peaks that come late
  }
  static size_t size(int64_t n) { return static_cast<size_t>(n); }

  // Tokens [from, to) as one call.
  std::vector<float> run(pangu_pool *pool, int64_t from, int64_t to) const {
    std::vector<float> out(size((to - from) * heads * kV));
    const int64_t floats = pangu::kTokenBlock * heads * kKey + pangu::kPieces * heads * (kLatent + 2) + 4 * 16;
    std::vector<uint8_t> memory(size(64 + 4 * floats));
    uint8_t *const begin = reinterpret_cast<uint8_t *>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    Dense dense{};
    dense.heads = heads, dense.sink_count = sinks, dense.scale = 0.05f, dense.q = q.data() + from * heads * kQuery, dense.sinks = sink.data();
    dense.kv_b = pangu::weight_view(kv_b.data(), PANGU_F32, heads * kHead, kLatent);
    dense.out = out.data(), dense.rows = rows - T + to, dense.expand_from = 0, dense.cache = cache.data();
    dense.run(pool, to - from, pangu::Workspace{begin, memory.data() + memory.size()});
    return out;
  }

  // Of one token and head, in float64.
  std::vector<double> expected(int64_t t, int64_t h) const {
    const int64_t n = rows - T + t + 1;
    std::vector<double> query(size(kKey)), mixed(size(kLatent)), result(size(kV));
    const float *const own = q.data() + (t * heads + h) * kQuery, *const matrix = kv_b.data() + h * kHead * kLatent;
    for (int64_t c = 0; c < kLatent; ++c)
      for (int64_t i = 0; i < kNope; ++i) query[size(c)] += double{own[i]} * matrix[i * kLatent + c];
    for (int64_t c = 0; c < kRope; ++c) query[size(kLatent + c)] = own[kNope + c];
    double total = 0, peak = -1e300;
    std::vector<double> score(size(sinks + n));
    const auto row = [&](int64_t j) { return j < sinks ? sink.data() + j * kKey : cache.data() + (j - sinks) * kKey; };
    for (int64_t j = 0; j < sinks + n; ++j) {
      for (int64_t c = 0; c < kKey; ++c) score[size(j)] += query[size(c)] * row(j)[c] * double{0.05f};
      peak = std::max(peak, score[size(j)]);
    }
    for (int64_t j = 0; j < sinks + n; ++j) {
      const double weight = std::exp(score[size(j)] - peak);
      total += weight;
      for (int64_t c = 0; c < kLatent; ++c) mixed[size(c)] += weight * row(j)[c];
    }
    for (int64_t v = 0; v < kV; ++v)
      for (int64_t c = 0; c < kLatent; ++c) result[size(v)] += mixed[size(c)] / total * matrix[(kNope + v) * kLatent + c];
    return result;
  }
};

void check(const Case &c, pangu_pool *const *pools, int n_pools) {
  const std::vector<float> alone = c.run(nullptr, 0, c.T);
  const auto fail = [&](const char *what) {
    std::printf("%s: heads %d sinks %d rows %d T %d\n", what, static_cast<int>(c.heads), static_cast<int>(c.sinks), static_cast<int>(c.rows), static_cast<int>(c.T));
    ++failures;
  };
  double worst = 0, largest = 1;
  for (int64_t t = 0; t < c.T; ++t)
    for (int64_t h = 0; h < c.heads; ++h) {
      const std::vector<double> want = c.expected(t, h);
      for (int64_t v = 0; v < kV; ++v) {
        worst = std::max(worst, std::fabs(want[Case::size(v)] - alone[Case::size((t * c.heads + h) * kV + v)]));
        largest = std::max(largest, std::fabs(want[Case::size(v)]));
      }
    }
  if (!(worst < 1e-5 * largest)) fail("not the softmax");
  for (int i = 0; i < n_pools; ++i)
    if (c.run(pools[i], 0, c.T) != alone) fail("other bits on several threads");
  for (int64_t t = 0; t < c.T; ++t) {
    const std::vector<float> one = c.run(pools[n_pools - 1], t, t + 1);
    if (!std::equal(one.begin(), one.end(), alone.begin() + t * c.heads * kV)) fail("other bits for one token alone");
  }
}

} // namespace

int main(int argc, char **) {
  const bool quick = argc > 1;
  const std::unique_ptr<pangu_pool> two = std::make_unique<pangu_pool>(2), seven = std::make_unique<pangu_pool>(7);
  pangu_pool *const pools[] = {two.get(), seven.get()};
  for (const int64_t heads : {1, 5, 16, 50})
    for (const int64_t rows : {40, 288, 289, 700, 4700})
      for (const int64_t T : {1, 3, 11})
        if (!quick || heads * rows * T < 20000) check(Case(heads, rows % 2 * 7, rows, T), pools, 2);
  std::printf("%d failures\n", failures);
  return failures > 0;
}
