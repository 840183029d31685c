// pangu_moe.h: SwiGLU layers, routing, and the chosen experts with the shared one.
#pragma once

namespace pangu {

// gate[i] = silu(gate[i]) * up[i].
inline void swiglu(float *gate, const float *up, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) gate[i] = silu(gate[i]) * up[i];
}

// out = down(silu(gate x) * up x).
struct DenseFfn {
  int64_t H, F;
  const float *x;
  Weight gate, up, down;
  float *out;

  void run(pangu_pool *pool, int64_t T, Workspace work) const {
    if (const int64_t shares = token_shares(pool, T, 3 * F * H); shares > 1)
      return share_tokens(pool, T, shares, [&](int64_t i, int64_t first, int64_t count) {
        DenseFfn own = *this;
        own.x += first * H, own.out += first * H;
        own.run(nullptr, count, work.part(i, shares));
      });
    float *g = work.take<float>(T * F), *u = work.take<float>(T * F);
    if (T <= kFewTokens) {
      const Rows rows = prepare_rows(nullptr, gate.format, T, H, x, H, work.take<uint8_t>(rows_bytes(gate.format, T, H)));
      const Rows up_rows = up.format == gate.format
                               ? rows
                               : prepare_rows(nullptr, up.format, T, H, x, H, work.take<uint8_t>(rows_bytes(up.format, T, H)));
      parallel(pool, (F + 15) / 16, 32 * T * H, [&](int64_t begin, int64_t end) {
        const int64_t from = begin * 16, to = min(end * 16, F);
        linear_rows(T, from, to, H, rows, gate, g, F);
        linear_rows(T, from, to, H, up_rows, up, u, F);
        for (int64_t t = 0; t < T; ++t) swiglu(g + t * F + from, u + t * F + from, to - from);
      });
    } else {
      linear(pool, T, F, H, x, H, gate, g, F);
      linear(pool, T, F, H, x, H, up, u, F);
      each_token(pool, T, 16 * F, [&](int64_t t) { swiglu(g + t * F, u + t * F, F); });
    }
    linear(pool, T, H, F, g, F, down, out, H);
  }
};

// The k experts of the highest sigmoid(router x) + bias, lowest index first among equals, and their weights.
struct MoeGate {
  int64_t H, E, k;
  bool normalise;
  float scale, eps;
  const float *x, *bias;
  Weight router;
  int64_t *index;
  float *weight;

  void token(int64_t t, float *score) const {
    int64_t *best = index + t * k;
    float *kept = weight + t * k, total = 0;
    for (int64_t e = 0; e < E; ++e) score[e] = pangu::sigmoid(score[e]);
    // Sorted insertion: kept holds the biased scores of the best so far, and a later equal one never passes an earlier.
    for (int64_t e = 0; e < E; ++e) {
      const float value = bias == nullptr ? score[e] : score[e] + bias[e];
      int64_t at = min(e, k);
      while (at > 0 && kept[at - 1] < value) --at;
      if (at == k) continue;
      for (int64_t i = min(e, k - 1); i > at; --i) kept[i] = kept[i - 1], best[i] = best[i - 1];
      kept[at] = value, best[at] = e;
    }
    for (int64_t i = 0; i < k; ++i) total += kept[i] = score[best[i]];
    const float factor = normalise ? scale / (total + eps) : scale;
    for (int64_t i = 0; i < k; ++i) kept[i] *= factor;
  }

  void run(pangu_pool *pool, int64_t T, Workspace work) const {
    float *scores = work.take<float>(T * E);
    linear(pool, T, E, H, x, H, router, scores, E);
    each_token(pool, T, 32 * E, [&](int64_t t) { token(t, scores + t * E); });
  }
};

// out[t] = shared expert + sum of weight[t, j] * expert index[t, j] (x[t]). The pairs (token, choice) are grouped by
// expert, so that each expert is read once; a token's experts are added in order of their number, the shared one first.
struct MoeFfn {
  static constexpr int64_t kRowBlock = 64, kTokens = 64;
  int64_t H, F, E, k, shared_F;
  const float *x, *weight;
  const int64_t *index;
  Weight gate_up, down, shared_gate, shared_up, shared_down;
  float *out;

  struct Groups {
    int32_t *first;              // [E + 1]: pairs of expert e stand at first[e] .. first[e + 1]
    int32_t *used;               // experts that anyone chose
    int64_t *token, *place;      // of each pair in that order: its token, and its own number
    float *factor;               // its weight
    int64_t count;               // how many experts are used
  };

  Groups group(int64_t T, Workspace &work) const {
    Groups g{work.take<int32_t>(E + 1), work.take<int32_t>(E), work.take<int64_t>(T * k), work.take<int64_t>(T * k), work.take<float>(T * k), 0};
    std::memset(g.first, 0, sizeof(int32_t) * static_cast<size_t>(E + 1));
    for (int64_t i = 0; i < T * k; ++i) ++g.first[index[i] + 1];
    for (int64_t e = 0; e < E; ++e) {
      if (g.first[e + 1] > 0) g.used[g.count++] = static_cast<int32_t>(e);
      g.first[e + 1] += g.first[e];
    }
    for (int64_t i = T * k - 1; i >= 0; --i) {
      // first[e + 1] counts down to the group's begin, which is where it must end up one place to the left
      const int64_t at = --g.first[index[i] + 1];
      g.token[at] = i / k, g.place[at] = at, g.factor[at] = weight[i];
    }
    for (int64_t e = 0; e < E; ++e) g.first[e] = g.first[e + 1];
    g.first[E] = static_cast<int32_t>(T * k);
    return g;
  }

