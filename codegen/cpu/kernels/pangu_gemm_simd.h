// pangu_gemm_simd.h: the few vector operations that the matrix kernels are written in, for AVX-512, AVX2, NEON (with or
// without the dot product instructions) and, through the compiler's vector types, anything else.
//
//   vf        kFloats floats
//   WPart     a part (of kParts) of 32 weights of a row, ready to multiply
//   XPart     the same part of 32 activations, from the 64 bytes that x_pack32 wrote
//   IAcc      exact int32 sums of products, spread over lanes
//   f4        four floats: the sums of four vectors
//   Nibbles   kUnit groups of 32 four-bit weights, as bytes 0..15; Bytes8 as many signed activations, in the order of x8_pack
//   round32   32 floats times a factor, rounded to integers of 16 bits (halves to even); narrow32 their lower halves; sum32 their sum
//   n_dot     their products' sums as floats: each group's in four lanes. f_groups: kUnit numbers, each in the four lanes
// PANGU_PORTABLE chooses the last variant whatever the processor (tests).
#pragma once

#include "pangu_simd.h" // and the intrinsics

#if !defined(PANGU_PORTABLE) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define PANGU_SIMD_AVX512 1
#elif !defined(PANGU_PORTABLE) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define PANGU_SIMD_AVX2 1
#elif !defined(PANGU_PORTABLE) && defined(__ARM_NEON) && defined(__aarch64__)
#define PANGU_SIMD_NEON 1
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

// Keeps a vector that several instructions read in a register: g++ otherwise loads it again for each of them.
#if defined(PANGU_SIMD_AVX512)
#define PANGU_KEEP(v) asm("" : "+v"(v))
#elif defined(PANGU_SIMD_AVX2)
#define PANGU_KEEP(v) asm("" : "+x"(v))
#else
#define PANGU_KEEP(v) (void)(v)
#endif

// Makes the compiler load again what it has loaded: the opposite, where registers are short.
#define PANGU_FORGET() asm volatile("" : : : "memory")

// A function of its own would count as one without effects, and calls of it would be dropped.
__attribute__((always_inline)) inline void prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }

#if defined(PANGU_SIMD_AVX512) || defined(PANGU_SIMD_AVX2)

typedef __m128 f4;
inline f4 f4_fma(f4 a, f4 b, f4 c) { return _mm_fmadd_ps(a, b, c); }

// Sums of four vectors of eight floats, each in the order ((0 1)(2 3))((4 5)(6 7)).
inline f4 sum4_of8(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}
inline f4 sum4_of8(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i s = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
  return _mm_cvtepi32_ps(_mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1)));
}

inline void x_pack32(const int16_t *q, uint8_t *out) { std::memcpy(out, q, 64); }

inline void round32(const float *x, float factor, int16_t *q) {
  const __m256 f = _mm256_set1_ps(factor);
  for (int i = 0; i < 32; i += 16) {
    const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), f)), b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), f));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(q + i), _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
  }
}
inline void narrow32(const int16_t *q, int8_t *out) {
  const __m256i *const v = reinterpret_cast<const __m256i *>(q);
  const __m256i bytes = _mm256_packs_epi16(_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1));
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(out), _mm256_permute4x64_epi64(bytes, 0xd8));
}
inline int32_t sum32(const int16_t *q) {
  const __m256i *const v = reinterpret_cast<const __m256i *>(q), one = _mm256_set1_epi16(1);
  const __m256i s = _mm256_add_epi32(_mm256_madd_epi16(_mm256_loadu_si256(v), one), _mm256_madd_epi16(_mm256_loadu_si256(v + 1), one));
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  const __m128i two = _mm_add_epi32(four, _mm_srli_si128(four, 8));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_srli_si128(two, 4)));
}

#elif defined(PANGU_SIMD_NEON)

