// pangu_dsa.h: sparse attention. The indexer chooses rows of the cache (pangu_index.h), and the query attends to those rows where
// they lie.
#pragma once

namespace pangu {

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
  uint8_t *codes; // of the indexer's keys; null: none

  void run(pangu_pool *pool, int64_t T, Workspace work) const {
    const KeyCodes coded{codes, index_width};
    if (codes != nullptr) coded.rows() = min(coded.rows(), rows - T); // the rest is of tokens that are no more
    if (rows <= topk && expand_from > 0 && T >= expand_from)
      return this->expanded(pool, T, work.take<Online>(this->heads * T), CacheKeys<Base::kKey>(rows, T, cache));
    float *const queries = work.take<float>(min(T, kTokenBlock) * this->heads * Base::kKey);
    const typename Base::Parts parts(work, this->heads);
    const bool sparse = rows > topk;
    int32_t *chosen = sparse ? work.take<int32_t>(min(T, kTokenBlock) * topk) : nullptr;
    Choice choices[kScoreRows];
    for (int64_t i = 0; sparse && i < min(T, kScoreRows); ++i) choices[i] = Choice(work, rows, topk, codes != nullptr);
    const IndexScan scan{index_heads, index_width, topk, index_scale, iq, iw, index_cache, coded};
    if (sparse && scan.coded(rows)) coded.extend(pool, rows, index_cache);
    for (int64_t first = 0; first < T; first += kTokenBlock) {
      const int64_t count = min(kTokenBlock, T - first);
      for (int64_t t = first; sparse && t < first + count; t += kScoreRows)
        scan.choose(pool, rows - T, t, min(kScoreRows, first + count - t), choices, chosen + (t - first) * topk);
      this->absorbed(pool, first, count, queries, ChosenKeys<Base::kKey>{rows - T, topk, first, cache, chosen}, parts);
    }
  }
};

} // namespace pangu
