// pangu_dsa.h: sparse attention. The indexer scores every cached key for a few query rows at a time, the best `topk` are
// chosen exactly (lowest position first among equals), and the query attends to those rows where they lie.
#pragma once

namespace pangu {

constexpr int64_t kScoreRows = 4; // query rows scored at once
constexpr int64_t kScanBlock = 64;

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

  // Scores of keys [from, to) for token t: sum over heads of iw * relu(iq . key * scale), heads in order.
  void score_block(int64_t t, int64_t from, int64_t to, const float *const *keys, float *score) const {
    constexpr int64_t kHeads = 8;
    alignas(64) float dots[kHeads * kScanBlock];
    float total[kScanBlock] = {};
    for (int64_t h = 0; h < index_heads; h += kHeads) {
      const int64_t count = min(kHeads, index_heads - h);
      dot_grid(count, iq + (t * index_heads + h) * index_width, index_width, to - from, keys, index_width, dots, kScanBlock);
      for (int64_t m = 0; m < count; ++m) {
        const float weight = iw[t * index_heads + h + m];
        for (int64_t j = 0; j < kScanBlock; ++j) {
          const float scaled = j < to - from ? dots[m * kScanBlock + j] * index_scale : 0.0f;
          total[j] += weight * (scaled > 0 ? scaled : 0.0f);
        }
      }
    }
    std::memcpy(score + from, total, sizeof(float) * static_cast<size_t>(to - from));
  }

  // Tokens [t, t + count): scores of all rows before and including their own, then the choice.
  void choose(pangu_pool *pool, int64_t T, int64_t t, int64_t count, float *score, int32_t *chosen) const {
    const int64_t before = rows - T, n = before + t + count;
    parallel(pool, (n + kScanBlock - 1) / kScanBlock, count * kScanBlock * index_heads * index_width / 4, [&](int64_t begin, int64_t end) {
      const float *keys[kScanBlock];
      for (int64_t b = begin; b < end; ++b) {
        const int64_t from = b * kScanBlock, to = min(from + kScanBlock, n);
        for (int64_t j = from; j < to; ++j) keys[j - from] = index_cache + j * index_width;
        for (int64_t i = 0; i < count; ++i) score_block(t + i, from, to, keys, score + i * rows);
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
