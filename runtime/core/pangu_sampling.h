// pangu_sampling.h: next-token distributions, draws and the rejection rule, in float64.
//
// The runtime core and the kernels of generated code both use these, so that a token does not depend on which of them draws it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

namespace pangu_sampling {

// Puts the most probable entries of p[0..n) at the front of order, best first and the lowest index first among equals, a
// growing part at a time: most nuclei are small and most vocabularies large.
class Best {
public:
  Best(const double *p, int64_t *order, int64_t n) : p_(p), order_(order), n_(n) { std::iota(order, order + n, int64_t{0}); }

  // Makes order[0..count) final.
  void sort(int64_t count) {
    if (count <= sorted_) return;
    const auto before = [p = p_](int64_t a, int64_t b) { return p[a] != p[b] ? p[a] > p[b] : a < b; };
    if (count < n_) std::nth_element(order_ + sorted_, order_ + count, order_ + n_, before);
    std::sort(order_ + sorted_, order_ + count, before);
    sorted_ = count;
  }

  double next(int64_t at) {
    if (at >= sorted_) sort(std::min(n_, std::max<int64_t>(64, 4 * sorted_)));
    return p_[order_[at]];
  }

private:
  const double *p_;
  int64_t *order_, n_, sorted_ = 0;
};

// p[n] = probabilities of logits[n]: temperature, then top-k, then top-p; what is filtered out gets exactly 0.
// temperature <= 0 puts all on the largest logit; top_k outside 1 .. n-1 and top_p >= 1 filter nothing. order[n]: scratch.
inline void distribution(const float *logits, int64_t n, double temperature, int64_t top_k, double top_p, double *p, int64_t *order) {
  const int64_t best = std::max_element(logits, logits + n) - logits;
  if (temperature <= 0) {
    std::fill(p, p + n, 0.0);
    p[best] = 1;
    return;
  }
  const double peak = logits[best];
  for (int64_t i = 0; i < n; ++i) p[i] = std::exp((logits[i] - peak) / temperature);
  const bool limit_k = top_k > 0 && top_k < n;
  if (limit_k || top_p < 1) {
    Best rank(p, order, n);
    int64_t kept = limit_k ? top_k : n;
    if (limit_k) rank.sort(kept);
    if (top_p < 1) {
      double total = 0, seen = 0;
      for (int64_t i = 0; i < kept; ++i) total += limit_k ? p[order[i]] : p[i];
      int64_t count = 0;
      while (count < kept && (count == 0 || seen < top_p * total)) seen += rank.next(count), ++count;
      kept = count;
    }
    rank.sort(kept);
    for (int64_t i = kept; i < n; ++i) p[order[i]] = 0;
  }
  const double sum = std::accumulate(p, p + n, 0.0);
  for (int64_t i = 0; i < n; ++i) p[i] /= sum;
}

// An index drawn with weights[n] >= 0, which need not add up to one; not all may be zero. uniform is in [0, 1).
inline int64_t draw(const double *weights, int64_t n, double uniform) {
  const double target = uniform * std::accumulate(weights, weights + n, 0.0);
  double seen = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (weights[i] <= 0) continue;
    last = i;
    seen += weights[i];
    if (target < seen) return last;
  }
  return last; // rounding of the sum only
}

// A draft of probability q that the trunk gives probability p stands with probability min(1, p / q).
inline bool stands(double p, double q, double uniform) { return uniform * q < p; }

// Weights of the draw in place of a draft that fell, in p: max(p - q, 0), so that the outcome is distributed as p.
inline void without(double *p, const double *q, int64_t n) {
  bool left = false;
  for (int64_t i = 0; i < n && !left; ++i) left = p[i] > q[i];
  if (!left) return;
  for (int64_t i = 0; i < n; ++i) p[i] = std::max(p[i] - q[i], 0.0);
}

} // namespace pangu_sampling
