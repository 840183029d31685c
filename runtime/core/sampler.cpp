#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pangu_core {

int64_t argmax(const float *values, int64_t n) { return std::max_element(values, values + n) - values; }

std::vector<double> Filter::distribution(const float *logits, int64_t n) const {
  std::vector<double> p(static_cast<size_t>(n), 0.0);
  const double peak = logits[argmax(logits, n)];
  for (int64_t i = 0; i < n; ++i) p[i] = std::exp((logits[i] - peak) / temperature);
  const bool limit_k = top_k > 0 && top_k < n, limit_p = top_p < 1;
  if (limit_k || limit_p) {
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    const auto before = [&p](int64_t a, int64_t b) { return p[a] != p[b] ? p[a] > p[b] : a < b; };
    size_t kept = limit_k ? static_cast<size_t>(top_k) : order.size();
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(), before);
    if (limit_p) {
      double total = 0, seen = 0;
      for (size_t i = 0; i < kept; ++i) total += p[order[i]];
      size_t count = 0;
      while (count < kept && (count == 0 || seen < top_p * total)) seen += p[order[count++]];
      kept = count;
    }
    for (size_t i = kept; i < order.size(); ++i) p[order[i]] = 0;
  }
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double &x : p) x /= sum;
  return p;
}

double Random::uniform() {
  uint64_t z = seed_ + 0x9e3779b97f4a7c15ull * ++counter_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1.0p-53;
}

int64_t Random::draw(const std::vector<double> &weights) {
  const double target = uniform() * std::accumulate(weights.begin(), weights.end(), 0.0);
  double seen = 0;
  int64_t last = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    last = static_cast<int64_t>(i);
    seen += weights[i];
    if (target < seen) return last;
  }
  return last; // rounding of the sum only
}

} // namespace pangu_core
