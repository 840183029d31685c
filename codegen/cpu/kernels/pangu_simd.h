// pangu_simd.h: one vector register of floats on whatever machine this is compiled for (AVX-512, AVX, NEON, SSE), and
// products of a few rows with a few rows. GCC and Clang vector extensions: the same code runs everywhere.
#pragma once

#if defined(__FMA__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace pangu {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float vec __attribute__((vector_size(sizeof(float) * kWidth)));

inline vec load(const float *p) {
  vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float *p, vec v) { std::memcpy(p, &v, sizeof v); }
inline vec splat(float x) { return vec{} + x; }

// a * b + c. Said outright: a compiler that fuses products and sums as it likes (GCC does not in every loop for every
// processor) would give one element other bits in one tile shape than in another.
inline vec fma(vec a, vec b, vec c) {
#if defined(__AVX512F__)
  return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
  return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// The first n floats, then zeros; and back.
inline vec load_part(const float *p, int64_t n) {
  float t[kWidth] = {};
  for (int64_t i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
}
inline void store_part(float *p, vec v, int64_t n) {
  float t[kWidth];
  store(t, v);
  for (int64_t i = 0; i < n; ++i) p[i] = t[i];
}

// Sum of the lanes in a fixed tree.
inline float sum(vec v) {
  float t[kWidth];
  store(t, v);
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) t[i] += t[i + half];
  return t[0];
}

// Two partial sums, so that additions overlap; one order of operations for every caller.
inline float dot(const float *a, const float *b, int64_t n) {
  vec s0{}, s1{};
  int64_t i = 0;
  for (; i + 2 * kWidth <= n; i += 2 * kWidth) {
    s0 = fma(load(a + i), load(b + i), s0);
    s1 = fma(load(a + i + kWidth), load(b + i + kWidth), s1);
  }
  for (; i + kWidth <= n; i += kWidth) s0 = fma(load(a + i), load(b + i), s0);
  if (i < n) s1 = fma(load_part(a + i, n - i), load_part(b + i, n - i), s1);
  return sum(s0 + s1);
}

inline float sum_of_squares(const float *x, int64_t n) { return dot(x, x, n); }

// c[m * c_stride + n] = dot(a + m * a_stride, b[n]) over K, for MB rows of a and NB pointers to rows.
template <int MB, int NB>
inline void dot_tile(const float *a, int64_t a_stride, const float *const *b, int64_t K, float *c, int64_t c_stride) {
  vec acc[MB][NB];
#pragma GCC unroll 16
  for (int m = 0; m < MB; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < NB; ++n) acc[m][n] = vec{};
  int64_t k = 0;
  for (; k + kWidth <= K; k += kWidth) {
    vec bv[NB];
#pragma GCC unroll 16
    for (int n = 0; n < NB; ++n) bv[n] = load(b[n] + k);
#pragma GCC unroll 16
    for (int m = 0; m < MB; ++m) {
      const vec av = load(a + m * a_stride + k);
#pragma GCC unroll 16
      for (int n = 0; n < NB; ++n) acc[m][n] = fma(av, bv[n], acc[m][n]);
    }
  }
  if (k < K)
    for (int m = 0; m < MB; ++m)
      for (int n = 0; n < NB; ++n) acc[m][n] = fma(load_part(a + m * a_stride + k, K - k), load_part(b[n] + k, K - k), acc[m][n]);
#pragma GCC unroll 16
  for (int m = 0; m < MB; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < NB; ++n) c[m * c_stride + n] = sum(acc[m][n]);
}

template <int MB>
inline void dot_band(const float *a, int64_t a_stride, int64_t N, const float *const *b, int64_t K, float *c, int64_t c_stride) {
  int64_t n = 0;
  for (; n + 3 <= N; n += 3) dot_tile<MB, 3>(a, a_stride, b + n, K, c + n, c_stride);
  for (; n < N; ++n) dot_tile<MB, 1>(a, a_stride, b + n, K, c + n, c_stride);
}

// All of c[M, N]: rows of a against N rows given by pointers.
inline void dot_grid(int64_t M, const float *a, int64_t a_stride, int64_t N, const float *const *b, int64_t K, float *c, int64_t c_stride) {
  int64_t m = 0;
  for (; m + 4 <= M; m += 4) dot_band<4>(a + m * a_stride, a_stride, N, b, K, c + m * c_stride, c_stride);
  for (; m < M; ++m) dot_band<1>(a + m * a_stride, a_stride, N, b, K, c + m * c_stride, c_stride);
}

// acc[m][c..] += sum over j of p[m][j] * b[j][c..], j in order, for NB vectors of columns.
template <int MB, int NB>
inline void mix_tile(const float *p, int64_t p_stride, int64_t N, const float *const *b, int64_t c, float *acc, int64_t acc_stride) {
  vec s[MB][NB];
#pragma GCC unroll 16
  for (int m = 0; m < MB; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < NB; ++n) s[m][n] = load(acc + m * acc_stride + c + n * kWidth);
  for (int64_t j = 0; j < N; ++j) {
    vec bv[NB];
#pragma GCC unroll 16
    for (int n = 0; n < NB; ++n) bv[n] = load(b[j] + c + n * kWidth);
#pragma GCC unroll 16
    for (int m = 0; m < MB; ++m) {
      const vec pv = splat(p[m * p_stride + j]);
#pragma GCC unroll 16
      for (int n = 0; n < NB; ++n) s[m][n] = fma(pv, bv[n], s[m][n]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < MB; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < NB; ++n) store(acc + m * acc_stride + c + n * kWidth, s[m][n]);
}

template <int MB>
inline void mix_band(const float *p, int64_t p_stride, int64_t N, const float *const *b, int64_t C, float *acc, int64_t acc_stride) {
  int64_t c = 0;
  for (; c + 3 * kWidth <= C; c += 3 * kWidth) mix_tile<MB, 3>(p, p_stride, N, b, c, acc, acc_stride);
  for (; c + kWidth <= C; c += kWidth) mix_tile<MB, 1>(p, p_stride, N, b, c, acc, acc_stride);
  for (int m = 0; c < C && m < MB; ++m) {
    vec s = load_part(acc + m * acc_stride + c, C - c);
    for (int64_t j = 0; j < N; ++j) s = fma(splat(p[m * p_stride + j]), load_part(b[j] + c, C - c), s);
    store_part(acc + m * acc_stride + c, s, C - c);
  }
}

// acc[M, C] += p[M, N] times N rows given by pointers.
inline void mix_grid(int64_t M, const float *p, int64_t p_stride, int64_t N, const float *const *b, int64_t C, float *acc, int64_t acc_stride) {
  int64_t m = 0;
  for (; m + 4 <= M; m += 4) mix_band<4>(p + m * p_stride, p_stride, N, b, C, acc + m * acc_stride, acc_stride);
  for (; m < M; ++m) mix_band<1>(p + m * p_stride, p_stride, N, b, C, acc + m * acc_stride, acc_stride);
}

} // namespace pangu
