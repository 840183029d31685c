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
//   linear_transposed(T, begin, end, I, x, x_stride, w, y, y_stride)      not for BF16C and Q8I
//       y[t, 0..I) = sum over o in [begin, end) of x[t * x_stride + o - begin] * w[o, :]
//
// Strides are in elements. A view of Q8I begins at a multiple of 8 rows, of BF16C at one of 4; begin and end are any. Rows made ready for f32 serve bf16 as well. Ranges of rows are
// best multiples of 16. y must not be written by two threads within one range.
#pragma once

#include "pangu_parallel.h"

#include <utility>

#include "pangu_quant.h"

#include "pangu_gemm_simd.h"

#include "pangu_gemm.h"

#include "pangu_gemm_eights.h"

#include "pangu_gemm_packed.h"

#include "pangu_prepare.h"

#include "pangu_transposed.h"

namespace pangu {

inline int64_t rows_bytes(int32_t format, int64_t T, int64_t I) {
  return T * (is_int8(format) ? record8::bytes(I) : format == PANGU_Q4 ? record4::bytes(I) : 0);
}

inline Rows prepare_rows(pangu_pool *pool, int32_t format, int64_t T, int64_t I, const float *x, int64_t x_stride, void *scratch) {
  if (!is_int8(format) && format != PANGU_Q4) return {x, x_stride, nullptr, 0};
  uint8_t *const records = static_cast<uint8_t *>(scratch);
  const int64_t bytes = rows_bytes(format, 1, I);
  parallel(pool, T, 2 * I, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (format == PANGU_Q8) prepare_record8<false>(x + t * x_stride, I, records + t * bytes);
      else if (format == PANGU_Q8I) prepare_record8<true>(x + t * x_stride, I, records + t * bytes);
      else if (format == PANGU_W8A8) prepare_row8(x + t * x_stride, I, records + t * bytes);
      else prepare_record4(x + t * x_stride, I, records + t * bytes);
    }
  });
  return {x, x_stride, records, bytes};
}

inline void linear_picked(int64_t n, const int64_t *pick, const int64_t *out, int64_t begin, int64_t end, int64_t I,
                          const Rows &rows, const Weight &w, float *y, int64_t y_stride) {
  const RowProduct p{n, I, pick, out, rows, w, y, y_stride, 0};
  if constexpr (kHasFormat<PANGU_BF16>)
    if (w.format == PANGU_BF16) return product_rows<FloatTile<Bf16>>(p, begin, end);
  if constexpr (kHasFormat<PANGU_BF16C>)
    if (w.format == PANGU_BF16C) return packed_rows<PackedTile>(p, begin, end);
  if constexpr (kHasFormat<PANGU_Q8>)
    if (w.format == PANGU_Q8) return product_rows<Q8Tile>(p, begin, end);
  if constexpr (kHasFormat<PANGU_Q8I>)
    if (w.format == PANGU_Q8I) return product_rows<EightsTile>(p, begin, end);
  if constexpr (kHasFormat<PANGU_W8A8>)
    if (w.format == PANGU_W8A8) return product_rows<W8A8Tile>(p, begin, end);
  if constexpr (kHasFormat<PANGU_Q4>)
    if (w.format == PANGU_Q4) return product_rows<Q4Tile>(p, begin, end);
  product_rows<FloatTile<F32>>(p, begin, end);
}

inline void linear_rows(int64_t T, int64_t begin, int64_t end, int64_t I, const Rows &rows, const Weight &w, float *y,
                        int64_t y_stride) {
  linear_picked(T, nullptr, nullptr, begin, end, I, rows, w, y, y_stride);
}

// Memory of the calling thread that grows to the largest call and is then used again.
inline void *linear_scratch(int64_t bytes) {
  static thread_local std::vector<uint8_t> memory;
  if (memory.size() < static_cast<size_t>(bytes) + 64) memory.resize(static_cast<size_t>(bytes) + 64);
  return reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
}

inline void linear(pangu_pool *pool, int64_t T, int64_t O, int64_t I, const float *x, int64_t x_stride, const Weight &w, float *y,
                   int64_t y_stride) {
  constexpr int64_t kShare = 16;
  const int64_t scratch = rows_bytes(w.format, T, I);
  const Rows rows = prepare_rows(pool, w.format, T, I, x, x_stride, scratch > 0 ? linear_scratch(scratch) : nullptr);
  parallel(pool, (O + kShare - 1) / kShare, kShare * T * I, [&](int64_t begin, int64_t end) {
    linear_rows(T, begin * kShare, min(end * kShare, O), I, rows, w, y, y_stride);
  });
}

inline void linear_transposed(int64_t T, int64_t begin, int64_t end, int64_t I, const float *x, int64_t x_stride, const Weight &w,
                              float *y, int64_t y_stride) {
  for (int64_t t = 0; t < T; ++t) std::fill_n(y + t * y_stride, I, 0.0f);
  if constexpr (kHasFormat<PANGU_BF16>)
    if (w.format == PANGU_BF16) return transposed<Bf16>(T, begin, end, I, x, x_stride, w, y, y_stride);
  if constexpr (kHasFormat<PANGU_Q8> || kHasFormat<PANGU_W8A8>)
    if (is_int8(w.format)) return transposed<S8>(T, begin, end, I, x, x_stride, w, y, y_stride);
  if constexpr (kHasFormat<PANGU_Q4>)
    if (w.format == PANGU_Q4) return transposed_q4(T, begin, end, I, x, x_stride, w, y, y_stride);
  transposed<F32>(T, begin, end, I, x, x_stride, w, y, y_stride);
}

} // namespace pangu
