// sampler.h: next-token distributions and the random numbers for draws from them.
#pragma once

#include <cstdint>
#include <vector>

namespace pangu_core {

// Index of the largest of n values; the lowest among equals.
int64_t argmax(const float *values, int64_t n);

// How logits become a distribution: temperature, then top-k, then top-p. temperature <= 0 is greedy.
struct Filter {
  float temperature = 0;
  int64_t top_k = 0;
  float top_p = 1;
  bool greedy() const { return temperature <= 0; }
  // Probabilities of all n tokens; those that are filtered out get exactly 0.
  std::vector<double> distribution(const float *logits, int64_t n) const;
};

// Counter-based random numbers: the i-th draw depends on the seed and i alone (splitmix64's finaliser).
class Random {
public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  double uniform(); // [0, 1)

private:
  uint64_t seed_, counter_ = 0;
};

} // namespace pangu_core
