// pangu_gemm.h: tiles of y = x * w^T for each weight format, and the loops over them.
//
// A row of w is read in chunks. Of each chunk a tile of R rows and T tokens keeps one vector of sums per element; the
// vector is added up in a fixed order, and the chunks' sums are added to y in order. So an element's value does not
// depend on the tile that it was computed in.
//
// float32 and bfloat16 multiply in float32. q8, q8i and q4 multiply integers, whose products are summed exactly. For q8 and q8i, activations
// are 16-bit integers with one scale for 512 columns of a token (an error of 2^-16 of the largest of them). For q4 they are 8-bit
// integers with a scale for each group of 32 columns (2^-8): the weights themselves are much coarser than that. For w8a8 they are
// integers within +-127 with one scale for the row, and a whole row's products are summed exactly.
#pragma once

namespace pangu {

constexpr int64_t kIntChunk = 512;     // columns: 512 * 127 * kIntPeak stays below 2^31
constexpr int64_t kByteChunk = 1 << 17; // columns: 2^17 * 127 * 127 stays below 2^31
constexpr int64_t kFloatChunk = 512;
constexpr float kIntPeak = 32639.0f;   // 127 * 257: both halves of such an integer fit into signed bytes
constexpr int64_t kRowBlock = 128;     // rows of w that stay in the second-level cache while all tokens pass

// Activations made ready for a weight format; valid while x and the scratch are. For q8, q8i and w8a8 each token has a record of integers
// (64 bytes for 32 columns), then the scale of each chunk. For q4: integers (32 bytes for a group), then for every group, in
// sixteens, its scale, then -8 * scale * (sum of its integers), as floats; zeros behind the last group.
struct Rows {
  const float *x;
  int64_t stride;
  const uint8_t *records;
  int64_t record_bytes;
};

inline int64_t int_chunks(int64_t I) { return (I + kIntChunk - 1) / kIntChunk; }
constexpr int64_t kChunkGroups = kIntChunk / kQuantGroup;
namespace record8 {
inline int64_t scales(int64_t I) { return weight_groups(I) * 64; }
inline int64_t bytes(int64_t I) { return (scales(I) + int_chunks(I) * 4 + 63) / 64 * 64; }
} // namespace record8
namespace record4 {
inline int64_t scales(int64_t I) { return (weight_groups(I) + 3) / 4 * 4 * kQuantGroup; } // for the widest vector
inline int64_t offsets(int64_t I) { return scales(I) + int_chunks(I) * kChunkGroups * 4; }
inline int64_t bytes(int64_t I) { return (offsets(I) + int_chunks(I) * kChunkGroups * 4 + 63) / 64 * 64; }
} // namespace record4

// f(0), f(1), .. with constants. Loops over accumulators are written so, because g++ keeps arrays in registers only if
// every index is a constant early on.
#define PANGU_INLINE __attribute__((always_inline))
template <int... I, class F> PANGU_INLINE inline void unrolled(std::integer_sequence<int, I...>, const F &f) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F> PANGU_INLINE inline void unroll(const F &f) { unrolled(std::make_integer_sequence<int, N>{}, f); }

struct RowProduct { // n tokens times rows of w: see linear_picked
  int64_t n, I;
  const int64_t *pick, *out;
  Rows rows;
  Weight w;
  float *y;
  int64_t y_stride;
  int64_t skip = 0; // bytes of w that are not in memory: it is a copy of a part

