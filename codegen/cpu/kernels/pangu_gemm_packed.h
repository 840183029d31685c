// pangu_gemm_packed.h: tiles of y = x * w^T for bf16 weights that are stored in 12 bits (PANGU_BF16C, pangu_quant.h).
//
// Few tokens: 32 weights at a time become floats in registers, and every sum is made as FloatTile makes it. Many tokens:
// a block of rows is first written out as bf16, once for all of them. Either way the row's scale (a power of two) and its listed
// weights come last, by the same instructions, so that an element does not depend on which way it went.
#pragma once

namespace pangu {
namespace simd {

constexpr int kPackedFloats = 32 / kFloats; // vectors of 32 weights

// The upper bytes of bf16 numbers by code; see packed_bf16.
alignas(16) constexpr uint8_t kUpper[16] = {0, 57, 58, 59, 60, 61, 62, 63, 0x80, 0x80 + 57, 0x80 + 58, 0x80 + 59, 0x80 + 60, 0x80 + 61, 0x80 + 62, 0x80 + 63};

#if defined(PANGU_SIMD_AVX512) || defined(PANGU_SIMD_AVX2)

struct Halves { // bf16: columns 0, 8, 1, 9, .. 7, 15 of the 32, and the same of the second 16
  __m256i first, second;
};
struct Unpacking { // kept, so that g++ does not make constants again in every step
  __m256i upper, code, shift, odd;
  PANGU_INLINE Unpacking()
      : upper(_mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i *>(kUpper)))), code(_mm256_set1_epi8(15)),
        shift(_mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4)), odd(_mm256_set1_epi32(static_cast<int>(0xffff0000u))) {
    PANGU_KEEP(upper);
    PANGU_KEEP(code);
    PANGU_KEEP(shift);
    PANGU_KEEP(odd);
  }
};
PANGU_INLINE inline Halves packed_halves(const Unpacking &c, const uint8_t *bytes, const uint8_t *codes) {
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(bytes));
  const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(codes)));
  const __m256i high = _mm256_shuffle_epi8(c.upper, _mm256_and_si256(_mm256_srlv_epi32(both, c.shift), c.code));
  return {_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
}
// 16 columns in their order.
inline __m256i in_order(__m256i half) {
  const __m128i apart = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(half, _mm256_broadcastsi128_si256(apart)), 0xd8);
}
inline void packed_words(const Unpacking &c, const uint8_t *bytes, const uint8_t *codes, uint16_t *out) {
  const Halves h = packed_halves(c, bytes, codes);
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(out), in_order(h.first));
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(out) + 1, in_order(h.second));
}
PANGU_INLINE inline __m256 even_words(const Unpacking &, __m256i half) { return _mm256_castsi256_ps(_mm256_slli_epi32(half, 16)); }
PANGU_INLINE inline __m256 odd_words(const Unpacking &c, __m256i half) { return _mm256_castsi256_ps(_mm256_and_si256(half, c.odd)); }

#if defined(PANGU_SIMD_AVX512)
PANGU_INLINE inline vf joined(__m256 low, __m256 high) {
  return _mm512_castpd_ps(_mm512_insertf64x4(_mm512_castps_pd(_mm512_castps256_ps512(low)), _mm256_castps_pd(high), 1));
}
PANGU_INLINE inline void packed_floats(const Unpacking &c, const uint8_t *bytes, const uint8_t *codes, vf *out) {
  const Halves h = packed_halves(c, bytes, codes);
  out[0] = joined(even_words(c, h.first), odd_words(c, h.first));
  out[1] = joined(even_words(c, h.second), odd_words(c, h.second));
}
#else
PANGU_INLINE inline void packed_floats(const Unpacking &c, const uint8_t *bytes, const uint8_t *codes, vf *out) {
  const Halves h = packed_halves(c, bytes, codes);
  out[0] = even_words(c, h.first), out[1] = odd_words(c, h.first);
  out[2] = even_words(c, h.second), out[3] = odd_words(c, h.second);
}
#endif

