// pangu_codes.h: what the indexer's scan reads instead of float32 keys: integers of 16 or 8 bits, with a bound on what they leave out.
//
// The scan must choose the rows that float32 scores would choose, ties included. Codes alone would choose others, so a score by
// codes comes with a bound on its distance from the float32 score. Keys that are surely among the best, or surely not, are
// decided by the bounds; only the few between are scored in float32 (pangu_index.h).
//
//   key k:    k = m + d (s c + r), column by column: m and d are of the cache, the step s, the codes c (integers) and the rest r
//             of the key. Keys of a trained model have much in common, and some columns that are far larger than others.
//   query q:  d q as integers, with a step of their own for each head; q . m stays float32
//   score     S = sum over heads h of w_h relu(scale q_h . k)
//   bound     |S - S'| <= |r| sqrt(sum over g, h of max(0, G_gh)) + what rounding adds,  G_gh = scale^2 w_g w_h (d q_g) . (d q_h)
//
// with S' the score of m + d s c and |r| a Euclidean norm, since relu(a) - relu(b) = t (a - b) with 0 <= t <= 1: S - S' is r . v,
// v = sum of t_h w_h scale d q_h.
#pragma once

namespace pangu {

// One step of a product of integers: a vector of heads, a few columns, and the same columns of one key.
#if (defined(__AVX512F__) && defined(__AVX512BW__)) || (defined(__AVX2__) && !defined(__AVX512F__))
constexpr bool kCodes = true;
constexpr int kStepColumns = 2;
typedef int16_t Code; // the products are of 16 bits anyhow, and the bounds 16 times as close as with 8
constexpr int32_t kCodeMost = 2047;
typedef ints StepQuery, StepSums;

inline StepQuery step_query(const uint8_t *p) {
  vec v = load(reinterpret_cast<const float *>(p));
  hold(v);
  return (StepQuery)v;
}
inline void step(StepSums &sums, StepQuery query, const Code *key) {
  int32_t pair;
  std::memcpy(&pair, key, 4);
#if defined(__AVX512VNNI__)
  sums = (ints)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)query, _mm512_set1_epi32(pair));
#elif defined(__AVX512F__)
  sums += (ints)_mm512_madd_epi16((__m512i)query, _mm512_set1_epi32(pair));
#else
  sums += (ints)_mm256_madd_epi16((__m256i)query, _mm256_set1_epi32(pair));
#endif
}
inline vec sums_value(StepSums sums) { return __builtin_convertvector(sums, vec); }
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr bool kCodes = true;
constexpr int kStepColumns = 4;
typedef int8_t Code;
constexpr int32_t kCodeMost = 127;
struct StepQuery {
  int8x16_t upper, lower; // bytes
};
struct StepSums {
  int32x4_t upper, lower;
};

inline StepQuery step_query(const uint8_t *p) {
  return {vreinterpretq_s8_u8(vld1q_u8(p)), vreinterpretq_s8_u8(vld1q_u8(p + 16))};
}
inline void step(StepSums &sums, StepQuery query, const Code *key) {
  int32_t four;
  std::memcpy(&four, key, 4);
  const int8x16_t k = vreinterpretq_s8_s32(vdupq_n_s32(four));
  sums.upper = vdotq_s32(sums.upper, query.upper, k);
  sums.lower = vdotq_s32(sums.lower, query.lower, k);
}
inline vec sums_value(StepSums sums) { return (vec)vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(sums.upper, 8), sums.lower)); }
#else
constexpr bool kCodes = false; // integers would be no faster than float32
constexpr int kStepColumns = 2;
typedef int16_t Code;
constexpr int32_t kCodeMost = 2047;
typedef ints StepQuery, StepSums;
inline StepQuery step_query(const uint8_t *) { return StepQuery{}; }
inline void step(StepSums &, StepQuery, const Code *) {}
inline vec sums_value(StepSums sums) { return __builtin_convertvector(sums, vec); }
#endif

constexpr int64_t kCodeBlock = 48;    // keys that lie together (compiler/plan/workspace.py: CODE_BLOCK)
constexpr int64_t kCodeColumns = 512; // of a key at most
constexpr float kCodeLeast = 1e-15f, kCodeLargest = 1e15f; // beyond, numbers are not coded: nothing under- or overflows

constexpr int64_t code_columns(int64_t width) { return (width + 15) / 16 * 16; }

// The largest integer of a query: its two bytes are signed ones, and sums of products are 32-bit integers.
inline int32_t query_most(int64_t width) {
  return static_cast<int32_t>(min<int64_t>(127 * 256 + 127, std::numeric_limits<int32_t>::max() / (kCodeMost * code_columns(width))));
}

// Codes of a cache of keys, in memory of the session's: how many rows are coded, from byte PANGU_DERIVED_HEADER on m and d
// (f32[code_columns] each), then blocks: codes [48][code_columns], and f32[48] of the steps, of no less than |r|, |s c| and |k|.
struct KeyCodes {
  uint8_t *memory;
  int64_t width;

