// drafting.cpp: pangu_core::Drafting against a made-up machine. Arguments: heads, and steps of a session (0: one for all). Lines of stdin: steps,
// the seconds in which a head follows a row that it has missed, the seconds of a step with 0, 1, .. drafts, then
// the acceptance of each depth; a blank separates numbers. stdout, a line each: how often each number of drafts was taken, and
// the tokens and the seconds. Times scatter by a tenth, one in 50 is ten times as long, and now and then all take half as long
// again for a while. A session begins with what the one before it has left.
#include "drafting.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <utility>

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  const int64_t heads = std::atoi(argv[1]), session = std::atoi(argv[2]);
  pangu_core::Learnt learnt;
  pangu_core::Drafting drafting = learnt.take(heads);
  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform(0, 1);
  int64_t steps, all = 0, slow = 0; // slow: steps until the machine recovers
  double row;
  std::vector<int64_t> missed(static_cast<size_t>(heads) + 1);
  while (std::scanf("%ld %lf", &steps, &row) == 2) {
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
      double following = 0;
      for (int64_t head = 1; head <= count; ++head) {
        const int64_t rows = std::min<int64_t>(std::exchange(missed[head], 0), 300); // further back it cannot look
        if (rows > heads + 1) following += row * static_cast<double>(rows);          // fewer are part of a step
      }
      for (int64_t &rows : missed) rows += 1 + accepted;
      slow = uniform(random) < 0.003 ? 40 : std::max<int64_t>(slow - 1, 0);
      const double took = seconds[count] * (1 + 0.1 * uniform(random)) * (uniform(random) < 0.02 ? 10 : 1) * (slow > 0 ? 1.5 : 1);
      drafting.record(count, accepted, took, following);
      ++taken[count], tokens += 1 + accepted, total += seconds[count] + following;
      if (session == 0 || ++all % session != 0) continue;
      learnt.leave(drafting);
      drafting = learnt.take(heads);
      missed.assign(missed.size(), 0);
    }
    for (int64_t n : taken) std::printf("%ld ", n);
    std::printf("%ld %.9g\n", tokens, total);
  }
}
