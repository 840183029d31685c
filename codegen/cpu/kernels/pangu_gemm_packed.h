// pangu_gemm_packed.h: tiles of y = x * w^T for bf16 weights that are stored in 12 bits (PANGU_BF16C, pangu_quant.h).
//
// Few tokens: 32 weights at a time become floats in registers, and every sum is made as FloatTile makes it. Many tokens:
// a block of rows is first written out as bf16, once for all of them. Either way the row's scale (a power of two) and its listed
// weights come last, by the same instructions, so that an element does not depend on which way it went.
#pragma once

namespace pangu {
namespace simd {

constexpr int kPackedFloats = 32 / kFloats; // vectors of 32 weights

// The upper bytes of bf16 numbers by code, and the bit of the exponent that lies in the lower byte. Code 0 is zero.
alignas(16) constexpr uint8_t kUpper[16] = {0, 56, 57, 57, 58, 58, 59, 59, 60, 60, 61, 61, 62, 62, 63, 63};
alignas(16) constexpr uint8_t kLower[16] = {0, 128, 0, 128, 0, 128, 0, 128, 0, 128, 0, 128, 0, 128, 0, 128};

#if defined(PANGU_SIMD_AVX512) || defined(PANGU_SIMD_AVX2)

struct Halves { // bf16: columns 0..3, 8..11 | 4..7, 12..15 of the 32, and the same of the second 16
  __m256i first, second;
};
struct Unpacking { // kept, so that g++ does not make constants again in every step
  __m256i upper, lower, sign, code, shift;
  PANGU_INLINE Unpacking()
      : upper(_mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i *>(kUpper)))),
        lower(_mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i *>(kLower)))),
        sign(_mm256_set1_epi8(static_cast<char>(0x80))), code(_mm256_set1_epi8(15)), shift(_mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4)) {
    PANGU_KEEP(upper);
    PANGU_KEEP(lower);
    PANGU_KEEP(sign);
    PANGU_KEEP(code);
    PANGU_KEEP(shift);
  }
};
PANGU_INLINE inline Halves packed_halves(const Unpacking &c, const uint8_t *bytes, const uint8_t *codes) {
  const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(bytes));
  const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(codes)));
  const __m256i n = _mm256_and_si256(_mm256_srlv_epi32(both, c.shift), c.code);
  const __m256i high = _mm256_or_si256(_mm256_and_si256(b, c.sign), _mm256_shuffle_epi8(c.upper, n));
  const __m256i low = _mm256_or_si256(_mm256_andnot_si256(c.sign, b), _mm256_shuffle_epi8(c.lower, n));
  return {_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
}
inline __m256i in_order(__m256i half) { return _mm256_permute4x64_epi64(half, 0xd8); }
inline void packed_words(const Unpacking &c, const uint8_t *bytes, const uint8_t *codes, uint16_t *out) {
  const Halves h = packed_halves(c, bytes, codes);
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(out), in_order(h.first));
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(out) + 1, in_order(h.second));
}

#if defined(PANGU_SIMD_AVX512)
PANGU_INLINE inline void packed_floats(const Unpacking &c, const uint8_t *bytes, const uint8_t *codes, vf *out) {
  const Halves h = packed_halves(c, bytes, codes);
  out[0] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(in_order(h.first)), 16));
  out[1] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(in_order(h.second)), 16));
}
#else
PANGU_INLINE inline void packed_floats(const Unpacking &c, const uint8_t *bytes, const uint8_t *codes, vf *out) {
  const Halves h = packed_halves(c, bytes, codes);
  const __m256i zero = _mm256_setzero_si256();
  out[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, h.first));
  out[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, h.first));
  out[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, h.second));
  out[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, h.second));
}
#endif

#elif defined(PANGU_SIMD_NEON)

struct Unpacking {};

