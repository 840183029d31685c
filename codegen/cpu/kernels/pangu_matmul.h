// pangu_matmul.h: float32 matrix products over strided operands, and products with chosen experts.
#pragma once

namespace pangu {

// c[m][n] = dot(a[m], b + n * ldb) over K, for MB rows and NB columns. The order of operations of one element depends
// on K alone.
template <int MB, int NB>
inline void dot_block(const float *const *a, const float *b, int64_t ldb, int64_t K, float *const *c, int64_t n0) {
  vec acc[MB][NB];
  for (int m = 0; m < MB; ++m)
    for (int n = 0; n < NB; ++n) acc[m][n] = vec{};
  int64_t k = 0;
  for (; k + kWidth <= K; k += kWidth) {
    vec av[MB];
    for (int m = 0; m < MB; ++m) av[m] = load(a[m] + k);
    for (int n = 0; n < NB; ++n) {
      const vec bv = load(b + n * ldb + k);
      for (int m = 0; m < MB; ++m) acc[m][n] = fma(av[m], bv, acc[m][n]);
    }
  }
  if (k < K) {
    vec av[MB];
    for (int m = 0; m < MB; ++m) av[m] = load_part(a[m] + k, K - k);
    for (int n = 0; n < NB; ++n) {
      const vec bv = load_part(b + n * ldb + k, K - k);
      for (int m = 0; m < MB; ++m) acc[m][n] = fma(av[m], bv, acc[m][n]);
    }
  }
  for (int m = 0; m < MB; ++m)
    for (int n = 0; n < NB; ++n) c[m][n0 + n] = sum(acc[m][n]);
}

template <int MB>
inline void dot_rows(const float *const *a, const float *b, int64_t ldb, int64_t K, float *const *c, int64_t begin, int64_t end) {
  int64_t n = begin;
  for (; n + 4 <= end; n += 4) dot_block<MB, 4>(a, b + n * ldb, ldb, K, c, n);
  for (; n < end; ++n) dot_block<MB, 1>(a, b + n * ldb, ldb, K, c, n);
}

// Rows given by pointers; columns [begin, end) of the product with b's rows (b: [N, K], row stride ldb).
inline void dot_panel(const float *const *a, int64_t rows, const float *b, int64_t ldb, int64_t K, float *const *c,
                      int64_t begin, int64_t end) {
  // A block of b's rows stays in the cache while all rows of a pass over it.
  const int64_t block = max<int64_t>(4, 16384 / max<int64_t>(K, 1) / 4 * 4);
  for (int64_t n = begin; n < end; n += block) {
    const int64_t stop = min(n + block, end);
    int64_t m = 0;
    for (; m + 4 <= rows; m += 4) dot_rows<4>(a + m, b, ldb, K, c + m, n, stop);
    for (; m < rows; ++m) dot_rows<1>(a + m, b, ldb, K, c + m, n, stop);
  }
}

// c[m, n..] += a[m, k] * b[k, n..], k in order; b's rows are contiguous along n.
template <int MB>
inline void axpy_block(const float *a, int64_t a_rs, int64_t a_cs, const float *b, int64_t b_rs, int64_t K, float *c,
                       int64_t c_rs, int64_t n, int64_t end) {
  for (; n + 2 * kWidth <= end; n += 2 * kWidth) {
    vec acc[MB][2];
    for (int m = 0; m < MB; ++m) acc[m][0] = acc[m][1] = vec{};
    for (int64_t k = 0; k < K; ++k) {
      const vec b0 = load(b + k * b_rs + n), b1 = load(b + k * b_rs + n + kWidth);
      for (int m = 0; m < MB; ++m) {
        const vec av = splat(a[m * a_rs + k * a_cs]);
        acc[m][0] = fma(av, b0, acc[m][0]);
        acc[m][1] = fma(av, b1, acc[m][1]);
      }
    }
    for (int m = 0; m < MB; ++m) store(c + m * c_rs + n, acc[m][0]), store(c + m * c_rs + n + kWidth, acc[m][1]);
  }
  for (; n < end; n += kWidth) {
    const int64_t part = min<int64_t>(kWidth, end - n);
    vec acc[MB];
    for (int m = 0; m < MB; ++m) acc[m] = vec{};
    for (int64_t k = 0; k < K; ++k) {
      const vec bv = part == kWidth ? load(b + k * b_rs + n) : load_part(b + k * b_rs + n, part);
      for (int m = 0; m < MB; ++m) acc[m] = fma(splat(a[m * a_rs + k * a_cs]), bv, acc[m]);
    }
    for (int m = 0; m < MB; ++m)
      if (part == kWidth) store(c + m * c_rs + n, acc[m]); else store_part(c + m * c_rs + n, acc[m], part);
  }
}

inline void axpy_panel(const float *a, int64_t a_rs, int64_t a_cs, int64_t M, const float *b, int64_t b_rs, int64_t K,
                       float *c, int64_t c_rs, int64_t begin, int64_t end) {
  int64_t m = 0;
  for (; m + 4 <= M; m += 4) axpy_block<4>(a + m * a_rs, a_rs, a_cs, b, b_rs, K, c + m * c_rs, c_rs, begin, end);
  for (; m < M; ++m) axpy_block<1>(a + m * a_rs, a_rs, a_cs, b, b_rs, K, c + m * c_rs, c_rs, begin, end);
}

// A product of strided operands: strides in elements; c is row-major [M, N].
struct Product {
  int64_t M, N, K, a_rs, a_cs, b_rs, b_cs;
};

inline void product_columns(const Product &p, const float *a, const float *b, float *c, int64_t begin, int64_t end) {
  if (p.b_rs == 1 && (p.a_cs == 1 || p.K == 1) && !(p.b_cs == 1 && p.K == 1)) {
    constexpr int64_t kRows = 64;
    const float *rows[kRows];
    float *outs[kRows];
    for (int64_t m = 0; m < p.M; m += kRows) {
      const int64_t count = min(kRows, p.M - m);
      for (int64_t i = 0; i < count; ++i) rows[i] = a + (m + i) * p.a_rs, outs[i] = c + (m + i) * p.N;
      dot_panel(rows, count, b, p.b_cs, p.K, outs, begin, end);
    }
    return;
  }
  axpy_panel(a, p.a_rs, p.a_cs, p.M, b, p.b_rs, p.K, c, p.N, begin, end);
}

inline void matmul(pangu_pool *pool, const Product &p, const float *a, const float *b, float *c) {
  // Columns are shared in blocks of 16, so that the split never changes which code computes an element.
  const int64_t blocks = (p.N + 15) / 16;
  parallel(pool, blocks, 16 * p.M * p.K, [&](int64_t begin, int64_t end) {
    product_columns(p, a, b, c, begin * 16, min(end * 16, p.N));
  });
}

// Batches with up to three axes: sizes, and the strides of a and b along them (0 where an operand is shared).
struct Batch {
  int64_t size[3], a[3], b[3];
};

inline void batched_matmul(pangu_pool *pool, const Product &p, const Batch &batch, const float *a, const float *b, float *c) {
  const int64_t total = batch.size[0] * batch.size[1] * batch.size[2];
  parallel(pool, total, p.M * p.N * p.K, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t i2 = i % batch.size[2], i1 = i / batch.size[2] % batch.size[1], i0 = i / batch.size[2] / batch.size[1];
      product_columns(p, a + i0 * batch.a[0] + i1 * batch.a[1] + i2 * batch.a[2],
                      b + i0 * batch.b[0] + i1 * batch.b[1] + i2 * batch.b[2], c + i * p.M * p.N, 0, p.N);
    }
  });
}

