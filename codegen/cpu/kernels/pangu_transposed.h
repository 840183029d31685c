// pangu_transposed.h: sums of a matrix's rows, y[t, :] = sum over o of x[t, o] * w[o, :], in float32.
//
// An element adds its terms in the order of the rows, so it does not depend on how many tokens are in the call.
#pragma once

namespace pangu {

struct S8 {
  typedef int8_t element;
  static simd::vf load(const int8_t *p) { return simd::f_load_s8(p); }
};

inline float one_value(float v) { return v; }
inline float one_value(uint16_t v) { return bf16_value(v); }
inline float one_value(int8_t v) { return static_cast<float>(v); }

// y[t] += sum over r of x[t][r] * w[r] for R rows of n columns and T tokens. Meanwhile as many bytes from `next` on are asked for,
// in the order of memory.
template <class E, int R, int T>
inline void add_rows(const typename E::element *const *w, const float (*x)[R], int64_t n, const uint8_t *next, float *const *y) {
  using namespace simd;
  constexpr int64_t kLine = 64 / sizeof(typename E::element);
  int64_t k = 0;
  while (k + kFloats <= n) {
    unroll<R>([&](auto r) PANGU_INLINE { prefetch(next + r * 64); });
    next += R * 64;
    for (const int64_t stop = min(k + kLine, n - kFloats + 1); k < stop; k += kFloats) {
      vf wv[R];
      unroll<R>([&](auto r) PANGU_INLINE { wv[r] = E::load(w[r] + k); });
      unroll<T>([&](auto t) PANGU_INLINE {
        vf sum = f_load(y[t] + k);
        unroll<R>([&](auto r) PANGU_INLINE { sum = f_fma(wv[r], f_set(x[t][r]), sum); });
        f_store(y[t] + k, sum);
      });
    }
  }
  for (; k < n; ++k)
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < R; ++r) y[t][k] = simd::fma1(one_value(w[r][k]), x[t][r], y[t][k]);
}

template <class E, int R>
inline void add_rows_to(int64_t T, const typename E::element *const *w, const float *x, int64_t x_stride, const float *scale,
                        int64_t n, const uint8_t *next, float *y, int64_t y_stride) {
  constexpr int kMost = 4;
  for (int64_t t = 0; t < T; t += kMost) {
    const int count = static_cast<int>(min<int64_t>(kMost, T - t));
    float factor[kMost][R];
    float *to[kMost];
    for (int i = 0; i < count; ++i) {
      to[i] = y + (t + i) * y_stride;
      for (int r = 0; r < R; ++r) factor[i][r] = x[(t + i) * x_stride + r] * (scale == nullptr ? 1.0f : scale[r]);
    }
    switch (count) {
    case 1: add_rows<E, R, 1>(w, factor, n, next, to); break;
    case 2: add_rows<E, R, 2>(w, factor, n, next, to); break;
    case 3: add_rows<E, R, 3>(w, factor, n, next, to); break;
    default: add_rows<E, R, kMost>(w, factor, n, next, to);
    }
  }
}

template <class E>
__attribute__((noinline)) void transposed(int64_t T, int64_t begin, int64_t end, int64_t I, const float *x, int64_t x_stride,
                                          const Weight &m, float *y, int64_t y_stride) {
  typedef typename E::element element;
  const float *const scales = static_cast<const float *>(m.scales);
  const uint8_t *const data = static_cast<const uint8_t *>(m.data);
  int64_t o = begin;
  for (; o < end; o += o + 4 <= end ? 4 : 1) {
    const element *w[4];
    for (int64_t r = 0; r < 4; ++r) w[r] = reinterpret_cast<const element *>(data + min(o + r, end - 1) * m.row_stride);
    const float *const scale = scales == nullptr ? nullptr : scales + o;
    const uint8_t *const next = data + (o + 4) * m.row_stride;
    if (o + 4 <= end)
      add_rows_to<E, 4>(T, w, x + o - begin, x_stride, scale, I, next, y, y_stride);
    else
      add_rows_to<E, 1>(T, w, x + o - begin, x_stride, scale, I, next, y, y_stride);
  }
}

// q4: rows are made floats, a few columns at a time.
inline void transposed_q4(int64_t T, int64_t begin, int64_t end, int64_t I, const float *x, int64_t x_stride, const Weight &m, float *y,
                          int64_t y_stride) {
  constexpr int64_t kColumns = 512;
  float values[kColumns];
  for (int64_t from = 0; from < I; from += kColumns) {
    const int64_t n = min(kColumns, I - from);
    for (int64_t o = begin; o < end; ++o) {
      const Weight part{static_cast<const uint8_t *>(m.data) + o * m.row_stride + from / 2,
                        static_cast<const uint16_t *>(m.scales) + o * weight_groups(I) + from / kQuantGroup, PANGU_Q4, m.row_stride};
      weight_row(part, 0, n, values);
      const float *const row = values;
      add_rows_to<F32, 1>(T, &row, x + o - begin, x_stride, nullptr, n, reinterpret_cast<const uint8_t *>(row), y + from, y_stride);
    }
  }
}

} // namespace pangu
