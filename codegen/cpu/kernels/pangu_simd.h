// pangu_simd.h: one vector register of floats on whatever machine this is compiled for (AVX-512, AVX, NEON, SSE), and
// products of a few rows with a few rows. GCC and Clang vector extensions: the same code runs everywhere.
#pragma once

#if defined(__FMA__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized" // of g++ 12 in its own header
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
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
typedef int32_t ints __attribute__((vector_size(sizeof(int32_t) * kWidth)));

inline vec load(const float *p) {
  vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float *p, vec v) { std::memcpy(p, &v, sizeof v); }
inline vec splat(float x) { return x - vec{}; } // not a sum, which would change -0

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

// Holds a value in a register: GCC would load it again for each of its uses, and loads are what a tile runs out of first.
inline void hold(vec &v) {
#if defined(__AVX__)
  asm("" : "+v"(v)); // any of the 32 that AVX-512 has, not the first 16 alone
#elif defined(__ARM_NEON)
  asm("" : "+w"(v));
#else
  (void)v;
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

// Sum of the lanes in a fixed tree: the upper half onto the lower, again and again.
typedef float vec4 __attribute__((vector_size(16)));
#if defined(__AVX512F__)
typedef float vec8 __attribute__((vector_size(32)));
#endif
inline float sum(vec v) {
#if defined(__AVX512F__)
  const vec8 w = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  const vec4 f = __builtin_shufflevector(w, w, 0, 1, 2, 3) + __builtin_shufflevector(w, w, 4, 5, 6, 7);
#elif defined(__AVX__)
  const vec4 f = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
  const vec4 f = v;
#endif
  const vec4 g = f + __builtin_shufflevector(f, f, 2, 3, 0, 1);
  return g[0] + g[1];
}

// The largest lane, where none is NaN.
inline float most(vec v) {
#if defined(__AVX512F__)
  const vec8 a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7), b = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  const vec8 w = a < b ? b : a;
  const vec4 c = __builtin_shufflevector(w, w, 0, 1, 2, 3), d = __builtin_shufflevector(w, w, 4, 5, 6, 7);
  const vec4 f = c < d ? d : c;
#elif defined(__AVX__)
  const vec4 c = __builtin_shufflevector(v, v, 0, 1, 2, 3), d = __builtin_shufflevector(v, v, 4, 5, 6, 7);
  const vec4 f = c < d ? d : c;
#else
  const vec4 f = v;
#endif
  const vec4 upper = __builtin_shufflevector(f, f, 2, 3, 0, 1), g = f < upper ? upper : f;
  return g[0] < g[1] ? g[1] : g[0];
}

// Is any lane not zero?
inline bool any(ints v) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)v, (__m512i)v) != 0;
#elif defined(__AVX2__)
  return _mm256_testz_si256((__m256i)v, (__m256i)v) == 0;
#elif defined(__ARM_NEON) && defined(__aarch64__)
  return vmaxvq_u32((uint32x4_t)v) != 0;
#else
  int32_t all = 0;
  for (int l = 0; l < kWidth; ++l) all |= v[l];
  return all != 0;
#endif
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
    for (int n = 0; n < NB; ++n) {
      bv[n] = load(b[n] + k);
      hold(bv[n]);
    }
#pragma GCC unroll 16
    for (int m = 0; m < MB; ++m) {
      vec av = load(a + m * a_stride + k);
      hold(av);
#pragma GCC unroll 16
      for (int n = 0; n < NB; ++n) acc[m][n] = fma(av, bv[n], acc[m][n]);
    }
  }
  if (k < K) {
    vec bv[NB];
#pragma GCC unroll 16
    for (int n = 0; n < NB; ++n) bv[n] = load_part(b[n] + k, K - k);
#pragma GCC unroll 16
    for (int m = 0; m < MB; ++m) {
      const vec av = load_part(a + m * a_stride + k, K - k);
#pragma GCC unroll 16
      for (int n = 0; n < NB; ++n) acc[m][n] = fma(av, bv[n], acc[m][n]);
    }
  }
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

// All of c[M, N]: rows of a against N rows given by pointers. A few rows of b at a time stay in the first cache, beside
// four of a, while all of a passes over them.
inline void dot_grid(int64_t M, const float *a, int64_t a_stride, int64_t N, const float *const *b, int64_t K, float *c, int64_t c_stride) {
  constexpr int64_t kHeld = 9;
  for (int64_t n = 0; n < N; n += kHeld) {
    const int64_t count = min(kHeld, N - n);
    int64_t m = 0;
    for (; m + 4 <= M; m += 4) dot_band<4>(a + m * a_stride, a_stride, count, b + n, K, c + m * c_stride + n, c_stride);
    for (; m < M; ++m) dot_band<1>(a + m * a_stride, a_stride, count, b + n, K, c + m * c_stride + n, c_stride);
  }
}