// y[pair] = weight[expert[pair]] (O x I, row-major) times x[pair]; pairs are (token, choice) in row-major order.
// x of pair i lies at x + (i / k) * x_ts + (i % k) * x_ks. Each expert's weights are read once per call.
inline void expert_linear(pangu_pool *pool, int64_t tokens, int64_t k, int64_t E, int64_t O, int64_t I, const float *x,
                          int64_t x_ts, int64_t x_ks, const float *weight, const int64_t *expert, float *y) {
  const int64_t pairs = tokens * k;
  if (pairs == 0) return;
  std::vector<int64_t> first(E + 1, 0), next(E);
  std::vector<const float *> in(pairs);
  std::vector<float *> out(pairs);
  for (int64_t i = 0; i < pairs; ++i) ++first[expert[i] + 1];
  for (int64_t e = 0; e < E; ++e) first[e + 1] += first[e], next[e] = first[e];
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t at = next[expert[i]]++;
    in[at] = x + (i / k) * x_ts + (i % k) * x_ks;
    out[at] = y + i * O;
  }
  std::vector<int64_t> used;
  for (int64_t e = 0; e < E; ++e)
    if (first[e + 1] > first[e]) used.push_back(e);
  const int64_t blocks = (O + 63) / 64;
  parallel(pool, static_cast<int64_t>(used.size()) * blocks, 64 * I * max<int64_t>(1, pairs / E), [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const int64_t e = used[job / blocks], from = job % blocks * 64;
      dot_panel(&in[first[e]], first[e + 1] - first[e], weight + e * O * I, I, I, &out[first[e]], from, min(from + 64, O));
    }
  });
}

} // namespace pangu
