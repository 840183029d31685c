// drafting.h: how many drafts a step makes, learnt while generating. A draft pays where what it may save costs more than the
// heads' work and the trunk's on one row more, which depends on the machine, the threads, the context and the text.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace pangu_core {

// Times steps with every number of drafts from 0 to `heads`, counts how often the draft of each depth is accepted, and then makes
// as many as give the most tokens a second. The other numbers are tried again now and then, the more rarely the more often
// they have lost and the more their trials cost; one that cannot win is not.
class Drafting {
public:
  explicit Drafting(int64_t heads);
  int64_t next() const { return count_; } // drafts of the step that comes
  // A step is over: of `drafts` drafts it accepted the first `accepted`, and took so many seconds, before which its heads followed the
  // text that they had missed. A step with another number of drafts than next() (near the end of a context) teaches nothing.
  void record(int64_t drafts, int64_t accepted, double seconds, double following);

private:
  static constexpr int64_t kTrial = 5; // steps with one number of drafts; the first finds its weights out of the caches and does not count
  static constexpr int64_t kTimes = 7; // kept for each number
  static constexpr int64_t kPause = 64, kLongestPause = 4096; // steps from one trial of a number to the next
  static constexpr double kLoss = 0.01;                       // of the time may go into a number's trials, about
  static constexpr double kBetter = 1.03, kMemory = 0.985, kSeen = 4;
  static constexpr double kNewText = 0.5, kNewCost = 0.9; // what is left of old knowledge whenever a number is due again

  // Its cost is a step's time over that of the favourite at the same time: a machine slows down and recovers.
  struct Candidate {
    std::vector<double> seconds; // of the last kTimes steps
    double cost = 0, least = 0;  // and what it may have become since then; 0: never tried
    int64_t pause = kPause, due = 0;
  };

  void choose();
  void prefer(int64_t count);
  void start(int64_t count);
  void put_off(Candidate &loser) const;
  double tokens(int64_t drafts, double seen) const;
  bool hopeless(int64_t drafts) const;
  double step_seconds(int64_t drafts) const; // median; 0 while unknown
  int64_t fastest() const;

  std::vector<Candidate> candidates_;      // [drafts]
  std::vector<double> reached_, accepted_; // [depth - 1]: how often its draft was looked at, and how often accepted; fading
  int64_t count_ = 0, favourite_ = 0, left_, step_ = 0;
  double lost_ = 0;         // seconds, by this trial
  bool confirming_ = false; // the favourite before is being tried against one that has just won
};

// What the sessions of a model have learnt, pauses between trials included: a new one goes on with what was left last.
class Learnt {
public:
  Drafting take(int64_t heads) const;
  void leave(const Drafting &drafting);

private:
  mutable std::mutex mutex_;
  std::unique_ptr<const Drafting> last_; // null: nothing yet
};

} // namespace pangu_core
