// pangu_parallel.h: what every kernel header needs: the standard headers, min and max, and loops shared between threads.
#pragma once

#include "pangu_abi.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace pangu {

template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }

// Below this many elementary operations a loop is not worth sharing. (Tests share nearly every loop.)
#ifndef PANGU_SERIAL_WORK
#define PANGU_SERIAL_WORK 32768
#endif
constexpr int64_t kSerialWork = PANGU_SERIAL_WORK;

// body(begin, end) over [0, n); `work` is the cost of one index in elementary operations. Ranges are multiples of `multiple`
// (but for the last).
template <class Body> inline void parallel(pangu_pool *pool, int64_t n, int64_t work, const Body &body, int64_t multiple = 1) {
  if (n <= 0) return;
  if (pool == nullptr || n == 1 || n * max<int64_t>(work, 1) < kSerialWork) {
    body(int64_t{0}, n);
    return;
  }
  const int64_t grain = (max<int64_t>(1, kSerialWork / 4 / max<int64_t>(work, 1)) + multiple - 1) / multiple * multiple;
  pangu_parallel_for(
      pool, n, grain,
      [](void *arg, int64_t begin, int64_t end, int32_t) { (*static_cast<const Body *>(arg))(begin, end); },
      const_cast<Body *>(&body));
}

} // namespace pangu
