// pangu_prepare.h: activations to integers: 16 bits with a scale for every 512 columns for q8 weights, 8 bits with one for
// every 32 columns for q4. NaN and infinities make the scale NaN.
#pragma once

namespace pangu {

struct Peak {
  float largest, spoiled; // spoiled is NaN where a number is not finite, else 0
  bool usable() const { return largest >= 1e-30f && spoiled == 0.0f; }
};

inline Peak peak_of(const float *x, int64_t n) {
  constexpr int kParts = 16;
  float peaks[kParts] = {}, bad[kParts] = {};
  int64_t i = 0;
  for (; i + kParts <= n; i += kParts)
    for (int l = 0; l < kParts; ++l) {
      const float a = std::fabs(x[i + l]);
      peaks[l] = peaks[l] < a ? a : peaks[l];
      bad[l] += a * 0.0f;
    }
  for (int l = 0; i + l < n; ++l) {
    const float a = std::fabs(x[i + l]);
    peaks[l] = peaks[l] < a ? a : peaks[l];
    bad[l] += a * 0.0f;
  }
  float peak = 0, spoiled = 0;
  for (int l = 0; l < kParts; ++l) peak = peak < peaks[l] ? peaks[l] : peak, spoiled += bad[l];
  return {peak, spoiled};
}

// One chunk of n columns: integers of whole groups; returns the scale.
inline float prepare_chunk(const float *x, int64_t n, uint8_t *integers) {
  const Peak peak = peak_of(x, n);
  const float inverse = peak.usable() ? kIntPeak / peak.largest : 0.0f;
  for (int64_t g = 0; g < n; g += kQuantGroup) {
    int16_t q[kQuantGroup];
    float padded[kQuantGroup] = {};
    std::memcpy(padded, x + g, static_cast<size_t>(min(kQuantGroup, n - g)) * 4);
    for (int l = 0; l < kQuantGroup; ++l) q[l] = peak.usable() ? static_cast<int16_t>(__builtin_rintf(padded[l] * inverse)) : int16_t{0};
    simd::x_pack32(q, integers + g * 2);
  }
  return peak.largest / kIntPeak + peak.spoiled;
}

inline void prepare_record8(const float *x, int64_t I, uint8_t *record) {
  float *const scales = reinterpret_cast<float *>(record + record8::scales(I));
  for (int64_t chunk = 0; chunk < int_chunks(I); ++chunk) {
    const int64_t begin = chunk * kIntChunk;
    scales[chunk] = prepare_chunk(x + begin, min(kIntChunk, I - begin), record + begin * 2);
  }
}

inline void prepare_record4(const float *x, int64_t I, uint8_t *record) {
  constexpr float kPeak = 127.0f;
  std::memset(record, 0, static_cast<size_t>(record4::bytes(I)));
  float *const scales = reinterpret_cast<float *>(record + record4::scales(I)), *const offsets = reinterpret_cast<float *>(record + record4::offsets(I));
  for (int64_t unit = 0; unit < weight_groups(I); unit += simd::kUnit) {
    int8_t q[simd::kUnit * kQuantGroup] = {};
    for (int64_t g = unit; g < min<int64_t>(unit + simd::kUnit, weight_groups(I)); ++g) {
      const int64_t begin = g * kQuantGroup, n = min(kQuantGroup, I - begin);
      float padded[kQuantGroup] = {};
      std::memcpy(padded, x + begin, static_cast<size_t>(n) * 4);
      const Peak peak = peak_of(padded, kQuantGroup);
      scales[g] = peak.largest / kPeak + peak.spoiled;
      const float inverse = peak.usable() ? kPeak / peak.largest : 0.0f;
      int8_t *const to = q + (g - unit) * kQuantGroup;
      int32_t total = 0;
      for (int l = 0; l < kQuantGroup; ++l) {
        const int32_t value = peak.usable() ? static_cast<int32_t>(__builtin_rintf(padded[l] * inverse)) : 0;
        to[l] = static_cast<int8_t>(value);
        total += value;
      }
      offsets[g] = static_cast<float>(-8 * total) * scales[g];
    }
    simd::x8_pack(q, reinterpret_cast<int8_t *>(record) + unit * kQuantGroup);
  }
}

} // namespace pangu