  const uint8_t *row(int64_t o) const { return static_cast<const uint8_t *>(w.data) + (o * w.row_stride - skip); }
};

// Where T tokens of a product are read and written.
template <int T> struct Tokens {
  const uint8_t *record[T];
  const float *x[T];
  float *y[T];

  Tokens(const RowProduct &p, int64_t first) {
    for (int t = 0; t < T; ++t) {
      const int64_t from = p.pick != nullptr ? p.pick[first + t] : first + t, to = p.out != nullptr ? p.out[first + t] : first + t;
      record[t] = p.rows.records + from * p.rows.record_bytes;
      x[t] = p.rows.x + from * p.rows.stride;
      y[t] = p.y + to * p.y_stride;
    }
  }
};

// The elements of a tile, number t * R + r, in fours; those behind the last one are never read.
template <int R, int T> struct Elements {
  static constexpr int kCount = R * T, kFours = (R * T + 3) / 4;
  simd::f4 v[kFours];

  static constexpr int token(int e) { return (e < kCount ? e : 0) / R; }
  static constexpr int row(int e) { return (e < kCount ? e : 0) % R; }

  PANGU_INLINE Elements() {
    unroll<kFours>([&](auto i) PANGU_INLINE { v[i] = simd::f4{0, 0, 0, 0}; });
  }
  PANGU_INLINE Elements(const Tokens<T> &tokens, int64_t o, bool first) {
    unroll<kFours>([&](auto i) PANGU_INLINE {
      constexpr int e = 4 * i;
      v[i] = simd::f4{0, 0, 0, 0};
      if (!first) v[i] = simd::f4{at(tokens, o, e), at(tokens, o, e + 1), at(tokens, o, e + 2), at(tokens, o, e + 3)};
    });
  }
  static float at(const Tokens<T> &tokens, int64_t o, int e) { return tokens.y[token(e)][o + row(e)]; }

  // Adds sums * scale of the element's token.
  template <class Sums> PANGU_INLINE void add(const Sums &sums, const float *const *scales, int64_t chunk) {
    unroll<kFours>([&](auto i) PANGU_INLINE {
      constexpr int e = 4 * i;
      const simd::f4 scale{scales[token(e)][chunk], scales[token(e + 1)][chunk], scales[token(e + 2)][chunk], scales[token(e + 3)][chunk]};
      v[i] = simd::f4_fma(sums.template four<e>(), scale, v[i]);
    });
  }
  template <class Sums> PANGU_INLINE void add(const Sums &sums) {
    unroll<kFours>([&](auto i) PANGU_INLINE { v[i] = v[i] + sums.template four<4 * i>(); });
  }
  PANGU_INLINE void store(const Tokens<T> &tokens, int64_t o) const {
    unroll<kCount>([&](auto e) PANGU_INLINE { tokens.y[token(e)][o + row(e)] = v[e / 4][e % 4]; });
  }
  PANGU_INLINE void store(const Tokens<T> &tokens, int64_t o, int64_t begin, int64_t end) const { // of rows [begin, end)
    if (o >= begin && o + R <= end) return store(tokens, o);
    unroll<kCount>([&](auto e) PANGU_INLINE {
      if (o + row(e) >= begin && o + row(e) < end) tokens.y[token(e)][o + row(e)] = v[e / 4][e % 4];
    });
  }
  PANGU_INLINE void store_scaled(const Tokens<T> &tokens, int64_t o, const float *row_scale) const {
    unroll<kCount>([&](auto e) PANGU_INLINE { tokens.y[token(e)][o + row(e)] = v[e / 4][e % 4] * row_scale[row(e)]; });
  }
};

// Asks for the R rows behind a tile, 64 bytes of each at a time while as many of the tile are read: of short rows, or where that is
// said, as many bytes in the order of memory. Each of several long rows is a stream that the processor follows by itself.
template <int R> struct Ahead {
  static constexpr int64_t kShortRow = 2048;
  const uint8_t *rows; // of the next tile, `from` bytes after their begin
  int64_t row_stride;
  bool in_order;

  Ahead(const RowProduct &p, int64_t o, int64_t from, bool in_order_ = false)
      : row_stride(p.w.row_stride), in_order(in_order_ || row_stride <= kShortRow) {
    rows = p.row(o + R) + (in_order ? R * from : from);
  }
  PANGU_INLINE void ask(int64_t at) const {
    unroll<R>([&](auto r) PANGU_INLINE { simd::prefetch(in_order ? rows + R * at + 64 * r : rows + at + r * row_stride); });
  }
};

// Vectors of sums for N elements, filled up to a multiple of four.
template <int N> struct FloatSums {
  simd::vf v[(N + 3) / 4 * 4];
  PANGU_INLINE FloatSums() {
    unroll<(N + 3) / 4 * 4>([&](auto i) PANGU_INLINE { v[i] = simd::f_zero(); });
  }
  template <int I> PANGU_INLINE simd::f4 four() const { return simd::f_sum4(v[I], v[I + 1], v[I + 2], v[I + 3]); }
};
template <int N> struct IntSums {
  simd::IAcc v[(N + 3) / 4 * 4];
  PANGU_INLINE IntSums() {
    unroll<(N + 3) / 4 * 4>([&](auto i) PANGU_INLINE { v[i] = simd::i_zero(); });
  }
  template <int I> PANGU_INLINE simd::f4 four() const { return simd::i_sum4(v[I], v[I + 1], v[I + 2], v[I + 3]); }
};

struct F32 {
  typedef float element;
  static simd::vf load(const float *p) { return simd::f_load(p); }
};
struct Bf16 {
  typedef uint16_t element;
  static simd::vf load(const uint16_t *p) { return simd::f_load_bf16(p); }
};

template <class E> struct FloatTile {
  typedef typename E::element element;
  static constexpr int64_t kChunk = kFloatChunk, kPass = 1, kSize = sizeof(element);
  static constexpr int kTokens = 6;
  static constexpr int rows(int64_t tokens) { return simd::kManyRegisters || tokens <= 2 ? 4 : 2; }

  template <int R, int T> static void run(const RowProduct &p, const Tokens<T> &tokens, int64_t o, int64_t begin, int64_t end) {
    Elements<R, T> elements(tokens, o, begin == 0);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const element *w[R];
      const float *x[T];
      for (int r = 0; r < R; ++r) w[r] = reinterpret_cast<const element *>(p.row(o + r)) + chunk * kChunk;
      for (int t = 0; t < T; ++t) x[t] = tokens.x[t] + chunk * kChunk;
      FloatSums<R * T> sums;
      add_chunk<R, T>(w, x, min(kChunk, p.I - chunk * kChunk), Ahead<R>(p, o, chunk * kChunk * kSize), sums);
      elements.add(sums);
    }
    elements.store(tokens, o);
  }

