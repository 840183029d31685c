#include "sampler.h"

#include "pangu_sampling.h"

namespace pangu_core {

int64_t argmax(const float *values, int64_t n) { return std::max_element(values, values + n) - values; }

std::vector<double> Filter::distribution(const float *logits, int64_t n) const {
  std::vector<double> p(static_cast<size_t>(n));
  std::vector<int64_t> order(static_cast<size_t>(n));
  pangu_sampling::distribution(logits, n, temperature, top_k, top_p, p.data(), order.data());
  return p;
}

double Random::uniform() {
  uint64_t z = seed_ + 0x9e3779b97f4a7c15ull * ++counter_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1.0p-53;
}

} // namespace pangu_core
