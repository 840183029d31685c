#include "drafting.h"

#include <algorithm>

namespace pangu_core {

Drafting::Drafting(int64_t heads)
    : candidates_(static_cast<size_t>(heads) + 1), reached_(static_cast<size_t>(heads)), accepted_(reached_), left_(kTrial) {}

void Drafting::record(int64_t drafts, int64_t accepted, double seconds, double following) {
  if (drafts != count_) return;
  ++step_;
  for (int64_t i = 0; i < std::min(drafts, accepted + 1); ++i) {
    reached_[i] = reached_[i] * kMemory + 1;
    accepted_[i] = accepted_[i] * kMemory + (i < accepted ? 1 : 0);
  }
  if (left_ != kTrial) {
    std::vector<double> &times = candidates_[drafts].seconds;
    if (times.size() == kTimes) times.erase(times.begin());
    times.push_back(seconds);
  }
  if (drafts != favourite_) lost_ += following + seconds - static_cast<double>(accepted + 1) / tokens_per_second(favourite_);
  left_ = hopeless(drafts) ? 0 : std::max<int64_t>(left_ - 1, 0);
  if (left_ > 0) return;
  const int64_t winner = fastest();
  if (winner != favourite_) {
    favourite_ = winner;
    for (Candidate &c : candidates_)
      if (!c.seconds.empty()) c.pause = kPause, c.due = step_ + kPause;
  } else if (count_ != favourite_) {
    put_off(candidates_[count_]);
  }
  for (int64_t other = 0; other < static_cast<int64_t>(candidates_.size()); ++other) {
    if (other == favourite_ || candidates_[other].due > step_) continue;
    candidates_[other].seconds.clear(); // the context has grown since
    lost_ = 0;
    if (!hopeless(other)) return start(other);
    put_off(candidates_[other]);
  }
  if (count_ != favourite_) start(favourite_);
}

void Drafting::start(int64_t count) {
  count_ = count;
  left_ = kTrial;
}

// Twice as long as the last time or more, as its trial's cost asks for (which may be that of a disturbance).
void Drafting::put_off(Candidate &loser) const {
  const double least = 2 * static_cast<double>(loser.pause), affordable = lost_ / (kLoss * step_seconds(favourite_));
  loser.pause = std::min(static_cast<int64_t>(std::clamp(affordable, least, 8 * least)), kLongestPause);
  loser.due = step_ + loser.pause;
}

// What a step is expected to yield. A depth that was looked at less than `seen` times counts as accepted always.
double Drafting::tokens(int64_t drafts, double seen) const {
  double sum = 1, likely = 1;
  for (int64_t i = 0; i < drafts; ++i) {
    if (reached_[i] > 0 && reached_[i] >= seen) likely *= accepted_[i] / reached_[i];
    sum += likely;
  }
  return sum;
}

// Would it lose however good its untried depths were? A step with more drafts takes no less time than one with fewer; of its own
// times two are asked for, since a step can be disturbed.
bool Drafting::hopeless(int64_t drafts) const {
  if (drafts == favourite_) return false;
  const std::vector<double> &times = candidates_[drafts].seconds;
  double least = times.size() < 2 ? 0 : *std::min_element(times.begin(), times.end());
  for (int64_t fewer = 0; fewer < drafts; ++fewer) least = std::max(least, step_seconds(fewer) / kBetter);
  return tokens(drafts, kSeen) < least * tokens_per_second(favourite_);
}

double Drafting::step_seconds(int64_t drafts) const {
  std::vector<double> times = candidates_[drafts].seconds;
  if (times.empty()) return 0;
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

double Drafting::tokens_per_second(int64_t drafts) const {
  const double seconds = step_seconds(drafts);
  return seconds > 0 ? tokens(drafts, 0) / seconds : 0;
}

// Another number must be clearly better: times scatter.
int64_t Drafting::fastest() const {
  int64_t found = favourite_;
  double speed = tokens_per_second(favourite_) * kBetter;
  for (int64_t i = 0; i < static_cast<int64_t>(candidates_.size()); ++i)
    if (tokens_per_second(i) > speed) found = i, speed = tokens_per_second(i);
  return found;
}

Drafting Learnt::take(int64_t heads) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return last_ == nullptr || heads == 0 ? Drafting(heads) : *last_;
}

void Learnt::leave(const Drafting &drafting) {
  const std::lock_guard<std::mutex> lock(mutex_);
  last_ = std::make_unique<const Drafting>(drafting);
}

} // namespace pangu_core
