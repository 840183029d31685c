// drafting.cpp: pangu_core::Drafting against a made-up machine. Lines of stdin: steps, then the seconds of a step with 0, 1, .. drafts, then
// the acceptance of each depth; a blank separates numbers. stdout, a line each: how often each number of drafts was taken, and
// the tokens and the seconds. Times scatter by a tenth, and one in 50 is ten times as long.
#include "drafting.h"

#include <cstdio>
#include <cstdlib>
#include <random>

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  const int64_t heads = std::atoi(argv[1]);
  pangu_core::Drafting drafting(heads);
  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform(0, 1);
  int64_t steps;
  while (std::scanf("%ld", &steps) == 1) {
    std::vector<double> seconds(static_cast<size_t>(heads) + 1), acceptance(static_cast<size_t>(heads));
    for (double &x : seconds)
      if (std::scanf("%lf", &x) != 1) return 2;
    for (double &x : acceptance)
      if (std::scanf("%lf", &x) != 1) return 2;
    std::vector<int64_t> taken(static_cast<size_t>(heads) + 1);
    int64_t tokens = 0;
    double total = 0;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t count = drafting.next();
      if (count < 0 || count > heads) return 1;
      int64_t accepted = 0;
      while (accepted < count && uniform(random) < acceptance[accepted]) ++accepted;
      const double took = seconds[count] * (1 + 0.1 * uniform(random)) * (uniform(random) < 0.02 ? 10 : 1);
      drafting.record(count, accepted, took, 0);
      ++taken[count], tokens += 1 + accepted, total += seconds[count];
    }
    for (int64_t n : taken) std::printf("%ld ", n);
    std::printf("%ld %.9g\n", tokens, total);
  }
}