  int64_t &rows() const { return *reinterpret_cast<int64_t *>(memory); }
  float *middle() const { return reinterpret_cast<float *>(memory + PANGU_DERIVED_HEADER); }
  float *spread() const { return middle() + code_columns(width); }
  Code *codes(int64_t b) const {
    constexpr int64_t kNumbers = 16 / sizeof(Code); // of a row, beside its codes
    return reinterpret_cast<Code *>(spread() + code_columns(width)) + b * kCodeBlock * (code_columns(width) + kNumbers);
  }
  float *steps(int64_t b) const { return reinterpret_cast<float *>(codes(b) + kCodeBlock * code_columns(width)); }
  float *rests(int64_t b) const { return steps(b) + kCodeBlock; }
  float *sizes(int64_t b) const { return rests(b) + kCodeBlock; }
  float *norms(int64_t b) const { return sizes(b) + kCodeBlock; }

  // All `end` rows of the cache are coded then. end >= 1.
  void extend(pangu_pool *pool, int64_t end, const float *keys) const {
    const int64_t from = rows();
    if (from == 0) look_at(min(end, kLooked), keys);
    parallel(pool, end - from, 8 * width, [&](int64_t begin, int64_t stop) {
      float scaled[kCodeColumns];
      for (int64_t row = from + begin; row < from + stop; ++row) write(row, keys + row * width, scaled);
    });
    rows() = end;
  }

private:
  static constexpr int64_t kLooked = 1024; // rows that decide m and d. Any are right; these make |r| small

  // The mean of every column, and its part in a row's distance from that, root mean square: one row counts as much as another.
  void look_at(int64_t n, const float *keys) const {
    float *const m = middle(), *const d = spread();
    float largest = 0;
    std::fill_n(m, 2 * code_columns(width), 0.0f);
    for (int64_t j = 0; j < n; ++j)
      for (int64_t c = 0; c < width; ++c) m[c] += keys[j * width + c] / static_cast<float>(n);
    for (int64_t c = 0; c < width; ++c) m[c] = std::isfinite(m[c]) ? m[c] : 0;
    for (int64_t j = 0; j < n; ++j) {
      float square = 0;
      for (int64_t c = 0; c < width; ++c) square += (keys[j * width + c] - m[c]) * (keys[j * width + c] - m[c]);
      if (!(square > 1e-30f && square < 1e30f)) continue;
      for (int64_t c = 0; c < width; ++c) d[c] += (keys[j * width + c] - m[c]) * (keys[j * width + c] - m[c]) / square;
    }
    for (int64_t c = 0; c < width; ++c) largest = max(largest, d[c]);
    // A column that was still so far may move.
    for (int64_t c = 0; c < width; ++c) d[c] = largest > 0 ? std::sqrt(max(d[c] / largest, 1e-6f)) : 1;
  }

  void write(int64_t row, const float *key, float *scaled) const {
    const int64_t b = row / kCodeBlock, i = row % kCodeBlock, columns = code_columns(width);
    Code *const code = codes(b) + i * columns;
    float most = 0, finite = 0, square = 0, rest = 0;
    for (int64_t c = 0; c < width; ++c) {
      scaled[c] = (key[c] - middle()[c]) / spread()[c];
      most = max(most, std::fabs(scaled[c])), finite += scaled[c] * 0.0f;
      square += scaled[c] * scaled[c];
    }
    const bool usable = finite == 0.0f && most > kCodeLeast && most < kCodeLargest;
    const float step = usable ? most / kCodeMost : 0.0f, inverse = usable ? kCodeMost / most : 0.0f;
    for (int64_t c = 0; c < width; ++c) {
      const float rounded = usable ? std::nearbyint(scaled[c] * inverse) : 0.0f, left = scaled[c] - step * rounded;
      code[c] = static_cast<Code>(rounded);
      rest += left * left;
    }
    for (int64_t c = width; c < columns; ++c) code[c] = 0;
    steps(b)[i] = step;
    sizes(b)[i] = 1.001f * (std::sqrt(square) + std::sqrt(rest)) + kCodeLeast;
    norms(b)[i] = 1.001f * std::sqrt(sum_of_squares(key, width)) + kCodeLeast;
    // Rounding of `scaled` itself is a few parts in 2^24.
    const bool known = most < kCodeLargest && norms(b)[i] < kCodeLargest;
    rests(b)[i] = known ? 1.001f * std::sqrt(rest) + 1e-6f * std::sqrt(square) + kCodeLeast : std::numeric_limits<float>::infinity();
  }
};

// A token's indexer queries as integers, heads as lanes in groups of at most three vectors, and how far its scores by codes may
// be off: rest * |r| + size * |s c| + norm * |k| + constant. NaN or infinite where the queries are.
struct CodedQuery {
  float rest, size, norm, constant;
  float *weights, *factors, *shifts; // [lanes] w_h, scale times the step of the integers, and scale q_h . m
  uint8_t *integers;

