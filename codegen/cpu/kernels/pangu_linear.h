// pangu_linear.h: y[T, O] = x[T, I] times a weight matrix [O, I] in any storage format. Everything is float32 outside.
//
// An element of y is computed by the same operations in the same order whatever T, the split of the rows, or the number
// of threads. Formats and views: pangu_quant.h.
//
//   linear(pool, T, O, I, x, x_stride, w, y, y_stride)       shared between the threads of the pool
//
// Inside a parallel region, in two steps: x is made ready once a call, then any thread computes any range of rows of w.
//
//   void *scratch                       rows_bytes(w.format, T, I) bytes, aligned to 64
//   Rows rows = prepare_rows(pool, w.format, T, I, x, x_stride, scratch);      (pool may be null: on this thread)
//   linear_rows(T, begin, end, I, rows, w, y, y_stride)      y[t * y_stride + o] for o in [begin, end)
//   linear_picked(n, pick, out, begin, end, I, rows, w, y, y_stride)
//       y[out[i] * y_stride + o] = w[o] . x[pick[i]] for i in [0, n): the tokens of one expert
//   linear_transposed(T, begin, end, I, x, x_stride, w, y, y_stride)
//       y[t, 0..I) = sum over o in [begin, end) of x[t * x_stride + o - begin] * w[o, :]
// Strides are in elements.
#pragma once

namespace pangu {

// Activations made ready for a weight format; valid while x and the scratch are.
struct Rows {
  const float *x;
  int64_t stride;
};

inline int64_t rows_bytes(int32_t, int64_t, int64_t) { return 64; }

inline Rows prepare_rows(pangu_pool *, int32_t, int64_t, int64_t, const float *x, int64_t x_stride, void *) { return {x, x_stride}; }

inline void linear_picked(int64_t n, const int64_t *pick, const int64_t *out, int64_t begin, int64_t end, int64_t I,
                          const Rows &rows, const Weight &w, float *y, int64_t y_stride) {
  std::vector<float> values(static_cast<size_t>(I));
  for (int64_t o = begin; o < end; ++o) {
    weight_row(w, o, I, values.data());
    for (int64_t t = 0; t < n; ++t) {
      const float *x = rows.x + (pick != nullptr ? pick[t] : t) * rows.stride;
      float sum = 0;
      for (int64_t i = 0; i < I; ++i) sum += values[static_cast<size_t>(i)] * x[i];
      y[(out != nullptr ? out[t] : t) * y_stride + o] = sum;
    }
  }
}

inline void linear_rows(int64_t T, int64_t begin, int64_t end, int64_t I, const Rows &rows, const Weight &w, float *y,
                        int64_t y_stride) {
  linear_picked(T, nullptr, nullptr, begin, end, I, rows, w, y, y_stride);
}

inline void linear(pangu_pool *pool, int64_t T, int64_t O, int64_t I, const float *x, int64_t x_stride, const Weight &w, float *y,
                   int64_t y_stride) {
  const Rows rows = prepare_rows(pool, w.format, T, I, x, x_stride, nullptr);
  parallel(pool, O, T * I, [&](int64_t begin, int64_t end) { linear_rows(T, begin, end, I, rows, w, y, y_stride); });
}

inline void linear_transposed(int64_t T, int64_t begin, int64_t end, int64_t I, const float *x, int64_t x_stride, const Weight &w,
                              float *y, int64_t y_stride) {
  std::vector<float> values(static_cast<size_t>(I));
  for (int64_t t = 0; t < T; ++t) std::fill_n(y + t * y_stride, I, 0.0f);
  for (int64_t o = begin; o < end; ++o) {
    weight_row(w, o, I, values.data());
    for (int64_t t = 0; t < T; ++t)
      for (int64_t i = 0; i < I; ++i) y[t * y_stride + i] += x[t * x_stride + o - begin] * values[static_cast<size_t>(i)];
  }
}

} // namespace pangu
