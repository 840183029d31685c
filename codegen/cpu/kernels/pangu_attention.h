// pangu_attention.h: latent attention with sinks. A query row is one head of one token, absorbed into the latent space,
// where all heads share the keys; a softmax over blocks of keys needs no row of scores. Sinks come first, then keys in
// order of position, block by block from the token's own first key: a token's result depends on nothing else.
#pragma once

namespace pangu {

constexpr int64_t kTokenBlock = 32; // tokens whose absorbed queries are held at once
constexpr int64_t kKeyBlock = 96; // a multiple of 3, the rows of a tile
constexpr int64_t kHeadBlock = 48;         // heads of a token that pass over a block of keys together
constexpr int64_t kHeadGroup = 3 * kWidth; // of them, those whose sums the registers hold
constexpr int64_t kPiece = 3 * kKeyBlock;  // keys whose softmax is a sum of its own, so that threads may share a token's keys
constexpr int64_t kPieces = 16;            // at most; of more keys the pieces are longer
static_assert(kHeadBlock % kHeadGroup == 0, "blocks of whole groups");

// Softmax over blocks: peak and total so far of one query row.
struct Online {
  float peak = -std::numeric_limits<float>::infinity(), total = 0;

  // Scores of one block become weights, and the sum so far of `width` values is brought to the new peak.
  void add(float *score, int64_t n, float *sum, int64_t width) {
    const float keep = weigh(score, n);
    if (keep != 1.0f)
      for (int64_t c = 0; c < width; ++c) sum[c] *= keep;
  }

private:
  float weigh(float *score, int64_t n) {
    float top = peak;
    for (int64_t j = 0; j < n; ++j) top = max(top, score[j]);
    if (top == -std::numeric_limits<float>::infinity()) {
      for (int64_t j = 0; j < n; ++j) score[j] = 0;
      return 1;
    }
    const float keep = pangu::exp(peak - top);
    float lanes[kLanes] = {};
    int64_t j = 0;
    for (; j + kLanes <= n; j += kLanes)
#pragma GCC ivdep
      for (int l = 0; l < kLanes; ++l) {
        score[j + l] = pangu::exp(score[j + l] - top);
        lanes[l] += score[j + l];
      }
    for (int l = 0; j + l < n; ++l) lanes[l] += score[j + l] = pangu::exp(score[j + l] - top);
    peak = top;
    total = total * keep + tree_sum(lanes);
    return keep;
  }
};

// The same for L query rows at once, score[block][L]: scores become weights; keep is what the sums so far are multiplied by.
template <int64_t L> inline void weigh_lanes(int64_t block, float *score, float *peak, float *total, float *keep) {
  float top[L], sum[L];
  for (int64_t l = 0; l < L; ++l) top[l] = peak[l], sum[l] = 0;
  for (int64_t j = 0; j < block; ++j)
#pragma GCC ivdep
    for (int64_t l = 0; l < L; ++l) top[l] = top[l] < score[j * L + l] ? score[j * L + l] : top[l];
  for (int64_t j = 0; j < block; ++j)
#pragma GCC ivdep
    for (int64_t l = 0; l < L; ++l) sum[l] += score[j * L + l] = pangu::exp(score[j * L + l] - top[l]);
#pragma GCC ivdep
  for (int64_t l = 0; l < L; ++l) {
    keep[l] = pangu::exp(peak[l] - top[l]);
    total[l] = total[l] * keep[l] + sum[l];
    peak[l] = top[l];
  }
}

// The operands that all variants share. Keys are rows of LATENT + ROPE values.
template <int64_t NOPE, int64_t ROPE, int64_t V, int64_t LATENT> struct Attention {
  static constexpr int64_t kQuery = NOPE + ROPE, kKey = LATENT + ROPE, kHead = NOPE + V;
  int64_t heads, sink_count;
  float scale;
  const float *q, *sinks;
  Weight kv_b;
  float *out;

  // Sums over pieces of keys, [piece][head]: what a softmax over each alone has added up.
  struct Parts {
    float *mixed, *peak, *total; // mixed[piece][head][LATENT]

    Parts(Workspace &work, int64_t heads) : mixed(work.take<float>(kPieces * heads * LATENT)), peak(work.take<float>(kPieces * heads)), total(work.take<float>(kPieces * heads)) {}
  };

  // Queries of tokens [first, first + count), heads [begin, end): queries[i][head][kKey].
  void absorb(int64_t first, int64_t count, int64_t begin, int64_t end, float *queries) const {
    for (int64_t h = begin; h < end; ++h) {
      const float *own = q + (first * heads + h) * kQuery;
      linear_transposed(count, h * kHead, h * kHead + NOPE, LATENT, own, heads * kQuery, kv_b, queries + h * kKey, heads * kKey);
      for (int64_t i = 0; i < count; ++i) {
        float *to = queries + (i * heads + h) * kKey;
        for (int64_t c = 0; c < LATENT; ++c) to[c] *= scale;
        for (int64_t c = 0; c < ROPE; ++c) to[LATENT + c] = own[i * heads * kQuery + NOPE + c] * scale;
      }
    }
  }

  // Keys of a piece, of the n that a token sees: a token's own number, so that its sums are the same in every call.
  static int64_t piece_of(int64_t n) { return max(kPiece, ((n + kPieces - 1) / kPieces + kKeyBlock - 1) / kKeyBlock * kKeyBlock); }
  static int64_t pieces_of(int64_t n) { return (n + piece_of(n) - 1) / piece_of(n); }

  // Query rows (at most kHeadBlock heads of one token) with heads as the lanes of vectors, in groups.
  static void turn(const float *query, int64_t count, float *turned) {
    for (int64_t h = 0; h < count; h += kHeadGroup)
      turn_rows(query + h * kKey, kKey, min(kHeadGroup, count - h), kKey, lanes(count - h), turned + h * kKey);
  }

  // They against piece `p` of n keys, the first with the sinks before it: scores, peaks and totals need no sums across lanes.
  // (`turned` is not changed. GCC 12 warns of a const array that it cannot see written for every count.)
  template <class Key>
  void attend_piece(float *turned, int64_t count, int64_t n, int64_t p, const Key &key, float *mixed, float *peaks, float *totals) const {
    alignas(64) float score[kKeyBlock * kHeadGroup], peak[kHeadBlock], total[kHeadBlock];
    std::memset(mixed, 0, sizeof(float) * static_cast<size_t>(count * LATENT));
    std::fill_n(peak, kHeadBlock, -std::numeric_limits<float>::infinity());
    std::fill_n(total, kHeadBlock, 0.0f);
    const float *rows[kKeyBlock];
    const int64_t end = min(n, (p + 1) * piece_of(n));
    for (int64_t j = p == 0 ? -sink_count : p * piece_of(n); j < end;) {
      const int64_t block = min(kKeyBlock, (j < 0 ? 0 : end) - j);
      for (int64_t i = 0; i < block; ++i) rows[i] = j < 0 ? sinks + (j + sink_count + i) * kKey : key(j + i);
      for (int64_t h = 0; h < count; h += kHeadGroup) {
        const int64_t group = min(kHeadGroup, count - h);
        switch (lanes(group) / kWidth) {
        case 1: attend_block<1>(group, turned + h * kKey, block, rows, score, peak + h, total + h, mixed + h * LATENT); break;
        case 2: attend_block<2>(group, turned + h * kKey, block, rows, score, peak + h, total + h, mixed + h * LATENT); break;
        default: attend_block<3>(group, turned + h * kKey, block, rows, score, peak + h, total + h, mixed + h * LATENT);
        }
      }
      j += block;
    }
    std::copy_n(peak, count, peaks);
    std::copy_n(total, count, totals);
  }

  // The sums of one head over the next piece join those so far.
  static void join(float *mixed, float &peak, float &total, const float *next, float next_peak, float next_total) {
    const float top = max(peak, next_peak);
    const float keep = pangu::exp(peak - top), take = pangu::exp(next_peak - top);
    for (int64_t c = 0; c < LATENT; ++c) mixed[c] = simd::fma1(next[c], take, mixed[c] * keep);
    total = simd::fma1(next_total, take, total * keep);
    peak = top;
  }

  static void finish(const float *mixed, float total, float *query) {
    const float share = 1.0f / total;
    for (int64_t c = 0; c < LATENT; ++c) query[c] = mixed[c] * share;
  }

  // Query rows (at most kHeadBlock heads of one token) against the sinks and n keys; the mixed latent rows replace them.
  template <class Key> void attend(float *query, int64_t count, int64_t n, const Key &key) const {
    alignas(64) float turned[kHeadBlock * kKey], mixed[kHeadBlock * LATENT], next[kHeadBlock * LATENT];
    float peak[kHeadBlock], total[kHeadBlock], next_peak[kHeadBlock], next_total[kHeadBlock];
    turn(query, count, turned);
    attend_piece(turned, count, n, 0, key, mixed, peak, total);
    for (int64_t p = 1; p < pieces_of(n); ++p) {
      attend_piece(turned, count, n, p, key, next, next_peak, next_total);
      for (int64_t m = 0; m < count; ++m) join(mixed + m * LATENT, peak[m], total[m], next + m * LATENT, next_peak[m], next_total[m]);
    }
    for (int64_t m = 0; m < count; ++m) finish(mixed + m * LATENT, total[m], query + m * kKey);
  }

  static int64_t lanes(int64_t heads) { return min(kHeadGroup, (heads + kWidth - 1) / kWidth * kWidth); }

  template <int NV>
  static void attend_block(int64_t count, const float *turned, int64_t block, const float *const *rows, float *score, float *peak,
                           float *total, float *mixed) {
    constexpr int64_t kLanesHere = NV * kWidth;
    lane_dots<NV>(turned, block, rows, kKey, score);
    float keep[kLanesHere];
    weigh_lanes<kLanesHere>(block, score, peak, total, keep);
    for (int64_t m = 0; m < count; ++m)
      if (keep[m] != 1.0f)
        for (int64_t c = 0; c < LATENT; ++c) mixed[m * LATENT + c] *= keep[m];
    mix_grid(count, score, 1, kLanesHere, block, rows, LATENT, mixed, LATENT);
  }

  // Latent sums leave through the value half of kv_b.
  void values(int64_t first, int64_t count, int64_t begin, int64_t end, const float *queries) const {
    alignas(64) uint8_t scratch[kTokenBlock * (3 * LATENT + 256) + 64];
    if (rows_bytes(kv_b.format, count, LATENT) > static_cast<int64_t>(sizeof scratch)) __builtin_trap();
    for (int64_t h = begin; h < end; ++h) {
      const Rows rows = prepare_rows(nullptr, kv_b.format, count, LATENT, queries + h * kKey, heads * kKey, scratch);
      linear_rows(count, 0, V, LATENT, rows, weight_rows(kv_b, h * kHead + NOPE, LATENT), out + (first * heads + h) * V, heads * V);
    }
  }

  // Heads [begin, end) of a token in equal blocks. keys(t): how many keys token t sees, and a function of their number.
  template <class Keys> void attend_heads(int64_t t, int64_t first, int64_t begin, int64_t end, float *queries, const Keys &keys) const {
    const int64_t blocks = (end - begin + kHeadBlock - 1) / kHeadBlock;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t from = begin + (end - begin) * b / blocks, to = begin + (end - begin) * (b + 1) / blocks;
      attend(queries + ((t - first) * heads + from) * kKey, to - from, keys.count(t), [&](int64_t j) { return keys.row(t, j); });
    }
  }