inline void packed_quarter(const uint8_t *bytes, uint8x16_t n, uint16x8_t *out) { // 16 of them, in their stored order
  const uint8x16_t b = vld1q_u8(bytes), sign = vdupq_n_u8(0x80);
  const uint8x16_t high = vorrq_u8(vandq_u8(b, sign), vqtbl1q_u8(vld1q_u8(kUpper), n));
  const uint8x16_t low = vorrq_u8(vbicq_u8(b, sign), vqtbl1q_u8(vld1q_u8(kLower), n));
  out[0] = vreinterpretq_u16_u8(vzip1q_u8(low, high)), out[1] = vreinterpretq_u16_u8(vzip2q_u8(low, high));
}
PANGU_INLINE inline void packed_floats(const Unpacking &, const uint8_t *bytes, const uint8_t *codes, vf *out) {
  const uint8x16_t both = vld1q_u8(codes);
  uint16x8_t lane[2][2];
  packed_quarter(bytes, vandq_u8(both, vdupq_n_u8(15)), lane[0]);
  packed_quarter(bytes + 16, vshrq_n_u8(both, 4), lane[1]);
  const uint16x8_t zero = vdupq_n_u16(0);
  for (int l = 0; l < 2; ++l)
    for (int half = 0; half < 2; ++half) {
      out[4 * half + l] = vreinterpretq_f32_u16(vzip1q_u16(zero, lane[l][half]));
      out[4 * half + 2 + l] = vreinterpretq_f32_u16(vzip2q_u16(zero, lane[l][half]));
    }
}
inline void packed_words(const Unpacking &c, const uint8_t *bytes, const uint8_t *codes, uint16_t *out) {
  vf values[kPackedFloats];
  packed_floats(c, bytes, codes, values);
  for (int i = 0; i < kPackedFloats; ++i) vst1_u16(out + 4 * i, vshrn_n_u32(vreinterpretq_u32_f32(values[i]), 16));
}

#else // PANGU_SIMD_PORTABLE

struct Unpacking {};

inline void packed_words(const Unpacking &, const uint8_t *bytes, const uint8_t *codes, uint16_t *out) {
  for (int i = 0; i < 32; ++i) out[i] = packed_bf16(bytes, codes, i);
}
inline void packed_floats(const Unpacking &c, const uint8_t *bytes, const uint8_t *codes, vf *out) {
  uint16_t words[32];
  packed_words(c, bytes, codes, words);
  for (int i = 0; i < kPackedFloats; ++i) out[i] = f_load_bf16(words + kFloats * i);
}

#endif

} // namespace simd

// Rows o .. o + R of T tokens, whose sums are complete but for the scale and the listed weights.
__attribute__((noinline)) inline void finish_packed(const RowProduct &p, int T, float *const *y, const float *const *x, int64_t o, int R) {
  const float *const scales = static_cast<const float *>(p.w.scales) + o;
  for (int t = 0; t < T; ++t)
    for (int r = 0; r < R; ++r) y[t][o + r] *= scales[r];
  for (int r = 0; r < R; ++r) {
    const PackedTail tail(p.row(o + r), p.I);
    for (uint32_t i = 0; i < tail.count; ++i)
      for (int t = 0; t < T; ++t) y[t][o + r] = simd::fma1(tail.value(i), x[t][tail.column(i)], y[t][o + r]);
  }
}

struct PackedTile {
  static constexpr int64_t kChunk = kFloatChunk, kPass = 1;
  static constexpr int kTokens = 4;
  static constexpr int rows(int64_t tokens) { return simd::kManyRegisters || tokens <= 2 ? 4 : 2; }