inline void round32(const float *x, float factor, int16_t *q) {
  for (int i = 0; i < 32; i += 8) {
    const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i), factor)), b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4), factor));
    vst1q_s16(q + i, vcombine_s16(vmovn_s32(a), vmovn_s32(b)));
  }
}
inline void narrow32(const int16_t *q, int8_t *out) {
  for (int i = 0; i < 32; i += 8) vst1_s8(out + i, vmovn_s16(vld1q_s16(q + i)));
}
inline int32_t sum32(const int16_t *q) {
  int32_t total = 0;
  for (int i = 0; i < 32; i += 8) total += vaddlvq_s16(vld1q_s16(q + i));
  return total;
}

#else

inline void round32(const float *x, float factor, int16_t *q) {
  for (int i = 0; i < 32; ++i) q[i] = static_cast<int16_t>(__builtin_rintf(x[i] * factor));
}
inline void narrow32(const int16_t *q, int8_t *out) {
  for (int i = 0; i < 32; ++i) out[i] = static_cast<int8_t>(q[i]);
}
inline int32_t sum32(const int16_t *q) {
  int32_t total = 0;
  for (int i = 0; i < 32; ++i) total += q[i];
  return total;
}

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
inline f4 f_sum4(vf a, vf b, vf c, vf d) { return sum4_of8(fold(a), fold(b), fold(c), fold(d)); }

constexpr int kParts = 1;
typedef __m512i WPart;
typedef __m512i XPart;
typedef __m512i IAcc;
inline WPart w_part_q8(const int8_t *p, int) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
inline void hold(XPart &x) { PANGU_KEEP(x); }
inline XPart x_part(const uint8_t *p, int) { return _mm512_loadu_si512(p); }
inline IAcc i_zero() { return _mm512_setzero_si512(); }
inline IAcc i_dot(IAcc acc, WPart w, XPart xv) {
#if defined(__AVX512VNNI__)
  return _mm512_dpwssd_epi32(acc, w, xv);
#else
  acc = _mm512_add_epi32(acc, _mm512_madd_epi16(w, xv));
  PANGU_KEEP(acc); // as below
  return acc;
#endif
}
inline __m256i fold(IAcc a) { return _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1)); }
inline f4 i_sum4(IAcc a, IAcc b, IAcc c, IAcc d) { return sum4_of8(fold(a), fold(b), fold(c), fold(d)); }

constexpr int kUnit = 4;
struct Nibbles {
  __m512i low, high;
};
typedef Nibbles Bytes8;
inline Nibbles w_nibbles(const uint8_t *p) {
  const __m512i bytes = _mm512_loadu_si512(p), mask = _mm512_set1_epi8(15);
  return {_mm512_and_si512(bytes, mask), _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask)};
}
inline Bytes8 x8_load(const uint8_t *p) { return {_mm512_loadu_si512(p), _mm512_loadu_si512(p + 64)}; }
inline vf n_dot(const Nibbles &w, const Bytes8 &x) {
#if defined(__AVX512VNNI__)
  return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w.low, x.low), w.high, x.high));
#else // a pair's sum is at most 4 * 15 * 127
  const __m512i pairs = _mm512_add_epi16(_mm512_maddubs_epi16(w.low, x.low), _mm512_maddubs_epi16(w.high, x.high));
  return _mm512_cvtepi32_ps(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}
inline vf f_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
inline vf f_groups(const float *p) {
  return _mm512_permutexvar_ps(_mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0), _mm512_castps128_ps512(_mm_loadu_ps(p)));
}

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
inline f4 f_sum4(vf a, vf b, vf c, vf d) { return sum4_of8(a, b, c, d); }

constexpr int kParts = 2;
typedef __m256i WPart;
typedef __m256i XPart;
typedef __m256i IAcc;
inline WPart w_part_q8(const int8_t *p, int part) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p) + part));
}
inline void hold(XPart &x) { PANGU_KEEP(x); }
inline XPart x_part(const uint8_t *p, int part) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p) + part);
}
inline IAcc i_zero() { return _mm256_setzero_si256(); }
inline IAcc i_dot(IAcc acc, WPart w, XPart x) {
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(w, x));
  PANGU_KEEP(acc); // g++ would add the products of several steps up first, and run out of registers
  return acc;
}
inline f4 i_sum4(IAcc a, IAcc b, IAcc c, IAcc d) { return sum4_of8(a, b, c, d); }