  // One token with more threads than groups of heads: they share its keys too.
  template <class Keys> void attend_together(pangu_pool *pool, int64_t t, float *queries, const Keys &keys, const Parts &parts) const {
    const int64_t n = keys.count(t), pieces = pieces_of(n), groups = (heads + kWidth - 1) / kWidth;
    const auto key = [&](int64_t j) { return keys.row(t, j); };
    parallel(pool, pieces * groups, kWidth * piece_of(n) * kKey, [&](int64_t begin, int64_t end) {
      alignas(64) float turned[kHeadBlock * kKey];
      for (int64_t item = begin; item < end;) {
        const int64_t p = item / groups, g = item % groups, together = min(min(end - item, groups - g), kHeadBlock / kWidth);
        const int64_t h = g * kWidth, count = min(together * kWidth, heads - h), at = p * heads + h;
        turn(queries + h * kKey, count, turned);
        attend_piece(turned, count, n, p, key, parts.mixed + at * LATENT, parts.peak + at, parts.total + at);
        item += together;
      }
    });
    parallel(pool, heads, pieces * LATENT, [&](int64_t begin, int64_t end) {
      for (int64_t h = begin; h < end; ++h) {
        float *const mixed = parts.mixed + h * LATENT;
        for (int64_t at = heads + h; at < pieces * heads; at += heads)
          join(mixed, parts.peak[h], parts.total[h], parts.mixed + at * LATENT, parts.peak[at], parts.total[at]);
        finish(mixed, parts.total[h], queries + h * kKey);
      }
    });
  }

