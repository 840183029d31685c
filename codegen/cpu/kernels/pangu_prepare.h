// pangu_prepare.h: activations to integers: 16 bits with a scale for every 512 columns for q8 and q8i weights, 8 bits with one for
// every 32 columns for q4, 8 bits with one for the row for w8a8. NaN and infinities make the scale NaN.
#pragma once

namespace pangu {

struct Peak {
  float largest, spoiled; // spoiled is NaN where a number is not finite, else 0
  bool usable() const { return largest >= 1e-30f && spoiled == 0.0f; }
};

inline Peak peak_of(const float *x, int64_t n) {
  vec peaks[2] = {}, bad[2] = {};
  const auto look = [&](int part, vec v) {
    const vec a = v < vec{} ? -v : v;
    peaks[part] = peaks[part] < a ? a : peaks[part];
    bad[part] += a * vec{};
  };
  int64_t i = 0;
  for (; i + 2 * kWidth <= n; i += 2 * kWidth) look(0, load(x + i)), look(1, load(x + i + kWidth));
  for (; i + kWidth <= n; i += kWidth) look(0, load(x + i));
  if (i < n) look(1, load_part(x + i, n - i));
  return {most(peaks[0] < peaks[1] ? peaks[1] : peaks[0]), sum(bad[0] + bad[1])};
}

// n columns of a group times `inverse`, rounded, and zeros behind them. Zeros where `inverse` is 0.
inline void round_group(const float *x, int64_t n, float inverse, int16_t *q) {
  if (!(inverse > 0.0f)) {
    std::memset(q, 0, sizeof(int16_t) * kQuantGroup);
  } else if (n < kQuantGroup) {
    float padded[kQuantGroup] = {};
    std::memcpy(padded, x, static_cast<size_t>(n) * 4);
    simd::round32(padded, inverse, q);
  } else {
    simd::round32(x, inverse, q);
  }
}

// fours: as rows in eights read them.
template <bool fours> inline void prepare_record8(const float *x, int64_t I, uint8_t *record) {
  float *const scales = reinterpret_cast<float *>(record + record8::scales(I));
  for (int64_t chunk = 0; chunk < int_chunks(I); ++chunk) {
    const int64_t begin = chunk * kIntChunk, end = min(begin + kIntChunk, I);
    const Peak peak = peak_of(x + begin, end - begin);
    for (int64_t at = begin; at < end; at += kQuantGroup) {
      int16_t q[kQuantGroup];
      round_group(x + at, min(kQuantGroup, end - at), peak.usable() ? kIntPeak / peak.largest : 0.0f, q);
      fours ? simd::x_pack_fours(q, record + at * 2) : simd::x_pack32(q, record + at * 2);
    }
    scales[chunk] = peak.largest / kIntPeak + peak.spoiled;
  }
}

// A record as for q8, of integers within +-127 with one scale, which all of its chunks have. The operations are those of the Ascend
// kernels (codegen/ascend/kernels/pangu_vector.h: quantise_rows), so that both round alike.
inline void prepare_row8(const float *x, int64_t I, uint8_t *record) {
  const Peak peak = peak_of(x, I);
  const float inverse = peak.usable() ? 1.0f / peak.largest * 127.0f : 0.0f;
  for (int64_t at = 0; at < I; at += kQuantGroup) {
    int16_t q[kQuantGroup];
    round_group(x + at, min(kQuantGroup, I - at), inverse, q);
    simd::x_pack32(q, record + at * 2);
  }
  float *const scales = reinterpret_cast<float *>(record + record8::scales(I));
  for (int64_t chunk = 0; chunk < int_chunks(I); ++chunk) scales[chunk] = peak.largest * (1.0f / 127.0f) + peak.spoiled;
}

inline void prepare_record4(const float *x, int64_t I, uint8_t *record) {
  constexpr float kPeak = 127.0f;
  std::memset(record, 0, static_cast<size_t>(record4::bytes(I)));
  float *const scales = reinterpret_cast<float *>(record + record4::scales(I)), *const offsets = reinterpret_cast<float *>(record + record4::offsets(I));
  for (int64_t unit = 0; unit < weight_groups(I); unit += simd::kUnit) {
    int8_t q[simd::kUnit * kQuantGroup] = {};
    for (int64_t g = unit; g < min<int64_t>(unit + simd::kUnit, weight_groups(I)); ++g) {
      const int64_t begin = g * kQuantGroup, n = min(kQuantGroup, I - begin);
      const Peak peak = peak_of(x + begin, n);
      scales[g] = peak.largest / kPeak + peak.spoiled;
      const float inverse = peak.usable() ? kPeak / peak.largest : 0.0f;
      int16_t wide[kQuantGroup];
      round_group(x + begin, n, inverse, wide);
      simd::narrow32(wide, q + (g - unit) * kQuantGroup);
      offsets[g] = static_cast<float>(-8 * simd::sum32(wide)) * scales[g];
    }
    simd::x8_pack(q, reinterpret_cast<int8_t *>(record) + unit * kQuantGroup);
  }
}

} // namespace pangu
