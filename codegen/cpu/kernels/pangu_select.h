// pangu_select.h: top-k, sort and argmax of rows; among equals the lowest index comes first.
#pragma once

namespace pangu {

// The first k of the stable descending (or ascending) order of row[0..n).
template <class T>
inline void select_row(const T *row, int64_t n, int64_t k, bool descending, T *values, int64_t *index, std::vector<int64_t> &order) {
  const auto before = [row, descending](int64_t a, int64_t b) {
    if (row[a] != row[b]) return descending ? row[a] > row[b] : row[a] < row[b];
    return a < b;
  };
  order.resize(n);
  for (int64_t i = 0; i < n; ++i) order[i] = i;
  if (k < n) std::nth_element(order.begin(), order.begin() + k, order.end(), before);
  std::sort(order.begin(), order.begin() + k, before);
  for (int64_t i = 0; i < k; ++i) {
    index[i] = order[i];
    if (values != nullptr) values[i] = row[order[i]];
  }
}

template <class T>
inline void select(pangu_pool *pool, const T *x, int64_t rows, int64_t n, int64_t k, bool descending, T *values, int64_t *index) {
  parallel(pool, rows, 8 * n, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> order;
    for (int64_t r = begin; r < end; ++r)
      select_row(x + r * n, n, k, descending, values == nullptr ? nullptr : values + r * k, index + r * k, order);
  });
}

template <class T> inline void argmax(pangu_pool *pool, const T *x, int64_t rows, int64_t n, int64_t *index) {
  parallel(pool, rows, n, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) index[r] = std::max_element(x + r * n, x + (r + 1) * n) - (x + r * n);
  });
}

// An integer that orders like the float: -0 and 0 are equal, NaN lies beyond infinity of its sign.
inline int32_t order_of(float x) {
  x += 0.0f;
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits ^ (bits >> 31 & 0x7FFFFFFF);
}
inline ints order_of(vec x) {
  x += 0.0f;
  ints bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits ^ (bits >> 31 & 0x7FFFFFFF);
}
inline float value_of(int32_t order) {
  order ^= order >> 31 & 0x7FFFFFFF;
  float x;
  std::memcpy(&x, &order, 4);
  return x;
}

// How many of score[0..n) are `order` or more.
inline int64_t count_from(const float *score, int64_t n, int32_t order) {
  ints counts{};
  int64_t i = 0, total = 0;
  for (; i + kWidth <= n; i += kWidth) counts -= (ints)(order_of(load(score + i)) >= order);
  for (int l = 0; l < kWidth; ++l) total += counts[l];
  for (; i < n; ++i) total += order_of(score[i]) >= order;
  return total;
}

// order_of the k-th largest of score[0..n), 1 <= k <= n.
inline int32_t kth_largest(const float *score, int64_t n, int64_t k) {
  int64_t least = order_of(score[0]), beyond = least;
  for (int64_t i = 0; i < n; ++i) least = min<int64_t>(least, order_of(score[i])), beyond = max<int64_t>(beyond, order_of(score[i]));
  ++beyond;
  while (beyond - least > 1) { // at least k reach `least`, and fewer `beyond`
    const int64_t middle = least + (beyond - least) / 2;
    (count_from(score, n, static_cast<int32_t>(middle)) >= k ? least : beyond) = middle;
  }
  return static_cast<int32_t>(least);
}

// Positions of the k largest of score[0..n), ascending; among equals the lowest. k < n.
inline void choose_top(const float *score, int64_t n, int64_t k, int32_t *chosen) {
  const int32_t least = kth_largest(score, n, k);
  int64_t wanted = k - (least == std::numeric_limits<int32_t>::max() ? 0 : count_from(score, n, least + 1)); // of those that equal it
  for (int64_t i = 0; k > 0; ++i) {
    const int32_t order = order_of(score[i]);
    const bool equal = order == least && wanted > 0, is = order > least || equal;
    *chosen = static_cast<int32_t>(i);
    wanted -= equal;
    chosen += is;
    k -= is;
  }
}

} // namespace pangu