  // Tokens [first, first + count), at most kTokenBlock.
  template <class Keys> void absorbed(pangu_pool *pool, int64_t first, int64_t count, float *queries, const Keys &keys, const Parts &parts) const {
    const int64_t project = count * NOPE * LATENT, most = keys.count(first + count - 1), pair = (most + sink_count) * kKey;
    const int64_t groups = (heads + kWidth - 1) / kWidth, threads = pangu_pool_threads(pool); // heads of a group share loads of a key
    const bool together = count <= kFewTokens && pieces_of(most) > 1 && threads > groups;
    if (count <= kFewTokens && !together) {
      // With more threads than groups, these share the tokens too.
      const int64_t shares = min(count, (threads + groups - 1) / groups);
      return parallel(pool, groups * shares, kWidth * (project + count * pair) / shares, [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end;) {
          const int64_t share = item / groups, g = item % groups, some = min(end - item, groups - g);
          const int64_t from = first + count * share / shares, to = first + count * (share + 1) / shares;
          const int64_t h = g * kWidth, last = min(heads, h + some * kWidth);
          float *const own = queries + (from - first) * heads * kKey;
          absorb(from, to - from, h, last, own);
          for (int64_t t = from; t < to; ++t) attend_heads(t, from, h, last, own, keys);
          values(from, to - from, h, last, own);
          item += some;
        }
      });
    }
    parallel(pool, heads, project, [&](int64_t begin, int64_t end) { absorb(first, count, begin, end, queries); });
    const int64_t blocks = (heads + kHeadBlock - 1) / kHeadBlock;
    for (int64_t t = first; together && t < first + count; ++t) attend_together(pool, t, queries + (t - first) * heads * kKey, keys, parts);
    if (!together)
      parallel(pool, count * blocks, kHeadBlock * pair, [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t from = item % blocks * heads / blocks, to = (item % blocks + 1) * heads / blocks;
          attend_heads(first + item / blocks, first, from, to, queries, keys);
        }
      });
    parallel(pool, heads, project, [&](int64_t begin, int64_t end) { values(first, count, begin, end, queries); });
  }

  template <class Keys> void absorbed_all(pangu_pool *pool, int64_t T, Workspace work, const Keys &keys) const {
    float *const queries = work.take<float>(min(T, kTokenBlock) * heads * kKey);
    const Parts parts(work, heads);
    for (int64_t t = 0; t < T; t += kTokenBlock) absorbed(pool, t, min(kTokenBlock, T - t), queries, keys, parts);
  }

  // The expanded form, for long calls: keys and values of one head are made for a block of rows, and every token of the
  // call reads them. Positions [begin, end) are all that any token sees; run(p) says how many rows lie together from p on.
  template <class Span> void expanded_head(int64_t h, int64_t T, Online *online, const Span &span) const {
    alignas(64) float keys[kKeyBlock * kQuery], values_of[kKeyBlock * V];
    for (int64_t t = 0; t < T; ++t) {
      online[t] = Online();
      std::memset(out + (t * heads + h) * V, 0, sizeof(float) * V);
    }
    for (int64_t j = 0; j < sink_count; j += kKeyBlock) {
      const int64_t block = min(kKeyBlock, sink_count - j);
      expand(h, sinks + j * kKey, block, keys, values_of);
      read_block(h, T, 0, block, keys, values_of, online, [](int64_t) { return int64_t{0}; }, [&](int64_t) { return block; });
    }
    for (int64_t p = span.begin / kKeyBlock * kKeyBlock; p < span.end; p += kKeyBlock) {
      const int64_t from = max(p, span.begin), to = min(p + kKeyBlock, span.end);
      for (int64_t at = from; at < to;) {
        const int64_t together = min(span.together(at), to - at);
        expand(h, span.row(at), together, keys + (at - from) * kQuery, values_of + (at - from) * V);
        at += together;
      }
      read_block(h, T, span.first_token(from, to), to - from, keys, values_of, online,
                 [&](int64_t t) { return max<int64_t>(0, span.first(t) - from); }, [&](int64_t t) { return min(to - from, span.last(t) + 1 - from); });
    }
    for (int64_t t = 0; t < T; ++t)
      for (int64_t v = 0; v < V; ++v) out[(t * heads + h) * V + v] /= online[t].total;
  }

  void expand(int64_t h, const float *rows, int64_t count, float *keys, float *values_of) const {
    alignas(64) uint8_t scratch[kKeyBlock * (3 * LATENT + 256) + 64];
    if (rows_bytes(kv_b.format, count, LATENT) > static_cast<int64_t>(sizeof scratch)) __builtin_trap();
    const Rows prepared = prepare_rows(nullptr, kv_b.format, count, LATENT, rows, kKey, scratch);
    linear_rows(count, 0, NOPE, LATENT, prepared, weight_rows(kv_b, h * kHead, LATENT), keys, kQuery);
    linear_rows(count, 0, V, LATENT, prepared, weight_rows(kv_b, h * kHead + NOPE, LATENT), values_of, V);
    for (int64_t i = 0; i < count; ++i) std::memcpy(keys + i * kQuery + NOPE, rows + i * kKey + LATENT, sizeof(float) * ROPE);
  }

  // Tokens from `t` on against one block; token t sees keys [low(t), high(t)) of it.
  template <class Low, class High>
  void read_block(int64_t h, int64_t T, int64_t t, int64_t block, const float *keys, const float *values_of, Online *online, const Low &low,
                  const High &high) const {
    constexpr int64_t kTokens = 16;
    alignas(64) float score[kTokens * kKeyBlock];
    const float *key_rows[kKeyBlock], *value_rows[kKeyBlock];
    for (int64_t i = 0; i < block; ++i) key_rows[i] = keys + i * kQuery, value_rows[i] = values_of + i * V;
    for (; t < T; t += kTokens) {
      const int64_t count = min(kTokens, T - t);
      if (low(t) >= block || high(t + count - 1) <= 0) continue;
      dot_grid(count, q + (t * heads + h) * kQuery, heads * kQuery, block, key_rows, kQuery, score, kKeyBlock);
      for (int64_t m = 0; m < count; ++m) {
        const int64_t from = low(t + m), to = high(t + m);
        float *row = score + m * kKeyBlock;
        for (int64_t j = 0; j < block; ++j) row[j] = j >= from && j < to ? row[j] * scale : -std::numeric_limits<float>::infinity();
        online[t + m].add(row, block, out + ((t + m) * heads + h) * V, V);
      }
      mix_grid(count, score, kKeyBlock, 1, block, value_rows, V, out + (t * heads + h) * V, heads * V);
    }
  }

  template <class Span> void expanded(pangu_pool *pool, int64_t T, Online *online, const Span &span) const {
    parallel(pool, heads, T * (span.end - span.begin) * kQuery, [&](int64_t begin, int64_t end) {
      for (int64_t h = begin; h < end; ++h) expanded_head(h, T, online + h * T, span);
    });
  }
};

