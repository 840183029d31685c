// pangu_gemm.h: tiles of y = x * w^T for each weight format, and the loops over them.
//
// A row of w is read in chunks. Of each chunk a tile of R rows and T tokens keeps one vector of sums per element; the
// vector is added up in a fixed order, and the chunks' sums are added to y in order. So an element's value does not
// depend on the tile that it was computed in.
//
// float32 and bfloat16 multiply in float32. q8 and q4 multiply integers: activations are 16-bit integers with one scale
// for 512 columns of a token (an error of 2^-16 of the largest of them), their products are summed exactly in 32 bits.
#pragma once

namespace pangu {

constexpr int64_t kIntChunk = 512;     // columns: 512 * 127 * kIntPeak stays below 2^31
constexpr int64_t kFloatChunk = 1024;
constexpr float kIntPeak = 32639.0f;   // 127 * 257: both halves of such an integer fit into signed bytes
constexpr int64_t kAhead = 1024;       // bytes that a single token's reading of w is ahead of its arithmetic
constexpr int64_t kRowBlock = 32;      // rows of w that stay in the cache while all tokens pass

// Activations made ready for a weight format; valid while x and the scratch are. For q8 and q4 each token has a record:
// integers (64 bytes for 32 columns), then -8 * (sum of a group's integers) as floats, then the scale of each chunk.
struct Rows {
  const float *x;
  int64_t stride;
  const uint8_t *records;
  int64_t record_bytes;
};

inline int64_t int_chunks(int64_t I) { return (I + kIntChunk - 1) / kIntChunk; }
inline int64_t sums_offset(int64_t I) { return weight_groups(I) * 64; }
inline int64_t scales_offset(int64_t I) { return sums_offset(I) + int_chunks(I) * (kIntChunk / kQuantGroup) * 4; }
inline int64_t record_bytes(int64_t I) { return (scales_offset(I) + int_chunks(I) * 4 + 63) / 64 * 64; }

struct RowProduct { // n tokens times rows of w: see linear_picked
  int64_t n, I;
  const int64_t *pick, *out;
  Rows rows;
  Weight w;
  float *y;
  int64_t y_stride;