  template <int R, int T> static void run(const RowProduct &p, const Tokens<T> &tokens, int64_t o, int64_t begin, int64_t end) {
    static_assert(kChunk % kPackedUnit == 0, "chunks begin at units");
    Elements<R, T> elements(tokens, o, begin == 0);
    const uint8_t *w[R];
    const simd::Unpacking constants;
    for (int r = 0; r < R; ++r) w[r] = p.row(o + r);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      FloatSums<R * T> sums;
      const int64_t stop = min((chunk + 1) * kChunk, p.I);
      for (int64_t k = chunk * kChunk; k < stop; k += kPackedUnit) add_unit<R, T>(constants, p, o, w, tokens, k, min(stop - k, kPackedUnit), sums);
      elements.add(sums);
    }
    elements.store(tokens, o);
    finish_packed(p, T, tokens.y, tokens.x, o, R);
  }

  template <int R, int T>
  PANGU_INLINE static void add_unit(const simd::Unpacking &constants, const RowProduct &p, int64_t o, const uint8_t *const *w, const Tokens<T> &tokens, int64_t k, int64_t n,
                                    FloatSums<R * T> &sums) {
    constexpr int kSteps = kPackedUnit / 32, kLines = (kPackedUnitBytes / 64 * R + kSteps - 1) / kSteps; // lines a step
    const uint8_t *unit[R], *behind = p.row(o + R) + k / kPackedUnit * (kPackedUnitBytes * R);
    for (int r = 0; r < R; ++r) unit[r] = w[r] + k / kPackedUnit * kPackedUnitBytes;
    for (int64_t i = 0; i < n; i += 32, behind += 64 * kLines) { // the rows behind the tile are asked for in the order of memory, as for q4
      unroll<kLines>([&](auto line) PANGU_INLINE { simd::prefetch(behind + 64 * line); });
      const float *x[T];
      float part[T][32];
      for (int t = 0; t < T; ++t) x[t] = tokens.x[t] + k + i;
      if (n - i < 32)
        for (int t = 0; t < T; ++t) std::memset(part[t], 0, sizeof part[t]), std::memcpy(part[t], x[t], static_cast<size_t>(n - i) * 4), x[t] = part[t];
      step<R, T>(constants, unit, i, x, sums);
    }
  }

  template <int R, int T>
  PANGU_INLINE static void step(const simd::Unpacking &constants, const uint8_t *const *unit, int64_t i, const float *const *x, FloatSums<R * T> &sums) {
    using namespace simd;
    unroll<R>([&](auto r) PANGU_INLINE {
      vf wv[kPackedFloats];
      packed_floats(constants, unit[r] + i, unit[r] + kPackedUnit + i / 2, wv);
      unroll<T>([&](auto t) PANGU_INLINE {
        unroll<kPackedFloats>([&](auto v) PANGU_INLINE { sums.v[t * R + r] = f_fma(wv[v], f_load(x[t] + v * kFloats), sums.v[t * R + r]); });
      });
    });
  }
};

// Columns [from, from + n) of rows [begin, end) as bf16 without their scales, kFloatChunk apart.
inline void unpack_rows(const RowProduct &p, int64_t begin, int64_t end, int64_t from, int64_t n, uint16_t *out) {
  const simd::Unpacking constants;
  for (int64_t o = begin; o < end; ++o, out += kFloatChunk) {
    const uint8_t *unit = p.row(o) + from / kPackedUnit * kPackedUnitBytes;
    for (int64_t k = 0; k < n; k += kPackedUnit, unit += kPackedUnitBytes) {
      for (int64_t line = 0; line < kPackedUnitBytes; line += 64) simd::prefetch(unit + 4 * p.w.row_stride + line); // a few rows ahead
      for (int64_t i = 0; i < kPackedUnit; i += 32) simd::packed_words(constants, unit + i, unit + kPackedUnit + i / 2, out + k + i);
    }
  }
}

// product_rows for this format; Few: PackedTile (a parameter, so that models without it do not compile it).
template <class Few> __attribute__((noinline)) void packed_rows(const RowProduct &p, int64_t begin, int64_t end) {
  const int64_t chunks = (p.I + kFloatChunk - 1) / kFloatChunk;
  if (p.n <= Few::kTokens) return p.n > 0 ? tile_tokens<Few>(p, 0, begin, end, 0, chunks) : void();
  alignas(64) static thread_local uint16_t block[kRowBlock * kFloatChunk];
  typedef FloatTile<Bf16> Tile;
  for (int64_t o = begin; o < end; o += kRowBlock) {
    const int64_t stop = min(o + kRowBlock, end);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      unpack_rows(p, o, stop, chunk * kFloatChunk, min(kFloatChunk, p.I - chunk * kFloatChunk), block);
      RowProduct unpacked = p;
      unpacked.w = {block, nullptr, PANGU_BF16, 2 * kFloatChunk};
      unpacked.skip = 2 * kFloatChunk * (o + chunk);
      for (int64_t t = 0; t < p.n; t += Tile::kTokens) tile_tokens<Tile>(unpacked, t, o, stop, chunk, chunk + 1);
    }
    constexpr int kTogether = 8;
    for (int64_t t = 0; t < p.n; t += kTogether) {
      float *y[kTogether];
      const float *x[kTogether];
      const int count = static_cast<int>(min<int64_t>(kTogether, p.n - t));
      for (int i = 0; i < count; ++i) {
        const Tokens<1> token(p, t + i);
        y[i] = token.y[0], x[i] = token.x[0];
      }
      finish_packed(p, count, y, x, o, static_cast<int>(stop - o));
    }
  }
}

} // namespace pangu
