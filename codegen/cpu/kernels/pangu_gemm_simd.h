// pangu_gemm_simd.h: the few vector operations that the matrix kernels are written in, for AVX-512, AVX2, NEON (with or
// without the dot product instructions) and, through the compiler's vector types, anything else.
//
//   vf        kFloats floats
//   W32       32 weights of a row, ready to multiply; X32: bytes of 32 activations, as x_pack32 wrote them
//   IAcc      exact int32 sums of products, spread over lanes
// PANGU_PORTABLE chooses the last variant whatever the processor (tests).
#pragma once

#if !defined(PANGU_PORTABLE) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define PANGU_SIMD_AVX512 1
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized" // of g++ 12 in its own header
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif !defined(PANGU_PORTABLE) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define PANGU_SIMD_AVX2 1
#include <immintrin.h>
#elif !defined(PANGU_PORTABLE) && defined(__ARM_NEON) && defined(__aarch64__)
#define PANGU_SIMD_NEON 1
#include <arm_neon.h>
#else
#define PANGU_SIMD_PORTABLE 1
#endif

namespace pangu {
namespace simd {

// One rounding where the processor has the instruction; the same choice for every element.
inline float fma1(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

inline void prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }

#if defined(PANGU_SIMD_AVX512) || defined(PANGU_SIMD_AVX2)

// Sums of four vectors of eight floats, each in the order ((0 1)(2 3))((4 5)(6 7)).
inline void sum4_of8(__m256 a, __m256 b, __m256 c, __m256 d, float *out) {
  const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}
inline void sum4_of8(__m256i a, __m256i b, __m256i c, __m256i d, int32_t *out) {
  const __m256i s = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
  _mm_storeu_si128(reinterpret_cast<__m128i *>(out), _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1)));
}

inline void x_pack32(const int16_t *q, uint8_t *out) { std::memcpy(out, q, 64); }

#endif

#if defined(PANGU_SIMD_AVX512)

constexpr int kFloats = 16;
constexpr bool kManyRegisters = true;
typedef __m512 vf;
inline vf f_zero() { return _mm512_setzero_ps(); }
inline vf f_set(float x) { return _mm512_set1_ps(x); }
inline vf f_load(const float *p) { return _mm512_loadu_ps(p); }
inline void f_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
inline vf f_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
inline vf f_load_bf16(const uint16_t *p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline vf f_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
inline vf f_load_s8(const int8_t *p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
}
inline __m256 fold(vf a) { return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)); }
inline void f_sum4(vf a, vf b, vf c, vf d, float *out) { sum4_of8(fold(a), fold(b), fold(c), fold(d), out); }

typedef __m512i W32;
typedef __m512i IAcc;
inline W32 w_load_q8(const int8_t *p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
inline W32 w_load_q4(const uint8_t *p) {
  const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
  const __m256i low = _mm256_and_si256(bytes, _mm256_set1_epi16(15)), high = _mm256_srli_epi16(bytes, 4);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
inline IAcc i_zero() { return _mm512_setzero_si512(); }
inline IAcc i_dot(IAcc acc, W32 w, const uint8_t *x) {
  const __m512i xv = _mm512_loadu_si512(x);
#if defined(__AVX512VNNI__)
  return _mm512_dpwssd_epi32(acc, w, xv);
#else
  return _mm512_add_epi32(acc, _mm512_madd_epi16(w, xv));
#endif
}
inline vf i_float(IAcc a) { return _mm512_cvtepi32_ps(a); }
inline __m256i fold(IAcc a) { return _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1)); }
inline void i_sum4(IAcc a, IAcc b, IAcc c, IAcc d, int32_t *out) { sum4_of8(fold(a), fold(b), fold(c), fold(d), out); }

#elif defined(PANGU_SIMD_AVX2)

constexpr int kFloats = 8;
constexpr bool kManyRegisters = false;
typedef __m256 vf;
inline vf f_zero() { return _mm256_setzero_ps(); }
inline vf f_set(float x) { return _mm256_set1_ps(x); }
inline vf f_load(const float *p) { return _mm256_loadu_ps(p); }
inline void f_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
inline vf f_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
inline vf f_load_bf16(const uint16_t *p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline vf f_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))); }
inline vf f_load_s8(const int8_t *p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
}
inline void f_sum4(vf a, vf b, vf c, vf d, float *out) { sum4_of8(a, b, c, d, out); }