  template <int R, int T> PANGU_INLINE static void add_chunk(const element *const *w, const float *const *x, int64_t n, const Ahead<R> &ahead, FloatSums<R * T> &sums) {
    using namespace simd;
    int64_t k = 0;
    for (; k + kFloats <= n; k += kFloats) {
      if (T < kTokens && k * kSize % 64 == 0) ahead.ask(k * kSize);
      step<R, T>(w, x, k, sums);
    }
    if (k == n) return;
    element w_part[R][kFloats] = {};
    float x_part[T][kFloats] = {};
    const element *w_end[R];
    const float *x_end[T];
    for (int r = 0; r < R; ++r) std::memcpy(w_part[r], w[r] + k, static_cast<size_t>(n - k) * sizeof(element)), w_end[r] = w_part[r];
    for (int t = 0; t < T; ++t) std::memcpy(x_part[t], x[t] + k, static_cast<size_t>(n - k) * 4), x_end[t] = x_part[t];
    step<R, T>(w_end, x_end, 0, sums);
  }

  template <int R, int T>
  PANGU_INLINE static void step(const element *const *w, const float *const *x, int64_t k, FloatSums<R * T> &sums) {
    simd::vf wv[R];
    unroll<R>([&](auto r) PANGU_INLINE { wv[r] = E::load(w[r] + k); });
    unroll<T>([&](auto t) PANGU_INLINE {
      simd::vf xv = simd::f_load(x[t] + k);
      PANGU_KEEP(xv);
      unroll<R>([&](auto r) PANGU_INLINE { sums.v[t * R + r] = simd::f_fma(wv[r], xv, sums.v[t * R + r]); });
    });
  }
};

template <int64_t Columns> struct Int8Tile {
  static constexpr int64_t kChunk = Columns, kPass = 5;
  static constexpr int kTokens = 4;
  static constexpr int rows(int64_t tokens) { return tokens == 1 ? 8 : simd::kManyRegisters || tokens <= 2 ? 4 : 2; }

  template <int R, int T> static void run(const RowProduct &p, const Tokens<T> &tokens, int64_t o, int64_t begin, int64_t end) {
    using namespace simd;
    Elements<R, T> elements(tokens, o, begin == 0);
    const float *scales[T];
    for (int t = 0; t < T; ++t) scales[t] = reinterpret_cast<const float *>(tokens.record[t] + record8::scales(p.I));
    const int8_t *w[R];
    for (int r = 0; r < R; ++r) w[r] = reinterpret_cast<const int8_t *>(p.row(o + r));
    const Ahead<R> ahead(p, o, 0, R < 8);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      IntSums<R * T> sums;
      const int64_t stop = min((chunk + 1) * kChunk, p.w.row_stride);
      int64_t k = chunk * kChunk;
      for (; k + 64 <= stop; k += 64) {
        ahead.ask(k);
        add_dots<R, T>(w, tokens.record, k, sums);
        add_dots<R, T>(w, tokens.record, k + 32, sums);
      }
      if (k < stop) add_dots<R, T>(w, tokens.record, k, sums);
      elements.add(sums, scales, chunk);
    }
    if (end * kChunk < p.w.row_stride) return elements.store(tokens, o);
    elements.store_scaled(tokens, o, static_cast<const float *>(p.w.scales) + o);
  }

  // 32 columns, a part of them at a time.
  template <int R, int T>
  PANGU_INLINE static void add_dots(const int8_t *const *w, const uint8_t *const *x, int64_t k, IntSums<R * T> &sums) {
    using namespace simd;
    unroll<kParts>([&](auto part) PANGU_INLINE {
      WPart wv[R];
      unroll<R>([&](auto r) PANGU_INLINE { wv[r] = w_part_q8(w[r] + k, part); });
      unroll<T>([&](auto t) PANGU_INLINE {
        XPart xv = x_part(x[t] + 2 * k, part);
        hold(xv);
        unroll<R>([&](auto r) PANGU_INLINE { sums.v[t * R + r] = i_dot(sums.v[t * R + r], wv[r], xv); });
      });
    });
  }
};

