// pangu_math.h: scalar functions that vectorise, and row kernels (softmax, sums).
#pragma once

namespace pangu {

// exp for float32: range reduction by ln 2 in two parts and a degree-6 polynomial on |r| <= ln2/2; relative error
// below 2e-7. Exactly 0 below -87.3 (masked scores are -inf), +inf above 88.72.
inline float exp(float x) {
  const float clamped = x < -87.3f ? -87.3f : (x > 88.72f ? 88.72f : x);
  const float n = __builtin_rintf(clamped * 1.44269504088896341f);
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float poly = p * (r * r) + r + 1.0f;
  // 2^n in two factors, so that n = 128 does not overflow on the way
  const int32_t whole = static_cast<int32_t>(n), half = whole / 2;
  const int32_t bits_a = (half + 127) << 23, bits_b = (whole - half + 127) << 23;
  float a, b;
  std::memcpy(&a, &bits_a, 4);
  std::memcpy(&b, &bits_b, 4);
  float y = poly * a * b;
  y = x < -87.3f ? 0.0f : y;
  y = x > 88.72f ? std::numeric_limits<float>::infinity() : y;
  return x != x ? x : y;
}
inline double exp(double x) { return std::exp(x); }

inline float sigmoid(float x) {
  const float e = pangu::exp(-std::fabs(x));
  const float s = 1.0f / (1.0f + e);
  return x >= 0.0f ? s : e * s;
}
inline double sigmoid(double x) { return x >= 0 ? 1.0 / (1.0 + std::exp(-x)) : std::exp(x) / (1.0 + std::exp(x)); }
template <class T> inline T silu(T x) { return x * sigmoid(x); }
template <class T> inline T relu(T x) { return x > T(0) ? x : T(0); }
template <class T> inline T rsqrt(T x) { return T(1) / std::sqrt(x); }
// Remainder with the divisor's sign (as in Python).
inline int64_t remainder(int64_t a, int64_t b) {
  const int64_t r = a % b;
  return r != 0 && ((r < 0) != (b < 0)) ? r + b : r;
}
inline float remainder(float a, float b) { const float r = std::fmod(a, b); return r != 0 && ((r < 0) != (b < 0)) ? r + b : r; }
inline double remainder(double a, double b) { const double r = std::fmod(a, b); return r != 0 && ((r < 0) != (b < 0)) ? r + b : r; }
inline int64_t floor_divide(int64_t a, int64_t b) { return (a - remainder(a, b)) / b; }

constexpr int kLanes = 16;

// Sum of `lanes` partial sums in a fixed tree.
template <class T> inline T tree_sum(const T *lanes) {
  T v[kLanes];
  for (int i = 0; i < kLanes; ++i) v[i] = lanes[i];
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) v[i] += v[i + width];
  return v[0];
}

// In place softmax of row[0..n). Entries of -inf get exactly 0. The sum is taken in float64, so that where the entries
// stand (a window that slides) does not change the result.
inline void softmax_row(float *row, int64_t n) {
  float lanes[kLanes];
  for (int l = 0; l < kLanes; ++l) lanes[l] = -std::numeric_limits<float>::infinity();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] = lanes[l] < row[i + l] ? row[i + l] : lanes[l];
  for (int l = 0; i + l < n; ++l) lanes[l] = lanes[l] < row[i + l] ? row[i + l] : lanes[l];
  float peak = lanes[0];
  for (int l = 1; l < kLanes; ++l) peak = peak < lanes[l] ? lanes[l] : peak;
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) row[j] = pangu::exp(row[j] - peak);
  double sums[kLanes] = {};
  for (i = 0; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) sums[l] += row[i + l];
  for (int l = 0; i + l < n; ++l) sums[l] += row[i + l];
  const float scale = static_cast<float>(1.0 / tree_sum(sums));
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) row[j] *= scale;
}
inline void softmax_row(double *row, int64_t n) {
  double peak = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t j = 0; j < n; ++j) peak = peak < row[j] ? row[j] : peak;
  for (int64_t j = 0; j < n; ++j) sum += row[j] = std::exp(row[j] - peak);
  for (int64_t j = 0; j < n; ++j) row[j] /= sum;
}

// In place running sums of row[0..n), added in order.
template <class T> inline void cumsum_row(T *row, int64_t n) {
  for (int64_t j = 1; j < n; ++j) row[j] += row[j - 1];
}

} // namespace pangu