struct W32 {
  __m256i low, high;
};
typedef __m256i IAcc;
inline W32 w_load_q8(const int8_t *p) {
  const __m128i *q = reinterpret_cast<const __m128i *>(p);
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(q)), _mm256_cvtepi8_epi16(_mm_loadu_si128(q + 1))};
}
inline W32 w_load_q4(const uint8_t *p) {
  const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
  return {_mm256_and_si256(bytes, _mm256_set1_epi16(15)), _mm256_srli_epi16(bytes, 4)};
}
inline IAcc i_zero() { return _mm256_setzero_si256(); }
inline IAcc i_dot(IAcc acc, W32 w, const uint8_t *x) {
  const __m256i *q = reinterpret_cast<const __m256i *>(x);
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(w.low, _mm256_loadu_si256(q)));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(w.high, _mm256_loadu_si256(q + 1)));
}
inline vf i_float(IAcc a) { return _mm256_cvtepi32_ps(a); }
inline void i_sum4(IAcc a, IAcc b, IAcc c, IAcc d, int32_t *out) { sum4_of8(a, b, c, d, out); }

#elif defined(PANGU_SIMD_NEON)

constexpr int kFloats = 4;
constexpr bool kManyRegisters = true;
typedef float32x4_t vf;
inline vf f_zero() { return vdupq_n_f32(0.0f); }
inline vf f_set(float x) { return vdupq_n_f32(x); }
inline vf f_load(const float *p) { return vld1q_f32(p); }
inline void f_store(float *p, vf v) { vst1q_f32(p, v); }
inline vf f_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
inline vf f_load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
inline vf f_load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline vf f_load_s8(const int8_t *p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}
inline void f_sum4(vf a, vf b, vf c, vf d, float *out) { vst1q_f32(out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))); }

#if defined(__ARM_FEATURE_DOTPROD)
// x = 256 * upper + lower, both int8: two dot products of bytes instead of eight multiplications of words.
struct W32 {
  int8x16_t low, high;
};
struct IAcc {
  int32x4_t upper, lower;
};
inline void x_pack32(const int16_t *q, uint8_t *out) {
  int8_t *const split = reinterpret_cast<int8_t *>(out);
  for (int i = 0; i < 32; ++i) {
    const int upper = (q[i] + 128) >> 8;
    split[i] = static_cast<int8_t>(upper);
    split[i + 32] = static_cast<int8_t>(q[i] - 256 * upper);
  }
}
inline W32 w_load_q8(const int8_t *p) { return {vld1q_s8(p), vld1q_s8(p + 16)}; }
inline W32 w_load_q4(const uint8_t *p) {
  const uint8x16_t bytes = vld1q_u8(p);
  return {vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4))};
}
inline IAcc i_zero() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
inline IAcc i_dot(IAcc acc, W32 w, const uint8_t *x) {
  const int8_t *const p = reinterpret_cast<const int8_t *>(x);
  acc.upper = vdotq_s32(vdotq_s32(acc.upper, w.low, vld1q_s8(p)), w.high, vld1q_s8(p + 16));
  acc.lower = vdotq_s32(vdotq_s32(acc.lower, w.low, vld1q_s8(p + 32)), w.high, vld1q_s8(p + 48));
  return acc;
}
inline int32x4_t i_lanes(IAcc a) { return vaddq_s32(vshlq_n_s32(a.upper, 8), a.lower); }
#else
struct W32 {
  int16x8_t part[4];
};
typedef int32x4_t IAcc;
inline void x_pack32(const int16_t *q, uint8_t *out) { std::memcpy(out, q, 64); }
inline W32 w_load_q8(const int8_t *p) {
  const int8x16_t a = vld1q_s8(p), b = vld1q_s8(p + 16);
  return {{vmovl_s8(vget_low_s8(a)), vmovl_s8(vget_high_s8(a)), vmovl_s8(vget_low_s8(b)), vmovl_s8(vget_high_s8(b))}};
}
inline W32 w_load_q4(const uint8_t *p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const int8x16_t a = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))), b = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
  return {{vmovl_s8(vget_low_s8(a)), vmovl_s8(vget_high_s8(a)), vmovl_s8(vget_low_s8(b)), vmovl_s8(vget_high_s8(b))}};
}
inline IAcc i_zero() { return vdupq_n_s32(0); }
inline IAcc i_dot(IAcc acc, W32 w, const uint8_t *x) {
  for (int i = 0; i < 4; ++i) {
    const int16x8_t xv = vreinterpretq_s16_u8(vld1q_u8(x + 16 * i));
    acc = vmlal_s16(acc, vget_low_s16(w.part[i]), vget_low_s16(xv));
    acc = vmlal_high_s16(acc, w.part[i], xv);
  }
  return acc;
}
inline int32x4_t i_lanes(IAcc a) { return a; }
#endif
inline vf i_float(IAcc a) { return vcvtq_f32_s32(i_lanes(a)); }
inline void i_sum4(IAcc a, IAcc b, IAcc c, IAcc d, int32_t *out) {
  vst1q_s32(out, vpaddq_s32(vpaddq_s32(i_lanes(a), i_lanes(b)), vpaddq_s32(i_lanes(c), i_lanes(d))));
}