// The window: rows of the ring before the call, then the call's own.
template <int64_t KEY> struct WindowKeys {
  int64_t start, window, begin, end;
  const float *latent;
  Ring ring;

  WindowKeys(int64_t start_, int64_t window_, int64_t T, const float *latent_, const Ring &ring_)
      : start(start_), window(window_), begin(max<int64_t>(0, start_ - window_ + 1)), end(start_ + T), latent(latent_), ring(ring_) {}

  int64_t first(int64_t t) const { return max<int64_t>(0, start + t - window + 1); }
  int64_t last(int64_t t) const { return start + t; }
  int64_t count(int64_t t) const { return last(t) - first(t) + 1; }
  const float *row(int64_t p) const { return p >= start ? latent + (p - start) * KEY : ring.at(p); }
  const float *row(int64_t t, int64_t j) const { return row(first(t) + j); }
  int64_t together(int64_t p) const { return p >= start ? end - p : min(start - p, ring.R - p % ring.R); }
  int64_t first_token(int64_t from, int64_t) const { return max<int64_t>(0, from - start) / 16 * 16; }
};

// The whole cache, `before` rows of it older than the call.
template <int64_t KEY> struct CacheKeys {
  int64_t before, begin, end;
  const float *cache;

  CacheKeys(int64_t rows, int64_t T, const float *cache_) : before(rows - T), begin(0), end(rows), cache(cache_) {}

  int64_t first(int64_t) const { return 0; }
  int64_t last(int64_t t) const { return before + t; }
  int64_t count(int64_t t) const { return before + t + 1; }
  const float *row(int64_t p) const { return cache + p * KEY; }
  const float *row(int64_t, int64_t j) const { return cache + j * KEY; }
  int64_t together(int64_t p) const { return end - p; }
  int64_t first_token(int64_t from, int64_t) const { return max<int64_t>(0, from - before) / 16 * 16; }
};

