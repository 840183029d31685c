// pangu_dsa.h: sparse attention. The indexer scores every cached key for a few query rows at a time, the best `topk` are
// chosen exactly (lowest position first among equals), and the query attends to those rows where they lie.
#pragma once

namespace pangu {

constexpr int64_t kScoreRows = 4; // query rows scored at once
constexpr int64_t kScanBlock = 64;
constexpr int64_t kScanGroup = 3 * kWidth; // indexer heads whose sums the registers hold

// Bits that order like the float: larger is larger, -0 and 0 are equal.
inline uint32_t order_bits(float x) {
  x += 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits ^ ((bits >> 31) != 0 ? 0xFFFFFFFFu : 0x80000000u);
}

// Positions of the k largest of score[0..n), ascending; among equals the lowest. k < n. Three digits of the k-th largest
// value are found one after the other, each by counting.
inline void choose_top(const float *score, int64_t n, int64_t k, int32_t *chosen) {
  constexpr int kShift[] = {21, 10, 0}, kBits[] = {11, 11, 10};
  uint32_t prefix = 0;
  int64_t wanted = k; // of those whose leading digits equal the prefix
  for (int digit = 0; digit < 3; ++digit) {
    int32_t count[2048] = {};
    const int shift = kShift[digit], known = shift + kBits[digit];
    const uint32_t mask = (1u << kBits[digit]) - 1;
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t bits = order_bits(score[i]);
      if (digit == 0 || bits >> known == prefix >> known) ++count[bits >> shift & mask];
    }
    uint32_t bucket = mask;
    while (count[bucket] < wanted) wanted -= count[bucket--];
    prefix |= bucket << shift;
  }
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = order_bits(score[i]);
    const bool equal = bits == prefix && wanted > 0;
    wanted -= equal;
    *chosen = static_cast<int32_t>(i);
    chosen += bits > prefix || equal;
    k -= bits > prefix || equal;
    if (k == 0) return;
  }
}

// Chosen rows of the cache: token t's list is of topk entries from (t - first) * topk on, or all rows where there are no more.
template <int64_t KEY> struct ChosenKeys {
  int64_t before, topk, first;
  const float *cache;
  const int32_t *chosen;

  int64_t count(int64_t t) const { return min(topk, before + t + 1); }
  const float *row(int64_t t, int64_t j) const {
    return cache + (before + t + 1 <= topk ? j : int64_t{chosen[(t - first) * topk + j]}) * KEY;
  }
};

