// pangu_streams.h: the residual. Manifold-constrained hyper-connections (mHC) over N streams, and the plain residual.
//
// One token: the streams are combined with the branch's output (post), normed, projected by phi, and the next branch's
// input is made (pre). phi is the only large operand: it is read once for every block of tokens.
#pragma once

namespace pangu {

// Softmax over each row, plus eps; r[i * N + j].
template <int N> inline void softmax_rows(float *r, float eps) {
  for (int i = 0; i < N; ++i) {
    float peak = r[i * N], total = 0;
    for (int j = 1; j < N; ++j) peak = max(peak, r[i * N + j]);
    for (int j = 0; j < N; ++j) total += r[i * N + j] = pangu::exp(r[i * N + j] - peak);
    const float scale = 1.0f / total;
    for (int j = 0; j < N; ++j) r[i * N + j] = r[i * N + j] * scale + eps;
  }
}

// Columns and rows in turn, columns first and last. F: float, or vec with a matrix in each lane, whose lanes get the same bits.
template <int N, class F> inline void balance(F *r, int iterations, F eps) {
  for (int step = 0; step < iterations; ++step) {
    if (step > 0)
      for (int i = 0; i < N; ++i) {
        F total = eps;
        for (int j = 0; j < N; ++j) total += r[i * N + j];
        const F scale = 1.0f / total;
        for (int j = 0; j < N; ++j) r[i * N + j] *= scale;
      }
    F columns[N];
    for (int j = 0; j < N; ++j) columns[j] = eps;
    for (int i = 0; i < N; ++i)
      for (int j = 0; j < N; ++j) columns[j] += r[i * N + j];
    for (int j = 0; j < N; ++j) columns[j] = 1.0f / columns[j];
    for (int i = 0; i < N; ++i)
      for (int j = 0; j < N; ++j) r[i * N + j] *= columns[j];
  }
}

// The matrices of `count` tokens, N * N values each, `stride` apart. One matrix is a chain of sums and divisions that wait for
// each other, so several tokens as lanes take hardly longer than one.
template <int N> inline void sinkhorn_matrices(int64_t count, int iterations, float eps, float *raw, int64_t stride) {
  for (int64_t t = 0; t < count; ++t) softmax_rows<N>(raw + t * stride, eps);
  if (count == 1) return balance<N, float>(raw, iterations, eps);
  for (int64_t t = 0; t < count; t += kWidth) {
    const int64_t some = min<int64_t>(kWidth, count - t);
    alignas(64) float lanes[N * N][kWidth];
    vec r[N * N];
    for (int e = 0; e < N * N; ++e) {
      for (int64_t l = 0; l < kWidth; ++l) lanes[e][l] = raw[(t + min(l, some - 1)) * stride + e];
      r[e] = load(lanes[e]);
    }
    balance<N, vec>(r, iterations, splat(eps));
    for (int e = 0; e < N * N; ++e) {
      store(lanes[e], r[e]);
      for (int64_t l = 0; l < some; ++l) raw[(t + l) * stride + e] = lanes[e][l];
    }
  }
}

template <int N> inline void sinkhorn(pangu_pool *pool, int64_t T, int iterations, float eps, const float *raw, float *out) {
  parallel(pool, T, iterations * N * N * 8, [&](int64_t begin, int64_t end) {
    std::memcpy(out + begin * N * N, raw + begin * N * N, sizeof(float) * static_cast<size_t>((end - begin) * N * N));
    sinkhorn_matrices<N>(end - begin, iterations, eps, out + begin * N * N, N * N);
  });
}

// Columns [first, ..) of a matrix that is stored without scales.
inline Weight weight_columns(const Weight &w, int64_t first) {
  const int64_t bytes = w.format == PANGU_BF16 ? 2 : 4;
  return {static_cast<const uint8_t *>(w.data) + first * bytes, nullptr, w.format, w.row_stride};
}

// mhc_pre, mhc_post, mhc_post_pre and mhc_merge: the parts whose operands are there. Null pointers: not present.
template <int N, bool MERGE> struct Streams {
  static constexpr int64_t kRows = MERGE ? N : N * (N + 2); // of phi
  static constexpr int64_t kTile = 512;                     // columns of phi at a time
  int64_t H;
  int iterations;
  float pre_eps, norm_eps, mhc_eps, out_eps, block_eps;
  const float *x, *out, *post, *res, *out_norm, *block_norm;
  Weight phi;
  const float *alpha, *beta, *gamma, *norm;
  float *new_x, *y, *new_post, *new_res;

  const float *streams(int64_t t) const { return (out == nullptr ? x : new_x) + t * N * H; }

  void combine(int64_t t) const {
    const float *from = x + t * N * H, *branch = out + t * H, *p = post + t * N, *r = res + t * N * N;
    float *to = new_x + t * N * H;
    const float scale = out_norm == nullptr ? 1.0f : 1.0f / std::sqrt(sum_of_squares(branch, H) / static_cast<float>(H) + out_eps);
    int64_t c = 0;
    for (; c + kWidth <= H; c += kWidth) {
      vec b = load(branch + c) * splat(scale);
      if (out_norm != nullptr) b *= load(out_norm + c);
      vec streams[N];
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) streams[i] = load(from + i * H + c);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) {
        vec s = splat(p[j]) * b;
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i) s = fma(splat(r[i * N + j]), streams[i], s);
        store(to + j * H + c, s);
      }
    }
    for (; c < H; ++c) {
      const float b = out_norm == nullptr ? branch[c] : branch[c] * scale * out_norm[c];
      float streams[N];
      for (int i = 0; i < N; ++i) streams[i] = from[i * H + c];
      for (int j = 0; j < N; ++j) {
        float s = p[j] * b;
        for (int i = 0; i < N; ++i) s += r[i * N + j] * streams[i];
        to[j * H + c] = s;
      }
    }
    if (block_norm != nullptr) rms_row(to, block_norm, block_eps, N * H, to);
  }

  // m[i][row] = phi[row] . (streams of token first + i, times gamma), for rows [begin, end) of phi.
  void project(int64_t first, int64_t count, int64_t begin, int64_t end, float (*m)[kRows]) const {
    alignas(64) float scaled[kFewTokens * kTile], part[kFewTokens][kRows];
    const int32_t format = phi.format == PANGU_BF16 ? PANGU_BF16 : PANGU_F32; // formats whose rows need no scratch
    for (int64_t i = 0; i < count; ++i)
      for (int64_t row = begin; row < end; ++row) m[i][row] = 0;
    for (int64_t c = 0; c < N * H; c += kTile) {
      const int64_t width = min(kTile, N * H - c);
      const float *from = gamma == nullptr ? streams(first) + c : scaled;
      if (gamma != nullptr) {
        for (int64_t i = 0; i < count; ++i)
#pragma GCC ivdep
          for (int64_t k = 0; k < width; ++k) scaled[i * kTile + k] = streams(first + i)[c + k] * gamma[c + k];
      }
      const Rows rows = prepare_rows(nullptr, format, count, width, from, gamma == nullptr ? N * H : kTile, nullptr);
      linear_rows(count, begin, end, width, rows, weight_columns(phi, c), part[0], kRows);
      for (int64_t i = 0; i < count; ++i)
        for (int64_t row = begin; row < end; ++row) m[i][row] += part[i][row];
    }
  }

  // Tokens [first, first + count), at most kFewTokens; m[i]: what project gave for token first + i.
  void finish(int64_t first, int64_t count, float (*m)[kRows]) const {
    for (int64_t i = 0; i < count; ++i) {
      const float scale = 1.0f / std::sqrt(sum_of_squares(streams(first + i), N * H) / static_cast<float>(N * H) + pre_eps);
      for (int row = 0; row < kRows; ++row) m[i][row] *= scale;
    }
    if constexpr (!MERGE) {
      for (int64_t i = 0; i < count; ++i) {
        for (int j = 0; j < N; ++j) new_post[(first + i) * N + j] = 2.0f * pangu::sigmoid(alpha[1] * m[i][N + j] + beta[N + j]);
        for (int e = 2 * N; e < kRows; ++e) m[i][e] = alpha[2] * m[i][e] + beta[e];
      }
      sinkhorn_matrices<N>(count, iterations, mhc_eps, m[0] + 2 * N, kRows);
      for (int64_t i = 0; i < count; ++i) std::memcpy(new_res + (first + i) * N * N, m[i] + 2 * N, sizeof(float) * N * N);
    }
    for (int64_t i = 0; i < count; ++i) branch_input(first + i, m[i]);
  }

  // y: the sum of the streams as the gates of m weigh them, normed.
  void branch_input(int64_t t, const float *m) const {
    const float *s = streams(t);
    float h[N];
    for (int i = 0; i < N; ++i) h[i] = pangu::sigmoid(alpha[0] * m[i] + beta[i]) + mhc_eps;
    float *to = y + t * H;
    int64_t c = 0;
    for (; c + kWidth <= H; c += kWidth) {
      vec v = splat(h[0]) * load(s + c);
#pragma GCC unroll 8
      for (int i = 1; i < N; ++i) v = fma(splat(h[i]), load(s + i * H + c), v);
      store(to + c, v);
    }
    for (; c < H; ++c) {
      float v = h[0] * s[c];
      for (int i = 1; i < N; ++i) v += h[i] * s[i * H + c];
      to[c] = v;
    }
    if (norm != nullptr) rms_row(to, norm, norm_eps, H, to);
  }

  void run(pangu_pool *pool, int64_t T) const {
    const bool next = phi.data != nullptr;
    const auto combined = [&](int64_t first, int64_t count) {
      for (int64_t t = first; out != nullptr && t < first + count; ++t) combine(t);
    };
    const int64_t shares = token_shares(pool, T, kRows * N * H);
    if (next && T <= kFewTokens && shares == 1) {
      // phi's rows are what there is to share, and the tokens before and after it.
      float m[kFewTokens][kRows];
      const int64_t pieces = T * 8 * N * H < kSerialWork ? 1 : min<int64_t>(T, pangu_pool_threads(pool));
      if (out != nullptr) share_tokens(pool, T, pieces, [&](int64_t, int64_t first, int64_t count) { combined(first, count); });
      parallel(pool, kRows, T * N * H, [&](int64_t begin, int64_t end) { project(0, T, begin, end, m); });
      share_tokens(pool, T, pieces, [&](int64_t, int64_t first, int64_t count) { finish(first, count, m + first); });
      return;
    }
    share_tokens(pool, T, T <= kFewTokens ? shares : (T + kFewTokens - 1) / kFewTokens, [&](int64_t, int64_t first, int64_t count) {
      float m[kFewTokens][kRows];
      combined(first, count);
      if (!next) return;
      project(first, count, 0, kRows, m);
      finish(first, count, m);
    });
  }
};

// new_x = x + norm(out), normed itself by block_norm; y is that once more under norm.
struct Residual {
  int64_t H;
  float out_eps, block_eps, norm_eps;
  const float *x, *out, *out_norm, *block_norm, *norm;
  float *new_x, *y;

  void run(pangu_pool *pool, int64_t T) const {
    each_token(pool, T, 12 * H, [&](int64_t t) {
      const float *from = x + t * H, *branch = out + t * H;
      float *to = new_x + t * H;
      const float scale = out_norm == nullptr ? 1.0f : 1.0f / std::sqrt(sum_of_squares(branch, H) / static_cast<float>(H) + out_eps);
#pragma GCC ivdep
      for (int64_t c = 0; c < H; ++c) to[c] = from[c] + (out_norm == nullptr ? branch[c] : branch[c] * scale * out_norm[c]);
      if (block_norm != nullptr) rms_row(to, block_norm, block_eps, H, to);
      if (y != nullptr) rms_row(to, norm, norm_eps, H, y + t * H);
    });
  }
};

} // namespace pangu