  const float *x(int64_t t) const { return rows.x + (pick != nullptr ? pick[t] : t) * rows.stride; }
  const uint8_t *record(int64_t t) const { return rows.records + (pick != nullptr ? pick[t] : t) * rows.record_bytes; }
  float *to(int64_t t) const { return y + (out != nullptr ? out[t] : t) * y_stride; }
  const uint8_t *row(int64_t o) const { return static_cast<const uint8_t *>(w.data) + o * w.row_stride; }
};

// Vectors of sums for N elements, filled up to a multiple of four; element (t, r) of a tile is number t * R + r.
template <int N> struct FloatSums {
  simd::vf v[(N + 3) / 4 * 4];
  FloatSums() {
    for (simd::vf &x : v) x = simd::f_zero();
  }
  void add_up(float *sums) const {
    for (int i = 0; i < N; i += 4) simd::f_sum4(v[i], v[i + 1], v[i + 2], v[i + 3], sums + i);
  }
};
template <int N> struct IntSums {
  simd::IAcc v[(N + 3) / 4 * 4];
  IntSums() {
    for (simd::IAcc &x : v) x = simd::i_zero();
  }
  void add_up(int32_t *sums) const {
    for (int i = 0; i < N; i += 4) simd::i_sum4(v[i], v[i + 1], v[i + 2], v[i + 3], sums + i);
  }
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
  static constexpr int64_t kChunk = kFloatChunk;
  static constexpr int kTokens = 6;
  static constexpr int rows(int64_t tokens) { return simd::kManyRegisters || tokens <= 2 ? 4 : 2; }

  template <int R, int T> static void run(const RowProduct &p, int64_t o, int64_t t0, int64_t chunk) {
    using namespace simd;
    const int64_t begin = chunk * kChunk, n = min(kChunk, p.I - begin);
    const element *w[R];
    const float *x[T];
    for (int r = 0; r < R; ++r) w[r] = reinterpret_cast<const element *>(p.row(o + r)) + begin;
    for (int t = 0; t < T; ++t) x[t] = p.x(t0 + t) + begin;
    FloatSums<R * T> acc;
    int64_t k = 0;
    for (; k + kFloats <= n; k += kFloats) {
      if (T == 1 && k % (64 / static_cast<int64_t>(sizeof(element))) == 0)
        for (int r = 0; r < R; ++r) prefetch(w[r] + k + kAhead / sizeof(element));
      step<R, T>(w, x, k, acc);
    }
    if (k < n) {
      element w_part[R][kFloats] = {};
      float x_part[T][kFloats] = {};
      const element *w_end[R];
      const float *x_end[T];
      for (int r = 0; r < R; ++r) std::memcpy(w_part[r], w[r] + k, static_cast<size_t>(n - k) * sizeof(element)), w_end[r] = w_part[r];
      for (int t = 0; t < T; ++t) std::memcpy(x_part[t], x[t] + k, static_cast<size_t>(n - k) * 4), x_end[t] = x_part[t];
      step<R, T>(w_end, x_end, 0, acc);
    }
    float sums[(R * T + 3) / 4 * 4];
    acc.add_up(sums);
    for (int t = 0; t < T; ++t) {
      float *const y = p.to(t0 + t) + o;
      for (int r = 0; r < R; ++r) y[r] = (chunk == 0 ? 0.0f : y[r]) + sums[t * R + r];
    }
  }

  template <int R, int T>
  static inline void step(const element *const *w, const float *const *x, int64_t k, FloatSums<R * T> &acc) {
    simd::vf wv[R];
    for (int r = 0; r < R; ++r) wv[r] = E::load(w[r] + k);
    for (int t = 0; t < T; ++t) {
      const simd::vf xv = simd::f_load(x[t] + k);
      for (int r = 0; r < R; ++r) acc.v[t * R + r] = simd::f_fma(wv[r], xv, acc.v[t * R + r]);
    }
  }
};

struct Q8Tile {
  static constexpr int64_t kChunk = kIntChunk;
  static constexpr int kTokens = 4;
  static constexpr int rows(int64_t tokens) { return simd::kManyRegisters || tokens <= 2 ? 4 : 2; }

  template <int R, int T> static void run(const RowProduct &p, int64_t o, int64_t t0, int64_t chunk) {
    using namespace simd;
    const int64_t begin = chunk * kChunk, n = min(kChunk, p.w.row_stride - begin);
    const int8_t *w[R];
    const uint8_t *record[T];
    for (int r = 0; r < R; ++r) w[r] = reinterpret_cast<const int8_t *>(p.row(o + r)) + begin;
    for (int t = 0; t < T; ++t) record[t] = p.record(t0 + t);
    IntSums<R * T> acc;
    for (int64_t k = 0; k < n; k += 32)
      for (int r = 0; r < R; ++r) {
        if (T == 1 && k % 64 == 0) prefetch(w[r] + k + kAhead);
        const W32 wv = w_load_q8(w[r] + k);
        for (int t = 0; t < T; ++t) acc.v[t * R + r] = i_dot(acc.v[t * R + r], wv, record[t] + (begin + k) * 2);
      }
    int32_t sums[(R * T + 3) / 4 * 4];
    acc.add_up(sums);
    const bool last = begin + n == p.w.row_stride;
    const float *const scale = static_cast<const float *>(p.w.scales) + o;
    for (int t = 0; t < T; ++t) {
      float *const y = p.to(t0 + t) + o;
      const float x_scale = reinterpret_cast<const float *>(record[t] + scales_offset(p.I))[chunk];
      for (int r = 0; r < R; ++r) {
        const float sum = fma1(static_cast<float>(sums[t * R + r]), x_scale, chunk == 0 ? 0.0f : y[r]);
        y[r] = last ? sum * scale[r] : sum;
      }
    }
  }
};

struct Q4Tile {
  static constexpr int64_t kChunk = kIntChunk;
  static constexpr int kTokens = 4;
  static constexpr int rows(int64_t tokens) { return simd::kManyRegisters || tokens <= 2 ? 4 : 2; }