typedef Int8Tile<kIntChunk> Q8Tile;
typedef Int8Tile<kByteChunk> W8A8Tile;

struct Q4Tile {
  static constexpr int64_t kChunk = kIntChunk, kPass = 5;
  static constexpr int kTokens = 4;
  static constexpr int rows(int64_t tokens) { return simd::kManyRegisters || tokens <= 2 ? 4 : 2; }
  static constexpr int64_t kGroups = kChunkGroups, kUnit = simd::kUnit, kUnitBytes = kUnit * kQuantGroup / 2;

  template <int R, int T> static void run(const RowProduct &p, const Tokens<T> &tokens, int64_t o, int64_t begin, int64_t end) {
    Elements<R, T> elements(tokens, o, begin == 0);
    const int64_t groups = weight_groups(p.I);
    const float *scales[T], *offsets[T];
    for (int t = 0; t < T; ++t) {
      scales[t] = reinterpret_cast<const float *>(tokens.record[t] + record4::scales(p.I));
      offsets[t] = reinterpret_cast<const float *>(tokens.record[t] + record4::offsets(p.I));
    }
    const uint8_t *w[R];
    for (int r = 0; r < R; ++r) w[r] = p.row(o + r);
    const Ahead<R> ahead(p, o, 0, true); // one stream of memory, although a tile reads R: one token takes two thirds of the time
    const uint16_t *const half = static_cast<const uint16_t *>(p.w.scales) + o * groups;
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      FloatSums<R * T> sums;
      float group_scale[R][kGroups];
      const int64_t first = chunk * kGroups, stop = min(first + kGroups, groups);
      start<R, T>(half, groups, first, stop - first, offsets, group_scale, sums);
      int64_t g = first;
      for (; g + 4 <= stop; g += 4) {
        ahead.ask(g * (kQuantGroup / 2));
        for (int64_t i = g; i < g + 4; i += kUnit) add_unit<R, T>(w, tokens.record, scales, i, i - first, group_scale, sums);
      }
      for (; g + kUnit <= stop; g += kUnit) add_unit<R, T>(w, tokens.record, scales, g, g - first, group_scale, sums);
      if (g < stop) {
        uint8_t part[R][kUnitBytes] = {}; // activations are zero there
        const uint8_t *from[R];
        for (int r = 0; r < R; ++r) std::memcpy(part[r], w[r] + g * 16, static_cast<size_t>(stop - g) * 16), from[r] = part[r] - g * 16;
        add_unit<R, T>(from, tokens.record, scales, g, g - first, group_scale, sums);
      }
      elements.add(sums);
    }
    elements.store(tokens, o);
  }

  // The groups' scales as floats, and the sums' first term: stored integers are 8 too large.
  template <int R, int T>
  PANGU_INLINE static void start(const uint16_t *half, int64_t groups, int64_t first, int64_t n, const float *const *offsets, float (*scale)[kGroups],
                    FloatSums<R * T> &sums) {
    using namespace simd;
    uint16_t part[R][kGroups];
    if (n < kGroups) {
      std::memset(part, 0, sizeof part);
      for (int r = 0; r < R; ++r) std::memcpy(part[r], half + r * groups + first, static_cast<size_t>(n) * 2);
    }
    unroll<R>([&](auto r) PANGU_INLINE {
      const uint16_t *const row = n < kGroups ? part[r] : half + r * groups + first;
      prefetch(row + R * groups);
      unroll<kGroups / kFloats>([&](auto i) PANGU_INLINE {
        const vf s = f_load_f16(row + i * kFloats);
        f_store(scale[r] + i * kFloats, s);
        unroll<T>([&](auto t) PANGU_INLINE {
          sums.v[t * R + r] = f_fma(s, f_load(offsets[t] + first + i * kFloats), sums.v[t * R + r]);
        });
      });
    });
  }

  // As many groups as fill a vector with four sums each.
  template <int R, int T>
  PANGU_INLINE static void add_unit(const uint8_t *const *w, const uint8_t *const *x, const float *const *scales, int64_t g, int64_t i,
                                    const float (*scale)[kGroups], FloatSums<R * T> &sums) {
    using namespace simd;
    if constexpr (T == 1) { // x stays in registers
      const Bytes8 xv = x8_load(x[0] + g * kQuantGroup);
      const vf xs = f_groups(scales[0] + g);
      unroll<R>([&](auto r) PANGU_INLINE { sums.v[r] = f_fma(n_dot(w_nibbles(w[r] + g * 16), xv), f_mul(f_groups(scale[r] + i), xs), sums.v[r]); });
    } else {
      Nibbles wv[R];
      vf ws[R];
      unroll<R>([&](auto r) PANGU_INLINE { wv[r] = w_nibbles(w[r] + g * 16), ws[r] = f_groups(scale[r] + i); });
      unroll<T>([&](auto t) PANGU_INLINE {
        const Bytes8 xv = x8_load(x[t] + g * kQuantGroup);
        const vf xs = f_groups(scales[t] + g);
        unroll<R>([&](auto r) PANGU_INLINE { sums.v[t * R + r] = f_fma(n_dot(wv[r], xv), f_mul(ws[r], xs), sums.v[t * R + r]); });
      });
    }
  }
};