constexpr int kUnit = 2;
struct Nibbles {
  __m256i low, high;
};
typedef Nibbles Bytes8;
inline Nibbles w_nibbles(const uint8_t *p) {
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)), mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(bytes, mask), _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask)};
}
inline Bytes8 x8_load(const uint8_t *p) {
  const __m256i *const v = reinterpret_cast<const __m256i *>(p);
  return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
inline vf n_dot(const Nibbles &w, const Bytes8 &x) { // a pair's sum is at most 4 * 15 * 127
  const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(w.low, x.low), _mm256_maddubs_epi16(w.high, x.high));
  return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline vf f_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
inline vf f_groups(const float *p) {
  const __m256 two = _mm256_castpd_ps(_mm256_castpd128_pd256(_mm_load_sd(reinterpret_cast<const double *>(p))));
  return _mm256_permutevar8x32_ps(two, _mm256_set_epi32(1, 1, 1, 1, 0, 0, 0, 0));
}

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
typedef float32x4_t f4;
inline f4 f4_fma(f4 a, f4 b, f4 c) { return vfmaq_f32(c, a, b); }
inline f4 f_sum4(vf a, vf b, vf c, vf d) { return vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)); }

#if defined(__ARM_FEATURE_DOTPROD)
// x = 256 * upper + lower, both int8: two dot products of bytes instead of eight multiplications of words.
constexpr int kParts = 2;
typedef int8x16_t WPart;
struct XPart {
  int8x16_t upper, lower;
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
inline WPart w_part_q8(const int8_t *p, int part) { return vld1q_s8(p + 16 * part); }
inline void hold(XPart &) {}
inline XPart x_part(const uint8_t *p, int part) {
  const int8_t *const bytes = reinterpret_cast<const int8_t *>(p) + 16 * part;
  return {vld1q_s8(bytes), vld1q_s8(bytes + 32)};
}
inline IAcc i_zero() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
inline IAcc i_dot(IAcc acc, WPart w, XPart x) { return {vdotq_s32(acc.upper, w, x.upper), vdotq_s32(acc.lower, w, x.lower)}; }
inline int32x4_t i_lanes(IAcc a) { return vaddq_s32(vshlq_n_s32(a.upper, 8), a.lower); }
#else
constexpr int kParts = 4;
typedef int16x8_t WPart;
typedef int16x8_t XPart;
typedef int32x4_t IAcc;
inline void x_pack32(const int16_t *q, uint8_t *out) { std::memcpy(out, q, 64); }
inline WPart w_part_q8(const int8_t *p, int part) { return vmovl_s8(vld1_s8(p + 8 * part)); }
inline void hold(XPart &) {}
inline XPart x_part(const uint8_t *p, int part) { return vreinterpretq_s16_u8(vld1q_u8(p + 16 * part)); }
inline IAcc i_zero() { return vdupq_n_s32(0); }
inline IAcc i_dot(IAcc acc, WPart w, XPart x) {
  return vmlal_high_s16(vmlal_s16(acc, vget_low_s16(w), vget_low_s16(x)), w, x);
}
inline int32x4_t i_lanes(IAcc a) { return a; }
#endif
inline f4 i_sum4(IAcc a, IAcc b, IAcc c, IAcc d) {
  return vcvtq_f32_s32(vpaddq_s32(vpaddq_s32(i_lanes(a), i_lanes(b)), vpaddq_s32(i_lanes(c), i_lanes(d))));
}

constexpr int kUnit = 1;
struct Nibbles {
  int8x16_t low, high;
};
typedef Nibbles Bytes8;
inline Nibbles w_nibbles(const uint8_t *p) {
  const uint8x16_t bytes = vld1q_u8(p);
  return {vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4))};
}
inline Bytes8 x8_load(const uint8_t *p) { return {vreinterpretq_s8_u8(vld1q_u8(p)), vreinterpretq_s8_u8(vld1q_u8(p + 16))}; }
inline vf n_dot(const Nibbles &w, const Bytes8 &x) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vcvtq_f32_s32(vdotq_s32(vdotq_s32(vdupq_n_s32(0), w.low, x.low), w.high, x.high));
#else // four products are at most 4 * 15 * 127
  int16x8_t sums = vmull_s8(vget_low_s8(w.low), vget_low_s8(x.low));
  sums = vmlal_s8(vmlal_high_s8(sums, w.low, x.low), vget_low_s8(w.high), vget_low_s8(x.high));
  return vcvtq_f32_s32(vpaddlq_s16(vmlal_high_s8(sums, w.high, x.high)));
