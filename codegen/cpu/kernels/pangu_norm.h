// pangu_norm.h: norms, rotary embedding and the MoME convolution with its ring.
#pragma once

namespace pangu {

// y = x / sqrt(mean(x^2) + eps) * gamma; x and y may be the same row; gamma may be null.
inline void rms_row(const float *x, const float *gamma, float eps, int64_t C, float *y) {
  const float scale = 1.0f / std::sqrt(sum_of_squares(x, C) / static_cast<float>(C) + eps);
#pragma GCC ivdep
  for (int64_t c = 0; c < C; ++c) y[c] = gamma == nullptr ? x[c] * scale : x[c] * scale * gamma[c];
}

inline void layer_norm_row(const float *x, const float *gamma, const float *beta, float eps, int64_t C, float *y) {
  float lanes[kLanes] = {};
  for (int64_t c = 0; c < C; ++c) lanes[c % kLanes] += x[c];
  const float mean = tree_sum(lanes) / static_cast<float>(C);
#pragma GCC ivdep
  for (int64_t c = 0; c < C; ++c) y[c] = x[c] - mean;
  const float scale = 1.0f / std::sqrt(sum_of_squares(y, C) / static_cast<float>(C) + eps);
#pragma GCC ivdep
  for (int64_t c = 0; c < C; ++c) y[c] = y[c] * scale * gamma[c] + beta[c];
}

inline void rms_norm(pangu_pool *pool, int64_t rows, int64_t C, const float *x, const float *gamma, float eps, float *y) {
  each_token(pool, rows, 4 * C, [&](int64_t r) { rms_row(x + r * C, gamma, eps, C, y + r * C); });
}

inline void layer_norm(pangu_pool *pool, int64_t rows, int64_t C, const float *x, const float *gamma, const float *beta, float eps,
                       float *y) {
  each_token(pool, rows, 8 * C, [&](int64_t r) { layer_norm_row(x + r * C, gamma, beta, eps, C, y + r * C); });
}

// table[t] = cos, then sin, of position[t] * theta^(-2i/dim), angles in float64.
inline void rotary_table(pangu_pool *pool, int64_t T, int64_t dim, double theta, const int64_t *position, float *table) {
  each_token(pool, T, 100 * dim, [&](int64_t t) {
    for (int64_t i = 0; i < dim / 2; ++i) {
      const double angle = static_cast<double>(position[t]) * std::pow(theta, static_cast<double>(-2 * i) / static_cast<double>(dim));
      table[t * dim + i] = static_cast<float>(std::cos(angle));
      table[t * dim + dim / 2 + i] = static_cast<float>(std::sin(angle));
    }
  });
}

// Half rotation of d channels: x and y may be the same.
inline void rotate_row(const float *x, const float *table, int64_t d, float *y) {
  const int64_t half = d / 2;
#pragma GCC ivdep
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[half + i], cos = table[i], sin = table[half + i];
    y[i] = a * cos - b * sin;
    y[half + i] = b * cos + a * sin;
  }
}

// x[T, heads, D]: channels [offset, offset + d) are rotated, the others copied.
inline void rotary(pangu_pool *pool, int64_t T, int64_t heads, int64_t D, int64_t offset, int64_t d, const float *x,
                   const float *table, float *y) {
  each_token(pool, T, 4 * heads * D, [&](int64_t t) {
    for (int64_t h = 0; h < heads; ++h) {
      const float *from = x + (t * heads + h) * D;
      float *to = y + (t * heads + h) * D;
      if (to != from) std::memcpy(to, from, sizeof(float) * static_cast<size_t>(D));
      rotate_row(from + offset, table + t * d, d, to + offset);
    }
  });
}

// A ring of R rows of C channels: position p lies in row p % R.
struct Ring {
  float *rows;
  int64_t R, C;

  const float *at(int64_t position) const { return rows + modulo(position, R) * C; }

  // The rows of positions start .. start + T - 1; where T > R only the last R are kept.
  void write(const float *x, int64_t x_stride, int64_t T, int64_t start) const {
    for (int64_t t = max<int64_t>(0, T - R); t < T; ++t)
      std::memcpy(rows + modulo(start + t, R) * C, x + t * x_stride, sizeof(float) * static_cast<size_t>(C));
  }
};

// Row t of x + causal depthwise convolution, K taps, weight [C, 1, K]. Earlier rows come from x or from the ring, which
// is written only after every row is done. The first K - 1 positions of a sequence stay as they are.
template <int K> inline void conv_row(const float *x, int64_t x_stride, int64_t t, int64_t start, const Ring &ring, const float *weight, float *y) {
  const float *own = x + t * x_stride;
  if (start + t < K - 1) {
    std::memcpy(y, own, sizeof(float) * static_cast<size_t>(ring.C));
    return;
  }
  const float *rows[K];
  for (int j = 0; j < K; ++j) {
    const int64_t back = t - (K - 1) + j;
    rows[j] = back >= 0 ? x + back * x_stride : ring.at(start + back);
  }
#pragma GCC ivdep
  for (int64_t c = 0; c < ring.C; ++c) {
    float total = rows[0][c] * weight[c * K];
    for (int j = 1; j < K; ++j) total += rows[j][c] * weight[c * K + j];
    y[c] = own[c] + total;
  }
}

template <int K>
inline void mome_conv(pangu_pool *pool, int64_t T, const float *x, const float *weight, int64_t start, const Ring &ring, float *y) {
  each_token(pool, T, 4 * K * ring.C, [&](int64_t t) { conv_row<K>(x, ring.C, t, start, ring, weight, y + t * ring.C); });
  ring.write(x, ring.C, T, start);
}

} // namespace pangu
