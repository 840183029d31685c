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

} // namespace pangu
