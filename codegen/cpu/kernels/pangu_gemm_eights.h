// pangu_gemm_eights.h: products with int8 weights whose rows lie in eights (Q8I). Rows are lanes, so sums need no additions across
// lanes, and memory is read in two streams, which is faster than one stream a row (benchmarks/README.md).
//
//   Eight     4 columns of 8 rows, ready to multiply; eight_load reads 32 bytes
//   Four      4 activations, in every place where a row needs them; four_load reads 8 of the bytes that x_pack_fours wrote
//   EightAcc  exact int32 sums of 8 rows
//   f8        8 floats: a number of each row
#pragma once

namespace pangu {
namespace simd {

// 32 activations in the order of their columns.
#if defined(PANGU_SIMD_NEON) && defined(__ARM_FEATURE_DOTPROD)
inline void x_pack_fours(const int16_t *q, uint8_t *out) {
  for (int i = 0; i < 32; ++i) {
    const int upper = (q[i] + 128) >> 8, at = i / 4 * 8 + i % 4;
    out[at] = static_cast<uint8_t>(upper);
    out[at + 4] = static_cast<uint8_t>(q[i] - 256 * upper);
  }
}
#else
inline void x_pack_fours(const int16_t *q, uint8_t *out) { x_pack32(q, out); }
#endif

#if defined(PANGU_SIMD_AVX512) || defined(PANGU_SIMD_AVX2)

typedef __m256 f8;
inline f8 f8_zero() { return _mm256_setzero_ps(); }
inline f8 f8_load(const float *p) { return _mm256_loadu_ps(p); }
inline void f8_store(float *p, f8 v) { _mm256_storeu_ps(p, v); }
inline f8 f8_mul(f8 a, f8 b) { return _mm256_mul_ps(a, b); }
inline f8 f8_fma(f8 a, float b, f8 c) { return _mm256_fmadd_ps(a, _mm256_set1_ps(b), c); }

// Sums of pairs of lanes, rows 0..3 in `a` and 4..7 in `b`.
inline f8 pair_sums(__m256i a, __m256i b) {
  return _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8));
}

#endif

#if defined(PANGU_SIMD_AVX512)

constexpr int kEightTokens = 6; // tokens that share a load of weights
typedef __m512i Eight;
typedef __m512i Four;
typedef __m512i EightAcc;
inline Eight eight_load(const uint8_t *p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
inline Four four_load(const uint8_t *p) {
  int64_t x;
  std::memcpy(&x, p, 8);
  return _mm512_set1_epi64(x);
}
inline EightAcc eight_zero() { return _mm512_setzero_si512(); }
inline void eight_dot(EightAcc &acc, const Eight &w, const Four &x) {
#if defined(__AVX512VNNI__)
  acc = _mm512_dpwssd_epi32(acc, w, x);
#else
  acc = _mm512_add_epi32(acc, _mm512_madd_epi16(w, x));
  PANGU_KEEP(acc);
#endif
}
inline f8 eight_sums(const EightAcc &a) { return pair_sums(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1)); }

#elif defined(PANGU_SIMD_AVX2)

constexpr int kEightTokens = 6;
struct Eight {
  __m256i low, high;
};
typedef __m256i Four;
typedef Eight EightAcc;
inline Eight eight_load(const uint8_t *p) {
  const __m128i *const v = reinterpret_cast<const __m128i *>(p);
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(v)), _mm256_cvtepi8_epi16(_mm_loadu_si128(v + 1))};
}
inline Four four_load(const uint8_t *p) {
  int64_t x;
  std::memcpy(&x, p, 8);
  return _mm256_set1_epi64x(x);
}
inline EightAcc eight_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline void eight_dot(EightAcc &acc, const Eight &w, const Four &x) {
  acc.low = _mm256_add_epi32(acc.low, _mm256_madd_epi16(w.low, x));
  acc.high = _mm256_add_epi32(acc.high, _mm256_madd_epi16(w.high, x));
  PANGU_KEEP(acc.low); // g++ would add the products of several steps up first, and run out of registers
  PANGU_KEEP(acc.high);
}
inline f8 eight_sums(const EightAcc &a) { return pair_sums(a.low, a.high); }

#elif defined(PANGU_SIMD_NEON)