  static int64_t bytes(int64_t lanes, int64_t heads, int64_t width) {
    return lanes * (12 + 2 * code_columns(width)) + 4 * heads * (2 * width + heads);
  }

  CodedQuery() = default;
  // q[heads][width], w[heads]; `lanes`: heads and those without one, in groups of `group` lanes; memory: bytes().
  CodedQuery(const float *q, const float *w, float scale, int64_t heads, int64_t lanes, int64_t group, const KeyCodes &keys, void *memory)
      : weights(static_cast<float *>(memory)), factors(weights + lanes), shifts(factors + lanes), integers(reinterpret_cast<uint8_t *>(shifts + lanes)) {
    const int64_t width = keys.width, columns = code_columns(width);
    const int32_t most_integer = query_most(width);
    float *const scaled = reinterpret_cast<float *>(integers + lanes * columns * 2), *const left = scaled + heads * width, *const products = left + heads * width;
    std::memset(memory, 0, static_cast<size_t>(lanes * (12 + 2 * columns)));
    double norms = 0, spread_norms = 0; // sums over heads of |w scale| times |q| and |d q|
    for (int64_t h = 0; h < heads; ++h) {
      float *const row = scaled + h * width;
      float most = 0;
      for (int64_t c = 0; c < width; ++c) {
        row[c] = q[h * width + c] * keys.spread()[c];
        most = max(most, std::fabs(row[c]));
      }
      const double weight = std::fabs(double{w[h]} * scale), norm_here = std::sqrt(double{sum_of_squares(row, width)});
      const bool usable = most > kCodeLeast && norm_here < kCodeLargest;
      const float unit = usable ? most / most_integer : 0.0f, inverse = usable ? most_integer / most : 0.0f;
      weights[h] = w[h];
      factors[h] = scale * unit;
      shifts[h] = scale * dot(q + h * width, keys.middle(), width);
      norms += weight * std::sqrt(double{sum_of_squares(q + h * width, width)});
      spread_norms += weight * norm_here;
      int16_t rounded[kCodeColumns] = {};
      for (int64_t c = 0; c < width; ++c) {
        const float x = usable ? std::nearbyint(row[c] * inverse) : 0.0f;
        rounded[c] = static_cast<int16_t>(x);
        left[h * width + c] = row[c] - unit * x;
      }
      put(h, rounded, columns, group, lanes);
    }
    // Sums in float32, of the float32 score too, are off by less than `rounding` of what they add.
    const double rounding = static_cast<double>(2 * width + 4 * heads + 64) / (1 << 24);
    const double middle = std::sqrt(double{sum_of_squares(keys.middle(), width)});
    rest = static_cast<float>(1.01 * (reach(scaled, w, scale, heads, width, products) + rounding * spread_norms));
    size = static_cast<float>(1.01 * (reach(left, w, scale, heads, width, products) + rounding * spread_norms));
    norm = static_cast<float>(1.01 * rounding * norms);
    constant = static_cast<float>(1.01 * rounding * norms * (middle + kCodeLeast));
    if (!(norms < kCodeLargest && spread_norms < kCodeLargest)) constant = std::numeric_limits<float>::infinity();
  }

private:
  // No sum over heads of t_h w_h scale v_h with 0 <= t_h <= 1 is longer; v[heads][width], products[heads][heads].
  static double reach(const float *v, const float *w, float scale, int64_t heads, int64_t width, float *products) {
    double positive = 0, norms = 0;
    for (int64_t h = 0; h < heads; ++h) {
      const float *const row = v + h * width;
      dot_grid(heads, v, width, 1, &row, width, products + h, heads);
      norms += std::fabs(double{w[h]} * scale) * std::sqrt(double{products[h * heads + h]});
    }
    for (int64_t i = 0; i < heads * heads; ++i) {
      const double product = double{w[i / heads]} * w[i % heads] * scale * scale * products[i];
      positive += product < 0 ? 0 : product; // NaN stays
    }
    return std::sqrt(positive + norms * norms * static_cast<double>(width + 8) / (1 << 24)); // products are rounded
  }

  // A head's integers into its lane: x[columns].
  void put(int64_t head, const int16_t *x, int64_t columns, int64_t group, int64_t lanes) {
    constexpr int64_t kBytes = kStepColumns * 2 * kWidth; // of one step of a vector
    const int64_t first = head / group * group, lane = head - first, stride = min(group, lanes - first) / kWidth * kBytes;
    uint8_t *p = integers + first * columns * 2 + lane / kWidth * kBytes + lane % kWidth * 4;
    for (int64_t c = 0; c < columns; c += kStepColumns, p += stride) {
      if (kStepColumns == 2) {
        std::memcpy(p, x + c, 4);
        continue;
      }
      for (int i = 0; i < kStepColumns; ++i) {
        const int32_t upper = (x[c + i] + 128) >> 8;
        p[i] = static_cast<uint8_t>(upper);
        p[kBytes / 2 + i] = static_cast<uint8_t>(x[c + i] - 256 * upper);
      }
    }
  }
};

} // namespace pangu