#else // PANGU_SIMD_PORTABLE

constexpr int kFloats = 4; // the 128-bit vectors of any processor
constexpr bool kManyRegisters = false;
typedef float vf __attribute__((vector_size(16)));
typedef int32_t IAcc __attribute__((vector_size(16)));
struct W32 {
  int16_t v[32];
};
inline vf f_zero() { return vf{}; }
inline vf f_set(float x) { return vf{x, x, x, x}; }
inline vf f_load(const float *p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void f_store(float *p, vf v) { std::memcpy(p, &v, sizeof v); }
#if defined(__FMA__) || defined(__aarch64__) // whether to contract a * b + c must not be the compiler's choice
inline vf f_fma(vf a, vf b, vf c) { return vf{fma1(a[0], b[0], c[0]), fma1(a[1], b[1], c[1]), fma1(a[2], b[2], c[2]), fma1(a[3], b[3], c[3])}; }
#else
inline vf f_fma(vf a, vf b, vf c) { return a * b + c; }
#endif
inline vf f_load_bf16(const uint16_t *p) { return vf{bf16_value(p[0]), bf16_value(p[1]), bf16_value(p[2]), bf16_value(p[3])}; }
inline vf f_load_f16(const uint16_t *p) { return vf{f16_value(p[0]), f16_value(p[1]), f16_value(p[2]), f16_value(p[3])}; }
inline vf f_load_s8(const int8_t *p) {
  return vf{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])};
}
inline void f_sum4(vf a, vf b, vf c, vf d, float *out) {
  const vf v[4] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) out[i] = (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
}
inline void x_pack32(const int16_t *q, uint8_t *out) { std::memcpy(out, q, 64); }
inline W32 w_load_q8(const int8_t *p) {
  W32 w;
  for (int i = 0; i < 32; ++i) w.v[i] = p[i];
  return w;
}
inline W32 w_load_q4(const uint8_t *p) {
  W32 w;
  for (int i = 0; i < 16; ++i) w.v[i] = p[i] & 15, w.v[i + 16] = p[i] >> 4;
  return w;
}
inline IAcc i_zero() { return IAcc{}; }
inline IAcc i_dot(IAcc acc, const W32 &w, const uint8_t *x) {
  int16_t q[32];
  std::memcpy(q, x, 64);
  for (int i = 0; i < 32; i += 4)
    acc += IAcc{w.v[i] * q[i], w.v[i + 1] * q[i + 1], w.v[i + 2] * q[i + 2], w.v[i + 3] * q[i + 3]};
  return acc;
}
inline vf i_float(IAcc a) {
  return vf{static_cast<float>(a[0]), static_cast<float>(a[1]), static_cast<float>(a[2]), static_cast<float>(a[3])};
}
inline void i_sum4(IAcc a, IAcc b, IAcc c, IAcc d, int32_t *out) {
  const IAcc v[4] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) out[i] = v[i][0] + v[i][1] + v[i][2] + v[i][3];
}

#endif

} // namespace simd
} // namespace pangu