template <int64_t NOPE, int64_t ROPE, int64_t V, int64_t LATENT> struct SwaAttention : Attention<NOPE, ROPE, V, LATENT> {
  using Base = Attention<NOPE, ROPE, V, LATENT>;
  int64_t start, window, expand_from;
  const float *latent;
  Ring ring;

  void run(pangu_pool *pool, int64_t T, Workspace work) const {
    const WindowKeys<Base::kKey> keys(start, window, T, latent, ring);
    if (expand_from > 0 && T >= expand_from)
      this->expanded(pool, T, work.take<Online>(this->heads * T), keys);
    else
      this->absorbed_all(pool, T, work, keys);
    ring.write(latent, Base::kKey, T, start);
  }
};

template <int64_t NOPE, int64_t ROPE, int64_t V, int64_t LATENT> struct DenseAttention : Attention<NOPE, ROPE, V, LATENT> {
  using Base = Attention<NOPE, ROPE, V, LATENT>;
  int64_t rows, expand_from;
  const float *cache;

  void run(pangu_pool *pool, int64_t T, Workspace work) const {
    const CacheKeys<Base::kKey> keys(rows, T, cache);
    if (expand_from > 0 && T >= expand_from)
      return this->expanded(pool, T, work.take<Online>(this->heads * T), keys);
    this->absorbed_all(pool, T, work, keys);
  }
};

} // namespace pangu
