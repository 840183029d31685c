// pangu_mtp.h: the head's token without its logits, draws, and the verification of drafts.
#pragma once

#include "pangu_sampling.h"

namespace pangu {

// token[t] = argmax of w times RMSNorm(x[t]) (times x[t] where gamma is null); the lowest index among equals.
struct LmHeadArgmax {
  static constexpr int64_t kRows = 64;  // rows of w whose products one thread holds
  static constexpr int64_t kTokens = 8; // tokens that it holds them for

  int64_t H, V;
  float eps;
  const float *x, *gamma;
  Weight w;
  int64_t *token;

  // The best of the rows [from, to) of w for tokens [t, t + n).
  void block(int64_t from, int64_t to, int64_t t, int64_t n, const Rows &rows, float *value, int64_t *index) const {
    float logits[kTokens * kRows];
    Rows mine = rows;
    mine.x += t * rows.stride;
    if (mine.records != nullptr) mine.records += t * rows.record_bytes;
    linear_rows(n, from, to, H, mine, w, logits - from, kRows);
    for (int64_t i = 0; i < n; ++i) {
      const float *const row = logits + i * kRows;
      const int64_t best = std::max_element(row, row + (to - from)) - row;
      value[i] = row[best], index[i] = from + best;
    }
  }

  void run(pangu_pool *pool, int64_t T, Workspace work) const {
    const int64_t blocks = (V + kRows - 1) / kRows;
    float *const value = work.take<float>(blocks * T), *normed = nullptr;
    int64_t *const index = work.take<int64_t>(blocks * T);
    if (gamma != nullptr) rms_norm(pool, T, H, x, gamma, eps, normed = work.take<float>(T * H));
    const Rows rows = prepare_rows(pool, w.format, T, H, gamma == nullptr ? x : normed, H,
                                   work.take<uint8_t>(rows_bytes(w.format, T, H)));
    parallel(pool, blocks, kRows * T * H, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        for (int64_t t = 0; t < T; t += kTokens)
          block(b * kRows, min((b + 1) * kRows, V), t, min(kTokens, T - t), rows, value + b * T + t, index + b * T + t);
    });
    for (int64_t t = 0; t < T; ++t) {
      int64_t best = 0;
      for (int64_t b = 1; b < blocks; ++b)
        if (value[b * T + t] > value[best * T + t]) best = b;
      token[t] = index[best * T + t];
    }
  }
};

// The trunk's own tokens of K + 1 rows, and the longest prefix of the K drafts that equals them.
struct MtpVerify : LmHeadArgmax {
  const int64_t *drafts;
  int64_t start;
  int64_t *accepted, *tokens, *length;

  void run(pangu_pool *pool, int64_t T, Workspace work) {
    token = tokens;
    LmHeadArgmax::run(pool, T, work);
    int64_t kept = 0;
    while (kept < T - 1 && tokens[kept] == drafts[kept]) ++kept;
    std::fill(tokens + kept + 1, tokens + T, int64_t{-1});
    *accepted = kept;
    *length = start + kept + 1;
  }
};

// How logits become a distribution (pangu_sampling.h).
struct Sampled {
  int64_t V;
  const float *logits;
  double temperature, top_p;
  int64_t top_k;
  const double *uniform;

  void distribution(int64_t row, double *p, int64_t *order) const {
    pangu_sampling::distribution(logits + row * V, V, temperature, top_k, top_p, p, order);
  }
};

// token[t] drawn from probs[t], the filtered distribution of logits[t].
struct SampleToken : Sampled {
  int64_t *token;
  double *probs;

  void run(pangu_pool *, int64_t T, Workspace work) const {
    int64_t *const order = work.take<int64_t>(V);
    for (int64_t t = 0; t < T; ++t) {
      distribution(t, probs + t * V, order);
      token[t] = pangu_sampling::draw(probs + t * V, V, uniform[t]);
    }
  }
};

// Rejection sampling of K drafts, drawn from draft_probs[K, V], against the trunk's logits[K + 1, V].
struct MtpVerifySampled : Sampled {
  const double *draft_probs;
  const int64_t *drafts;
  int64_t start;
  int64_t *accepted, *tokens, *length;

  void run(pangu_pool *, int64_t T, Workspace work) const {
    double *const p = work.take<double>(V);
    int64_t *const order = work.take<int64_t>(V), kept = 0;
    for (;; ++kept) {
      distribution(kept, p, order);
      if (kept == T - 1) {
        tokens[kept] = pangu_sampling::draw(p, V, uniform[kept]);
        break;
      }
      const int64_t guess = drafts[kept];
      const double *const q = draft_probs + kept * V;
      if (!pangu_sampling::stands(p[guess], q[guess], uniform[kept])) {
        pangu_sampling::without(p, q, V);
        tokens[kept] = pangu_sampling::draw(p, V, uniform[kept + 1]);
        break;
      }
      tokens[kept] = guess;
    }
    std::fill(tokens + kept + 1, tokens + T, int64_t{-1});
    *accepted = kept;
    *length = start + kept + 1;
  }
};

} // namespace pangu