// Does a tile go through rows by itself?
template <class Tile> constexpr bool kOwnRange = false;

// All rows [begin, end) for T tokens, chunks [from, to).
template <class Tile, int T>
inline void tile_rows(const RowProduct &p, int64_t t, int64_t begin, int64_t end, int64_t from, int64_t to) {
  const Tokens<T> tokens(p, t);
  if constexpr (kOwnRange<Tile>) {
    Tile::template range<T>(p, tokens, begin, end, from, to);
  } else {
    constexpr int R = Tile::rows(T);
    int64_t o = begin;
    for (; o + R <= end; o += R) Tile::template run<R, T>(p, tokens, o, from, to);
    for (; o < end; ++o) Tile::template run<1, T>(p, tokens, o, from, to);
  }
}

template <class Tile>
inline void tile_tokens(const RowProduct &p, int64_t t, int64_t begin, int64_t end, int64_t from, int64_t to) {
  constexpr int kMost = Tile::kTokens;
  switch (min<int64_t>(kMost, p.n - t)) {
  case 1: return tile_rows<Tile, 1>(p, t, begin, end, from, to);
  case 2: return tile_rows<Tile, 2>(p, t, begin, end, from, to);
  case 3: return tile_rows<Tile, 3>(p, t, begin, end, from, to);
  case 4: return tile_rows<Tile, 4>(p, t, begin, end, from, to);
  case 5: return tile_rows<Tile, (kMost < 5 ? kMost : 5)>(p, t, begin, end, from, to);
  default: return tile_rows<Tile, kMost>(p, t, begin, end, from, to);
  }
}

// Rows [begin, end) of w for all tokens. Few tokens: row after row, as they lie in memory. Many: blocks of rows stay in
// the second-level cache, kPass chunks of a few tokens in the first.
template <class Tile> __attribute__((noinline)) void product_rows(const RowProduct &p, int64_t begin, int64_t end) {
  const int64_t chunks = (p.I + Tile::kChunk - 1) / Tile::kChunk;
  if (p.n <= Tile::kTokens) return p.n > 0 ? tile_tokens<Tile>(p, 0, begin, end, 0, chunks) : void();
  for (int64_t o = begin; o < end; o += kRowBlock)
    for (int64_t chunk = 0; chunk < chunks; chunk += Tile::kPass)
      for (int64_t t = 0; t < p.n; t += Tile::kTokens)
        tile_tokens<Tile>(p, t, o, min(o + kRowBlock, end), chunk, min(chunk + Tile::kPass, chunks));
}

} // namespace pangu
