// pangu_prepare.h: activations to 16-bit integers with a scale for every 512 columns, for q8 and q4 weights.
#pragma once

namespace pangu {

// One chunk of n columns: integers of whole groups, the groups' sums, the scale. NaN and infinities make the scale NaN.
inline float prepare_chunk(const float *x, int64_t n, uint8_t *integers, float *sums) {
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
  const bool usable = peak >= 1e-30f && spoiled == 0.0f;
  const float inverse = usable ? kIntPeak / peak : 0.0f;
  for (int64_t g = 0; g < n; g += kQuantGroup) {
    int16_t q[kQuantGroup];
    float padded[kQuantGroup] = {};
    std::memcpy(padded, x + g, static_cast<size_t>(min(kQuantGroup, n - g)) * 4);
    int32_t total = 0;
    for (int l = 0; l < kQuantGroup; ++l) {
      const int32_t value = usable ? static_cast<int32_t>(__builtin_rintf(padded[l] * inverse)) : 0;
      q[l] = static_cast<int16_t>(value);
      total += value;
    }
    simd::x_pack32(q, integers + g * 2);
    sums[g / kQuantGroup] = static_cast<float>(-8 * total);
  }
  return peak / kIntPeak + spoiled;
}

inline void prepare_record(const float *x, int64_t I, uint8_t *record) {
  float *const sums = reinterpret_cast<float *>(record + sums_offset(I));
  float *const scales = reinterpret_cast<float *>(record + scales_offset(I));
  constexpr int64_t kGroups = kIntChunk / kQuantGroup;
  for (int64_t chunk = 0; chunk < int_chunks(I); ++chunk) {
    const int64_t begin = chunk * kIntChunk, n = min(kIntChunk, I - begin);
    for (int64_t g = weight_groups(n); g < kGroups; ++g) sums[chunk * kGroups + g] = 0.0f;
    scales[chunk] = prepare_chunk(x + begin, n, record + begin * 2, sums + chunk * kGroups);
  }
}

} // namespace pangu