  Rows prepared(pangu_pool *pool, int64_t n, int64_t I, const float *rows, int64_t stride, const Weight &w, Workspace &work) const {
    return prepare_rows(pool, w.format, n, I, rows, stride, work.take<uint8_t>(rows_bytes(w.format, n, I)));
  }

  // Rows [from, to) of one expert's inner width for its tokens.
  void expert_inner(const Groups &g, int64_t e, int64_t from, int64_t to, const Rows &rows, float *inner) const {
    const int64_t first = g.first[e], n = g.first[e + 1] - first;
    const Weight w = weight_rows(gate_up, e * 2 * F, H);
    linear_picked(n, g.token + first, g.place + first, from, to, H, rows, w, inner, 2 * F);
    linear_picked(n, g.token + first, g.place + first, F + from, F + to, H, rows, w, inner, 2 * F);
    for (int64_t i = first; i < first + n; ++i) swiglu(inner + i * 2 * F + from, inner + i * 2 * F + F + from, to - from);
  }

  void shared_inner(int64_t T, int64_t from, int64_t to, const Rows &rows, float *inner) const {
    linear_rows(T, from, to, H, rows, shared_gate, inner, 2 * shared_F);
    linear_rows(T, from, to, H, rows, shared_up, inner + shared_F, 2 * shared_F);
    for (int64_t t = 0; t < T; ++t)
      swiglu(inner + t * 2 * shared_F + from, inner + t * 2 * shared_F + shared_F + from, to - from);
  }

  // Columns [from, to) of the result, at most kRowBlock: every expert's part, added up.
  void result(int64_t T, const Groups &g, int64_t from, int64_t to, const Rows &rows, const Rows &shared) const {
    static constexpr auto kCount = [] {
      struct { int64_t at[kTokens]; } c{};
      for (int64_t i = 0; i < kTokens; ++i) c.at[i] = i;
      return c;
    }();
    alignas(64) float part[kTokens * kRowBlock];
    if (shared_F > 0)
      linear_rows(T, from, to, shared_F, shared, shared_down, out, H);
    else
      for (int64_t t = 0; t < T; ++t) std::fill(out + t * H + from, out + t * H + to, 0.0f);
    for (int64_t u = 0; u < g.count; ++u) {
      const int64_t e = g.used[u];
      const Weight w = weight_rows(down, e * H + from, F);
      for (int64_t i = g.first[e]; i < g.first[e + 1]; i += kTokens) {
        const int64_t n = min(kTokens, g.first[e + 1] - i);
        linear_picked(n, g.place + i, kCount.at, 0, to - from, F, rows, w, part, kRowBlock);
        for (int64_t m = 0; m < n; ++m) {
          float *to_row = out + g.token[i + m] * H + from;
          for (int64_t c = 0; c < to - from; ++c) to_row[c] += g.factor[i + m] * part[m * kRowBlock + c];
        }
      }
    }
  }

  void run(pangu_pool *pool, int64_t T, Workspace work) const {
    const int64_t pairs = T * k;
    if (const int64_t shares = token_shares(pool, T, 3 * H * (k * F + shared_F)); shares > 1)
      return share_tokens(pool, T, shares, [&](int64_t i, int64_t first, int64_t count) {
        MoeFfn own = *this;
        own.x += first * H, own.out += first * H, own.weight += first * k, own.index += first * k;
        own.run(nullptr, count, work.part(i, shares));
      });
    float *inner = work.take<float>(pairs * 2 * F), *wide = work.take<float>(T * 2 * shared_F);
    const Groups g = group(T, work);
    const Rows rows = prepared(pool, T, H, x, H, gate_up, work);
    const bool same = shared_F == 0 || (shared_gate.format == gate_up.format && shared_up.format == gate_up.format);
    const Rows shared_rows = same ? rows : prepared(pool, T, H, x, H, shared_gate, work);
    const int64_t blocks = (F + kRowBlock - 1) / kRowBlock, shared_blocks = (shared_F + kRowBlock - 1) / kRowBlock;
    const int64_t per_block = 2 * kRowBlock * H * max<int64_t>(1, pairs / max<int64_t>(1, g.count));
    parallel(pool, g.count * blocks + shared_blocks, per_block, [&](int64_t begin, int64_t end) {
      for (int64_t job = begin; job < end; ++job) {
        const bool own = job < g.count * blocks;
        const int64_t from = (own ? job % blocks : job - g.count * blocks) * kRowBlock;
        if (own)
          expert_inner(g, g.used[job / blocks], from, min(from + kRowBlock, F), rows, inner);
        else
          shared_inner(T, from, min(from + kRowBlock, shared_F), shared_rows, wide);
      }
    });
    const Rows inner_rows = prepared(pool, pairs, F, inner, 2 * F, down, work);
    const Rows wide_rows = shared_F == 0 ? inner_rows : prepared(pool, T, shared_F, wide, 2 * shared_F, shared_down, work);
    parallel(pool, (H + kRowBlock - 1) / kRowBlock, kRowBlock * (pairs * F + T * shared_F), [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) result(T, g, b * kRowBlock, min((b + 1) * kRowBlock, H), inner_rows, wide_rows);
    });
  }
};

} // namespace pangu