struct f8 {
  float32x4_t low, high;
};
inline f8 f8_zero() { return {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}; }
inline f8 f8_load(const float *p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline void f8_store(float *p, f8 v) { vst1q_f32(p, v.low), vst1q_f32(p + 4, v.high); }
inline f8 f8_mul(f8 a, f8 b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
inline f8 f8_fma(f8 a, float b, f8 c) { return {vfmaq_n_f32(c.low, a.low, b), vfmaq_n_f32(c.high, a.high, b)}; }

#if defined(__ARM_FEATURE_DOTPROD)
constexpr int kEightTokens = 4;
struct Eight {
  int8x16_t low, high;
};
struct Four {
  int8x16_t upper, lower; // x = 256 * upper + lower
};
struct EightAcc {
  int32x4_t v[4];
};
inline Eight eight_load(const uint8_t *p) { return {vreinterpretq_s8_u8(vld1q_u8(p)), vreinterpretq_s8_u8(vld1q_u8(p + 16))}; }
inline Four four_load(const uint8_t *p) {
  int32_t x[2];
  std::memcpy(x, p, 8);
  return {vreinterpretq_s8_s32(vdupq_n_s32(x[0])), vreinterpretq_s8_s32(vdupq_n_s32(x[1]))};
}
inline EightAcc eight_zero() { return {{vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)}}; }
inline void eight_dot(EightAcc &acc, const Eight &w, const Four &x) {
  acc.v[0] = vdotq_s32(acc.v[0], w.low, x.upper), acc.v[1] = vdotq_s32(acc.v[1], w.high, x.upper);
  acc.v[2] = vdotq_s32(acc.v[2], w.low, x.lower), acc.v[3] = vdotq_s32(acc.v[3], w.high, x.lower);
}
inline f8 eight_sums(const EightAcc &a) {
  return {vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(a.v[0], 8), a.v[2])), vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(a.v[1], 8), a.v[3]))};
}
#else
constexpr int kEightTokens = 2;
struct Eight {
  int16x8_t v[4]; // two rows each
};
typedef int16x4_t Four;
struct EightAcc {
  int32x4_t v[8];
};
inline Eight eight_load(const uint8_t *p) {
  const int8x16_t a = vreinterpretq_s8_u8(vld1q_u8(p)), b = vreinterpretq_s8_u8(vld1q_u8(p + 16));
  return {{vmovl_s8(vget_low_s8(a)), vmovl_s8(vget_high_s8(a)), vmovl_s8(vget_low_s8(b)), vmovl_s8(vget_high_s8(b))}};
}
inline Four four_load(const uint8_t *p) { return vreinterpret_s16_u8(vld1_u8(p)); }
inline EightAcc eight_zero() {
  EightAcc a;
  for (int32x4_t &v : a.v) v = vdupq_n_s32(0);
  return a;
}
inline void eight_dot(EightAcc &acc, const Eight &w, const Four &x) {
  for (int i = 0; i < 4; ++i) {
    acc.v[2 * i] = vmlal_s16(acc.v[2 * i], vget_low_s16(w.v[i]), x);
    acc.v[2 * i + 1] = vmlal_s16(acc.v[2 * i + 1], vget_high_s16(w.v[i]), x);
  }
}
inline f8 eight_sums(const EightAcc &a) {
  const int32x4_t low = vpaddq_s32(vpaddq_s32(a.v[0], a.v[1]), vpaddq_s32(a.v[2], a.v[3]));
  const int32x4_t high = vpaddq_s32(vpaddq_s32(a.v[4], a.v[5]), vpaddq_s32(a.v[6], a.v[7]));
  return {vcvtq_f32_s32(low), vcvtq_f32_s32(high)};
}
#endif

#else // PANGU_SIMD_PORTABLE

constexpr int kEightTokens = 2;
struct Eight {
  int8_t v[32];
};
struct Four {
  int16_t v[4];
};
struct EightAcc {
  int32_t v[8];
};
struct f8 {
  float v[8];
};
inline f8 f8_zero() { return {}; }
inline f8 f8_load(const float *p) {
  f8 a;
  std::memcpy(a.v, p, sizeof a.v);
  return a;
}
inline void f8_store(float *p, const f8 &a) { std::memcpy(p, a.v, sizeof a.v); }
inline f8 f8_mul(f8 a, const f8 &b) {
  for (int i = 0; i < 8; ++i) a.v[i] *= b.v[i];
  return a;
}
inline f8 f8_fma(const f8 &a, float b, f8 c) {
  for (int i = 0; i < 8; ++i) c.v[i] = fma1(a.v[i], b, c.v[i]);
  return c;
}
inline Eight eight_load(const uint8_t *p) {
  Eight w;
  std::memcpy(w.v, p, sizeof w.v);
  return w;
}
inline Four four_load(const uint8_t *p) {
  Four x;
  std::memcpy(x.v, p, sizeof x.v);
  return x;
}
inline EightAcc eight_zero() { return {}; }
inline void eight_dot(EightAcc &acc, const Eight &w, const Four &x) {
  for (int r = 0; r < 8; ++r)
    for (int k = 0; k < 4; ++k) acc.v[r] += w.v[4 * r + k] * x.v[k];
}
inline f8 eight_sums(const EightAcc &a) {
  f8 sums;
  for (int r = 0; r < 8; ++r) sums.v[r] = static_cast<float>(a.v[r]);
  return sums;
}

