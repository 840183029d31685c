// pangu_kernels.h: what generated code calls besides its own loops.
//
// Every output element is computed by the same sequence of operations whatever the number of rows or threads, so a
// token's logits do not depend on which other tokens were in the call. (Speculation relies on it.)
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

// Below this many elementary operations a loop is not worth sharing.
constexpr int64_t kSerialWork = 32768;

// body(begin, end) over [0, n); `work` is the cost of one index in elementary operations.
template <class Body> inline void parallel(pangu_pool *pool, int64_t n, int64_t work, const Body &body) {
  if (n <= 0) return;
  if (pool == nullptr || n == 1 || n * max<int64_t>(work, 1) < kSerialWork) {
    body(int64_t{0}, n);
    return;
  }
  const int64_t grain = max<int64_t>(1, kSerialWork / 4 / max<int64_t>(work, 1));
  pangu_parallel_for(
      pool, n, min(grain, n),
      [](void *arg, int64_t begin, int64_t end, int32_t) { (*static_cast<const Body *>(arg))(begin, end); },
      const_cast<Body *>(&body));
}

} // namespace pangu

#include "pangu_math.h"

#include "pangu_matmul.h"

#include "pangu_quant.h"

#include "pangu_linear.h"

#include "pangu_select.h"