  template <int R, int T> static void run(const RowProduct &p, int64_t o, int64_t t0, int64_t chunk) {
    using namespace simd;
    constexpr int64_t kGroups = kChunk / kQuantGroup;
    const int64_t all = weight_groups(p.I), first = chunk * kGroups, n = min(kGroups, all - first);
    const uint8_t *record[T];
    for (int t = 0; t < T; ++t) record[t] = p.record(t0 + t);
    FloatSums<R * T> acc;
    float scale[R][kGroups];
    for (int r = 0; r < R; ++r) {
      const uint16_t *half = static_cast<const uint16_t *>(p.w.scales) + (o + r) * all + first;
      uint16_t part[kGroups] = {};
      if (n < kGroups) std::memcpy(part, half, static_cast<size_t>(n) * 2), half = part;
      for (int64_t g = 0; g < kGroups; g += kFloats) {
        const vf s = f_load_f16(half + g);
        f_store(scale[r] + g, s);
        for (int t = 0; t < T; ++t) {
          const float *const sums = reinterpret_cast<const float *>(record[t] + sums_offset(p.I)) + first + g;
          acc.v[t * R + r] = f_fma(s, f_load(sums), acc.v[t * R + r]);
        }
      }
    }
    const uint8_t *w[R];
    for (int r = 0; r < R; ++r) w[r] = p.row(o + r) + first * 16;
    for (int64_t g = 0; g < n; ++g)
      for (int r = 0; r < R; ++r) {
        if (T == 1 && g % 4 == 0) prefetch(w[r] + g * 16 + kAhead);
        const W32 wv = w_load_q4(w[r] + g * 16);
        const vf s = f_set(scale[r][g]);
        for (int t = 0; t < T; ++t)
          acc.v[t * R + r] = f_fma(i_float(i_dot(i_zero(), wv, record[t] + (first + g) * 64)), s, acc.v[t * R + r]);
      }
    float sums[(R * T + 3) / 4 * 4];
    acc.add_up(sums);
    for (int t = 0; t < T; ++t) {
      float *const y = p.to(t0 + t) + o;
      const float x_scale = reinterpret_cast<const float *>(record[t] + scales_offset(p.I))[chunk];
      for (int r = 0; r < R; ++r) y[r] = fma1(sums[t * R + r], x_scale, chunk == 0 ? 0.0f : y[r]);
    }
  }
};

template <class Tile, int T> inline void tile_rows(const RowProduct &p, int64_t t, int64_t begin, int64_t end, int64_t chunk) {
  constexpr int R = Tile::rows(T);
  int64_t o = begin;
  for (; o + R <= end; o += R) Tile::template run<R, T>(p, o, t, chunk);
  for (; o < end; ++o) Tile::template run<1, T>(p, o, t, chunk);
}

template <class Tile> inline void tile_tokens(const RowProduct &p, int64_t t, int64_t begin, int64_t end, int64_t chunk) {
  switch (min<int64_t>(Tile::kTokens, p.n - t)) {
  case 1: return tile_rows<Tile, 1>(p, t, begin, end, chunk);
  case 2: return tile_rows<Tile, 2>(p, t, begin, end, chunk);
  case 3: return tile_rows<Tile, 3>(p, t, begin, end, chunk);
  case 4: return tile_rows<Tile, 4>(p, t, begin, end, chunk);
  case 5: return tile_rows<Tile, (Tile::kTokens < 5 ? Tile::kTokens : 5)>(p, t, begin, end, chunk);
  default: return tile_rows<Tile, Tile::kTokens>(p, t, begin, end, chunk);
  }
}

// Rows [begin, end) of w for all tokens. Few tokens: whole rows one tile after the other, as they lie in memory.
template <class Tile> __attribute__((noinline)) void product_rows(const RowProduct &p, int64_t begin, int64_t end) {
  const int64_t chunks = (p.I + Tile::kChunk - 1) / Tile::kChunk;
  const int64_t block = p.n <= Tile::kTokens ? Tile::rows(p.n) : kRowBlock;
  for (int64_t o = begin; o < end; o += block)
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      for (int64_t t = 0; t < p.n; t += Tile::kTokens) tile_tokens<Tile>(p, t, o, min(o + block, end), chunk);
}

} // namespace pangu