// c[n][l] = sum over k of b[n][k] * a[k][l] for NV vectors of lanes l (rows of a matrix, turned) and NB pointers to rows b:
// products of many rows with many rows that need no sums across lanes. k in [from, to); `first`: nothing to add to yet.
template <int NV, int NB>
inline void lane_tile(const float *a, const float *const *b, int64_t from, int64_t to, bool first, float *c, int64_t c_stride) {
  vec acc[NB][NV];
#pragma GCC unroll 16
  for (int n = 0; n < NB; ++n)
#pragma GCC unroll 16
    for (int v = 0; v < NV; ++v) acc[n][v] = first ? vec{} : load(c + n * c_stride + v * kWidth);
  for (int64_t k = from; k < to; ++k) {
    vec av[NV];
#pragma GCC unroll 16
    for (int v = 0; v < NV; ++v) {
      av[v] = load(a + (k * NV + v) * kWidth);
      hold(av[v]);
    }
#pragma GCC unroll 16
    for (int n = 0; n < NB; ++n) {
      vec bv = splat(b[n][k]);
      hold(bv);
#pragma GCC unroll 16
      for (int v = 0; v < NV; ++v) acc[n][v] = fma(av[v], bv, acc[n][v]);
    }
  }
#pragma GCC unroll 16
  for (int n = 0; n < NB; ++n)
#pragma GCC unroll 16
    for (int v = 0; v < NV; ++v) store(c + n * c_stride + v * kWidth, acc[n][v]);
}

// Rows b of a tile of NV vectors of lanes: as many as the registers hold.
constexpr int lane_rows(int NV) { return NV == 1 ? 8 : NV == 2 ? 6 : 4; }

// All N rows b; a[K][NV * kWidth] passes in pieces that the first cache holds. The rows lie anywhere: the next ones are
// asked for while these are computed.
template <int NV> inline void lane_dots(const float *a, int64_t N, const float *const *b, int64_t K, float *c) {
  constexpr int64_t kDepth = 192, kStride = NV * kWidth;
  constexpr int NB = lane_rows(NV);
  for (int64_t k = 0; k < K; k += kDepth) {
    const int64_t to = min(k + kDepth, K);
    int64_t n = 0;
    for (; n + NB <= N; n += NB) {
      for (int64_t i = n + NB; i < min(n + 2 * NB, N); ++i)
        for (int64_t line = k; line < to; line += 16) __builtin_prefetch(b[i] + line);
      lane_tile<NV, NB>(a, b + n, k, to, k == 0, c + n * kStride, kStride);
    }
    for (; n < N; ++n) lane_tile<NV, 1>(a, b + n, k, to, k == 0, c + n * kStride, kStride);
  }
}

// a[k][l] = x[l * x_stride + k] for `count` rows of K values; the lanes behind them are zero.
inline void turn_rows(const float *x, int64_t x_stride, int64_t count, int64_t K, int64_t lanes, float *a) {
  constexpr int64_t kRows = 16; // destination lines that are written together
  for (int64_t from = 0; from < K; from += kRows)
    for (int64_t l = 0; l < lanes; ++l)
      for (int64_t k = from; k < min(from + kRows, K); ++k) a[k * lanes + l] = l < count ? x[l * x_stride + k] : 0.0f;
}

// acc[m][c..] += sum over j of p[m * p_stride + j * p_step] * b[j][c..], j in order, for NB vectors of columns.
template <int MB, int NB>
inline void mix_tile(const float *p, int64_t p_stride, int64_t p_step, int64_t N, const float *const *b, int64_t c, float *acc, int64_t acc_stride) {
  vec s[MB][NB];
#pragma GCC unroll 16
  for (int m = 0; m < MB; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < NB; ++n) s[m][n] = load(acc + m * acc_stride + c + n * kWidth);
  for (int64_t j = 0; j < N; ++j) {
    vec bv[NB];
#pragma GCC unroll 16
    for (int n = 0; n < NB; ++n) {
      bv[n] = load(b[j] + c + n * kWidth);
      hold(bv[n]);
    }
#pragma GCC unroll 16
    for (int m = 0; m < MB; ++m) {
      const vec pv = splat(p[m * p_stride + j * p_step]);
#pragma GCC unroll 16
      for (int n = 0; n < NB; ++n) s[m][n] = fma(pv, bv[n], s[m][n]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < MB; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < NB; ++n) store(acc + m * acc_stride + c + n * kWidth, s[m][n]);
}

// acc[M, C] += p[M, N] times N rows given by pointers. A strip of columns stays in the first cache for all of p.
template <int NB>
inline void mix_strip(int64_t M, const float *p, int64_t p_stride, int64_t p_step, int64_t N, const float *const *b, int64_t c, float *acc, int64_t acc_stride) {
  int64_t m = 0;
  for (; m + 4 <= M; m += 4) mix_tile<4, NB>(p + m * p_stride, p_stride, p_step, N, b, c, acc + m * acc_stride, acc_stride);
  for (; m < M; ++m) mix_tile<1, NB>(p + m * p_stride, p_stride, p_step, N, b, c, acc + m * acc_stride, acc_stride);
}

inline void mix_grid(int64_t M, const float *p, int64_t p_stride, int64_t p_step, int64_t N, const float *const *b, int64_t C, float *acc, int64_t acc_stride) {
  int64_t c = 0;
  for (; c + 3 * kWidth <= C; c += 3 * kWidth) mix_strip<3>(M, p, p_stride, p_step, N, b, c, acc, acc_stride);
  for (; c + kWidth <= C; c += kWidth) mix_strip<1>(M, p, p_stride, p_step, N, b, c, acc, acc_stride);
  for (int64_t m = 0; c < C && m < M; ++m) {
    vec s = load_part(acc + m * acc_stride + c, C - c);
    for (int64_t j = 0; j < N; ++j) s = fma(splat(p[m * p_stride + j * p_step]), load_part(b[j] + c, C - c), s);
    store_part(acc + m * acc_stride + c, s, C - c);
  }
}

} // namespace pangu