#endif
}
inline vf f_mul(vf a, vf b) { return vmulq_f32(a, b); }
inline vf f_groups(const float *p) { return vdupq_n_f32(*p); }

#else // PANGU_SIMD_PORTABLE

constexpr int kFloats = 4; // the 128-bit vectors of any processor
constexpr bool kManyRegisters = false;
typedef float vf __attribute__((vector_size(16)));
typedef int32_t IAcc __attribute__((vector_size(16)));
constexpr int kParts = 1;
struct WPart {
  int16_t v[32];
};
struct XPart {
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
typedef vf f4;
inline f4 f4_fma(f4 a, f4 b, f4 c) { return f_fma(a, b, c); }
inline float total(vf v) { return (v[0] + v[1]) + (v[2] + v[3]); }
inline f4 f_sum4(vf a, vf b, vf c, vf d) { return f4{total(a), total(b), total(c), total(d)}; }
inline void x_pack32(const int16_t *q, uint8_t *out) { std::memcpy(out, q, 64); }
inline WPart w_part_q8(const int8_t *p, int) {
  WPart w;
  for (int i = 0; i < 32; ++i) w.v[i] = p[i];
  return w;
}
inline void hold(XPart &) {}
inline XPart x_part(const uint8_t *p, int) {
  XPart x;
  std::memcpy(x.v, p, sizeof x.v);
  return x;
}
inline IAcc i_zero() { return IAcc{}; }
inline IAcc i_dot(IAcc acc, const WPart &w, const XPart &x) {
  for (int i = 0; i < 32; i += 4)
    acc += IAcc{w.v[i] * x.v[i], w.v[i + 1] * x.v[i + 1], w.v[i + 2] * x.v[i + 2], w.v[i + 3] * x.v[i + 3]};
  return acc;
}
inline float total(IAcc v) { return static_cast<float>(v[0] + v[1] + v[2] + v[3]); }
inline f4 i_sum4(IAcc a, IAcc b, IAcc c, IAcc d) { return f4{total(a), total(b), total(c), total(d)}; }

constexpr int kUnit = 1;
struct Nibbles {
  int8_t v[32];
};
typedef Nibbles Bytes8;
inline Nibbles w_nibbles(const uint8_t *p) {
  Nibbles w;
  for (int i = 0; i < 16; ++i) w.v[i] = static_cast<int8_t>(p[i] & 15), w.v[i + 16] = static_cast<int8_t>(p[i] >> 4);
  return w;
}
inline Bytes8 x8_load(const uint8_t *p) {
  Bytes8 x;
  std::memcpy(x.v, p, sizeof x.v);
  return x;
}
inline vf n_dot(const Nibbles &w, const Bytes8 &x) {
  IAcc acc{};
  for (int i = 0; i < 32; i += 4)
    acc += IAcc{w.v[i] * x.v[i], w.v[i + 1] * x.v[i + 1], w.v[i + 2] * x.v[i + 2], w.v[i + 3] * x.v[i + 3]};
  return vf{static_cast<float>(acc[0]), static_cast<float>(acc[1]), static_cast<float>(acc[2]), static_cast<float>(acc[3])};
}
inline vf f_mul(vf a, vf b) { return a * b; }
inline vf f_groups(const float *p) { return vf{*p, *p, *p, *p}; }

#endif

// kUnit groups of q, whose integers fit into bytes, in the order in which nibbles come out of weights: the first halves of the
// groups, then the second ones.
inline void x8_pack(const int8_t *q, int8_t *out) {
  for (int g = 0; g < kUnit; ++g) {
    std::memcpy(out + g * 16, q + g * 32, 16);
    std::memcpy(out + (kUnit + g) * 16, q + g * 32 + 16, 16);
  }
}

} // namespace simd
} // namespace pangu