template <int64_t NOPE, int64_t ROPE, int64_t V, int64_t LATENT> struct DsaAttention : Attention<NOPE, ROPE, V, LATENT> {
  using Base = Attention<NOPE, ROPE, V, LATENT>;
  int64_t rows, topk, index_heads, index_width, expand_from;
  float index_scale;
  const float *cache, *iq, *iw, *index_cache;

  int64_t padded_heads() const { return (index_heads + kWidth - 1) / kWidth * kWidth; }
  int64_t turned_size() const { return padded_heads() * (index_width + 1); }

  // Token t's indexer queries with heads as lanes, in groups of at most three vectors, and behind them the heads' weights.
  void turn_queries(int64_t t, float *turned) const {
    for (int64_t h = 0; h < padded_heads(); h += kScanGroup) {
      const int64_t lanes = min(kScanGroup, padded_heads() - h);
      turn_rows(iq + (t * index_heads + h) * index_width, index_width, min(lanes, index_heads - h), index_width, lanes, turned + h * index_width);
    }
    float *const weights = turned + padded_heads() * index_width;
    for (int64_t h = 0; h < padded_heads(); ++h) weights[h] = h < index_heads ? iw[t * index_heads + h] : 0.0f;
  }

  // score[j] (+)= sum over the heads of a group of weight * relu(query . key * scale).
  template <int NV, int NB>
  void score_tile(const float *turned, const float *weights, bool first, const float *const *keys, float *score) const {
    alignas(64) float dots[NB * NV * kWidth];
    lane_tile<NV, NB>(turned, keys, 0, index_width, true, dots, NV * kWidth);
    for (int n = 0; n < NB; ++n) {
      vec total{};
      for (int v = 0; v < NV; ++v) {
        const vec scaled = load(dots + (n * NV + v) * kWidth) * splat(index_scale);
        total = fma(load(weights + v * kWidth), scaled > vec{} ? scaled : vec{}, total);
      }
      score[n] = first ? sum(total) : score[n] + sum(total);
    }
  }

  template <int NV> void score_group(const float *turned, const float *weights, bool first, int64_t n, const float *const *keys, float *score) const {
    constexpr int NB = lane_rows(NV);
    int64_t j = 0;
    for (; j + NB <= n; j += NB) {
      // Keys come in order, but several at once and slowly: more streams than the processor follows by itself.
      for (int64_t k = 0; first && k < NB * index_width; k += 16) simd::prefetch(keys[j] + 2 * NB * index_width + k);
      score_tile<NV, NB>(turned, weights, first, keys + j, score + j);
    }
    for (; j < n; ++j) score_tile<NV, 1>(turned, weights, first, keys + j, score + j);
  }

  void score_block(const float *turned, int64_t n, const float *const *keys, float *score) const {
    const float *const weights = turned + padded_heads() * index_width;
    for (int64_t h = 0; h < padded_heads(); h += kScanGroup) {
      const float *const group = turned + h * index_width;
      switch (min(kScanGroup, padded_heads() - h) / kWidth) {
      case 1: score_group<1>(group, weights + h, h == 0, n, keys, score); break;
      case 2: score_group<2>(group, weights + h, h == 0, n, keys, score); break;
      default: score_group<3>(group, weights + h, h == 0, n, keys, score);
      }
    }
  }

  // Tokens [t, t + count): scores of all rows before and including their own, then the choice.
  void choose(pangu_pool *pool, int64_t T, int64_t t, int64_t count, float *score, int32_t *chosen) const {
    const int64_t before = rows - T, n = before + t + count;
    float *const turned = static_cast<float *>(linear_scratch(kScoreRows * turned_size() * 4));
    for (int64_t i = 0; i < count; ++i) turn_queries(t + i, turned + i * turned_size());
    parallel(pool, (n + kScanBlock - 1) / kScanBlock, count * kScanBlock * index_heads * index_width / 4, [&](int64_t begin, int64_t end) {
      const float *keys[kScanBlock];
      for (int64_t b = begin; b < end; ++b) {
        const int64_t from = b * kScanBlock, to = min(from + kScanBlock, n);
        for (int64_t j = from; j < to; ++j) keys[j - from] = index_cache + j * index_width;
        for (int64_t i = 0; i < count; ++i) score_block(turned + i * turned_size(), to - from, keys, score + i * rows + from);
      }
    });
    parallel(pool, count, 4 * n, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        if (before + t + i + 1 > topk) choose_top(score + i * rows, before + t + i + 1, topk, chosen + i * topk);
    });
  }

  void run(pangu_pool *pool, int64_t T, Workspace work) const {
    if (rows <= topk && expand_from > 0 && T >= expand_from)
      return this->expanded(pool, T, work.take<Online>(this->heads * T), CacheKeys<Base::kKey>(rows, T, cache));
    float *queries = work.take<float>(min(T, kTokenBlock) * this->heads * Base::kKey);
    const bool sparse = rows > topk;
    float *score = sparse ? work.take<float>(min(T, kScoreRows) * rows) : nullptr;
    int32_t *chosen = sparse ? work.take<int32_t>(min(T, kTokenBlock) * topk) : nullptr;
    for (int64_t first = 0; first < T; first += kTokenBlock) {
      const int64_t count = min(kTokenBlock, T - first);
      for (int64_t t = first; sparse && t < first + count; t += kScoreRows)
        choose(pool, T, t, min(kScoreRows, first + count - t), score, chosen + (t - first) * topk);
      this->absorbed(pool, first, count, queries, ChosenKeys<Base::kKey>{rows - T, topk, first, cache, chosen});
    }
  }
};

} // namespace pangu