#endif

} // namespace simd

struct EightsTile {
  static constexpr int64_t kChunk = kIntChunk, kPass = 5, kAhead = 1024; // bytes that a stream is asked for ahead
  static constexpr int kTokens = simd::kEightTokens;

  // Rows [begin, end) of w for T tokens, chunks [from, to). Few tokens read two streams: blocks of the first and of the second half.
  template <int T> static void range(const RowProduct &p, const Tokens<T> &tokens, int64_t begin, int64_t end, int64_t from, int64_t to) {
    constexpr int kStreams = T <= 2 || simd::kManyRegisters ? 2 : 1;
    const int64_t first = begin / kEightRows, count = (end + kEightRows - 1) / kEightRows - first, part = count / kStreams;
    for (int64_t b = first; b < first + part; ++b) run<kStreams, T>(p, tokens, b, part, begin, end, from, to);
    for (int64_t b = first + part * kStreams; b < first + count; ++b) run<1, T>(p, tokens, b, 0, begin, end, from, to);
  }

private:
  // S blocks, `apart` from each other.
  template <int S, int T>
  static void run(const RowProduct &p, const Tokens<T> &tokens, int64_t block, int64_t apart, int64_t begin, int64_t end, int64_t from, int64_t to) {
    using namespace simd;
    const uint8_t *w[S];
    const float *scales[T];
    f8 sums[S][T];
    for (int s = 0; s < S; ++s) w[s] = p.row((block + s * apart) * kEightRows);
    for (int t = 0; t < T; ++t) scales[t] = reinterpret_cast<const float *>(tokens.record[t] + record8::scales(p.I));
    unroll<S>([&](auto s) PANGU_INLINE {
      unroll<T>([&](auto t) PANGU_INLINE { sums[s][t] = from == 0 ? f8_zero() : held(tokens.y[t], (block + s * apart) * kEightRows, begin, end); });
    });
    for (int64_t chunk = from; chunk < to; ++chunk) {
      EightAcc acc[S][T];
      unroll<S>([&](auto s) PANGU_INLINE { unroll<T>([&](auto t) PANGU_INLINE { acc[s][t] = eight_zero(); }); });
      const int64_t stop = min((chunk + 1) * kChunk, p.w.row_stride);
      for (int64_t k = chunk * kChunk; k < stop; k += 8) {
        if (T < kTokens) unroll<S>([&](auto s) PANGU_INLINE { prefetch(w[s] + k * kEightRows + kAhead); });
        add<S, T>(w, tokens.record, k, acc);
        add<S, T>(w, tokens.record, k + 4, acc);
      }
      unroll<S>([&](auto s) PANGU_INLINE {
        unroll<T>([&](auto t) PANGU_INLINE { sums[s][t] = f8_fma(eight_sums(acc[s][t]), scales[t][chunk], sums[s][t]); });
      });
    }
    const bool last = to * kChunk >= p.w.row_stride;
    unroll<S>([&](auto s) PANGU_INLINE {
      const int64_t o = (block + s * apart) * kEightRows;
      const float *const scale = static_cast<const float *>(p.w.scales) + o;
      unroll<T>([&](auto t) PANGU_INLINE { keep(tokens.y[t], o, begin, end, last ? f8_mul(sums[s][t], f8_load(scale)) : sums[s][t]); });
    });
  }

  template <int S, int T>
  PANGU_INLINE static void add(const uint8_t *const *w, const uint8_t *const *x, int64_t k, simd::EightAcc (&acc)[S][T]) {
    using namespace simd;
    Eight wv[S];
    unroll<S>([&](auto s) PANGU_INLINE { wv[s] = eight_load(w[s] + k * kEightRows); });
    unroll<T>([&](auto t) PANGU_INLINE {
      const Four xv = four_load(x[t] + 2 * k);
      unroll<S>([&](auto s) PANGU_INLINE { eight_dot(acc[s][t], wv[s], xv); });
    });
  }

  // y of rows [o, o + 8), of which only those in [begin, end) are the caller's.
  static simd::f8 held(const float *y, int64_t o, int64_t begin, int64_t end) {
    if (o >= begin && o + kEightRows <= end) return simd::f8_load(y + o);
    float v[kEightRows] = {};
    for (int64_t i = max(o, begin); i < min(o + kEightRows, end); ++i) v[i - o] = y[i];
    return simd::f8_load(v);
  }
  static void keep(float *y, int64_t o, int64_t begin, int64_t end, simd::f8 v) {
    if (o >= begin && o + kEightRows <= end) return simd::f8_store(y + o, v);
    float all[kEightRows];
    simd::f8_store(all, v);
    for (int64_t i = max(o, begin); i < min(o + kEightRows, end); ++i) y[i] = all[i - o];
  }
};
template <> constexpr bool kOwnRange<EightsTile> = true;

} // namespace pangu