#elif defined(PANGU_SIMD_NEON)

struct Unpacking {};

PANGU_INLINE inline void packed_floats(const Unpacking &, const uint8_t *bytes, const uint8_t *codes, vf *out) {
  const uint8x16_t both = vld1q_u8(codes), upper = vld1q_u8(kUpper);
  const uint8x16_t code[2] = {vandq_u8(both, vdupq_n_u8(15)), vshrq_n_u8(both, 4)};
  const uint32x4_t odd = vdupq_n_u32(0xffff0000u);
  for (int l = 0; l < 2; ++l) {
    const uint8x16_t low = vld1q_u8(bytes + 16 * l), high = vqtbl1q_u8(upper, code[l]);
    const uint32x4_t first = vreinterpretq_u32_u8(vzip1q_u8(low, high)), second = vreinterpretq_u32_u8(vzip2q_u8(low, high));
    out[l] = vreinterpretq_f32_u32(vshlq_n_u32(first, 16)), out[2 + l] = vreinterpretq_f32_u32(vandq_u32(first, odd));
    out[4 + l] = vreinterpretq_f32_u32(vshlq_n_u32(second, 16)), out[6 + l] = vreinterpretq_f32_u32(vandq_u32(second, odd));
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

// Rows [o, stop) of T tokens, whose sums are complete but for the scale and the listed weights.
__attribute__((noinline)) inline void finish_packed(const RowProduct &p, int T, float *const *y, const float *const *x, int64_t o, int64_t stop) {
  const float *const scales = static_cast<const float *>(p.w.scales);
  for (int t = 0; t < T; ++t)
    for (int64_t r = o; r < stop; ++r) y[t][r] *= scales[r];
  for (; o < stop; ++o) {
    const PackedRow row(p.w, o, p.I);
    for (uint32_t i = 0; i < row.count(); ++i)
      for (int t = 0; t < T; ++t) y[t][o] = simd::fma1(row.value(i), x[t][row.column(i)], y[t][o]);
  }
}

// Four rows lie together, so a tile reads memory in one stream, or in two (one token): those are as fast as a plain read, where a
// stream a row reaches four fifths of it (benchmarks/README.md).
struct PackedTile {
  static constexpr int kTokens = 4;
  static constexpr int64_t kStep = kPackedRows * kPackedUnitBytes, kAhead = 1024; // bytes of a unit of four rows; that a stream is asked for ahead
  static constexpr bool kMany = simd::kManyRegisters;

  // Rows [begin, end) of w for T tokens. Two streams are blocks of the first and of the second half.
  template <int T> static void range(const RowProduct &p, const Tokens<T> &tokens, int64_t begin, int64_t end, int64_t, int64_t) {
    constexpr int kStreams = T <= (kMany ? 2 : 1) ? 2 : 1;
    const int64_t first = begin / kPackedRows, count = (end + kPackedRows - 1) / kPackedRows - first, part = count / kStreams;
    for (int64_t b = first; b < first + part; ++b) block<kStreams, T>(p, tokens, b, part, begin, end);
    for (int64_t b = first + part * kStreams; b < first + count; ++b) block<1, T>(p, tokens, b, 0, begin, end);
  }

private:
  // S blocks of four rows, `apart` from each other; as many rows at once as there are registers for.
  template <int S, int T>
  static void block(const RowProduct &p, const Tokens<T> &tokens, int64_t first, int64_t apart, int64_t begin, int64_t end) {
    constexpr int R = kMany || T <= 2 ? 4 : 2;
    for (int64_t r = 0; r < kPackedRows; r += R) run<S, R, T>(p, tokens, first * kPackedRows + r, apart * kPackedRows, begin, end);
  }

  template <int S, int R, int T>
  static void run(const RowProduct &p, const Tokens<T> &tokens, int64_t o, int64_t apart, int64_t begin, int64_t end) {
    static_assert(kFloatChunk % kPackedUnit == 0, "chunks begin at units");
    const simd::Unpacking constants;
    Elements<R, T> elements[S];
    const uint8_t *unit[S];
    for (int s = 0; s < S; ++s) unit[s] = PackedRow(p.w, o + s * apart, p.I).units;
    for (int64_t chunk = 0; chunk < p.I; chunk += kFloatChunk) {
      FloatSums<R * T> sums[S];
      const int64_t stop = min(chunk + kFloatChunk, p.I);
      for (int64_t k = chunk; k < stop; k += kPackedUnit) {
        add_unit<S, R, T>(constants, unit, tokens, k, min(stop - k, kPackedUnit), sums);
        for (int s = 0; s < S; ++s) unit[s] += kStep;
      }
      unroll<S>([&](auto s) PANGU_INLINE { elements[s].add(sums[s]); });
    }
    unroll<S>([&](auto s) PANGU_INLINE {
      const int64_t from = o + s * apart;
      elements[s].store(tokens, from, begin, end);
      finish_packed(p, T, tokens.y, tokens.x, max(from, begin), min(from + R, end));
    });
  }

  template <int S, int R, int T>
  PANGU_INLINE static void add_unit(const simd::Unpacking &constants, const uint8_t *const *unit, const Tokens<T> &tokens, int64_t k, int64_t n,
                                    FloatSums<R * T> *sums) {
    constexpr int64_t kAsked = kStep * 32 / kPackedUnit; // bytes a step
    const float *x[T];
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
      unroll<S>([&](auto s) PANGU_INLINE {
        unroll<kAsked / 64>([&](auto line) PANGU_INLINE { simd::prefetch(unit[s] + i * (kAsked / 32) + kAhead + 64 * line); });
      });
      for (int t = 0; t < T; ++t) x[t] = tokens.x[t] + k + i;
      step<S, R, T>(constants, unit, i, x, sums);
    }
    if (i == n) return;
    float part[T][32] = {};
    for (int t = 0; t < T; ++t) std::memcpy(part[t], tokens.x[t] + k + i, static_cast<size_t>(n - i) * 4), x[t] = part[t];
    step<S, R, T>(constants, unit, i, x, sums);
  }

  template <int S, int R, int T>
  PANGU_INLINE static void step(const simd::Unpacking &constants, const uint8_t *const *unit, int64_t i, const float *const *x, FloatSums<R * T> *sums) {
    using namespace simd;
    unroll<S * R>([&](auto e) PANGU_INLINE {
      constexpr int s = e / R, r = e % R;
      const uint8_t *const bytes = unit[s] + r * kPackedUnitBytes;
      vf wv[kPackedFloats];
      packed_floats(constants, bytes + i, bytes + kPackedUnit + i / 2, wv);
      unroll<T>([&](auto t) PANGU_INLINE {
        unroll<kPackedFloats>([&](auto v) PANGU_INLINE { sums[s].v[t * R + r] = f_fma(wv[v], f_load(x[t] + v * kFloats), sums[s].v[t * R + r]); });
      });
    });
  }
};
template <> constexpr bool kOwnRange<PackedTile> = true;

// Columns [from, from + n) of rows [begin, end) as bf16 without their scales, kFloatChunk apart.
inline void unpack_rows(const RowProduct &p, int64_t begin, int64_t end, int64_t from, int64_t n, uint16_t *out) {
  const simd::Unpacking constants;
  for (int64_t o = begin; o < end; ++o, out += kFloatChunk) {
    const PackedRow row(p.w, o, p.I);
    for (int64_t k = 0; k < n; k += kPackedUnit) {
      const uint8_t *const unit = row.unit(from + k);
      for (int64_t line = 0; line < kPackedUnitBytes; line += 64) simd::prefetch(unit + kPackedRows * p.w.row_stride + line); // the next rows
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
      finish_packed(p, count, y, x, o, stop);
    }
  }
}

} // namespace pangu
