#include "drafting.h"

#include <algorithm>
#include <utility>

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
  Candidate &own = candidates_[drafts];
  if (left_ != kTrial) {
    if (own.seconds.size() == kTimes) own.seconds.erase(own.seconds.begin());
    own.seconds.push_back(std::max(seconds, 1e-9)); // the clock may not have moved
  }
  if (drafts != favourite_) {
    const double worth = static_cast<double>(accepted + 1) / tokens(favourite_, 0) * step_seconds(favourite_);
    lost_ += following + seconds - worth;
  }
  left_ = hopeless(drafts) ? 0 : std::max<int64_t>(left_ - 1, 0);
  if (left_ > 0) return;
  own.cost = own.least = drafts == favourite_ ? 1 : step_seconds(drafts) / step_seconds(favourite_);
  choose();
}

// The favourite, and whether another number is due.
void Drafting::choose() {
  const int64_t winner = fastest();
  if (winner != favourite_) return prefer(winner);
  if (count_ != favourite_) put_off(candidates_[count_]);
  confirming_ = false;
  for (int64_t other = 0; other < static_cast<int64_t>(candidates_.size()); ++other) {
    Candidate &c = candidates_[other];
    if (other == favourite_ || c.due > step_) continue;
    c.least *= kNewCost;
    for (int64_t i = 0; i < other; ++i) reached_[i] *= kNewText, accepted_[i] *= kNewText;
    if (!hopeless(other)) return start(other);
    c.due = step_ + c.pause;
  }
  if (count_ != favourite_) start(favourite_);
}

// The favourite before is tried again at once where a trial has won against it: its own steps may have been disturbed.
void Drafting::prefer(int64_t count) {
  const double base = candidates_[count].cost;
  for (Candidate &c : candidates_)
    if (c.cost > 0) c.cost /= base, c.least /= base, c.pause = kPause, c.due = step_ + kPause;
  confirming_ = count_ == count && !confirming_;
  std::swap(favourite_, count);
  start(confirming_ ? count : favourite_);
}

void Drafting::start(int64_t count) {
  count_ = count;
  left_ = kTrial;
  lost_ = 0;
  if (count != favourite_) candidates_[count].seconds.clear();
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
  double least = candidates_[drafts].least;
  if (drafts == count_) {
    const std::vector<double> &times = candidates_[drafts].seconds;
    least = times.size() < 2 ? 0 : *std::min_element(times.begin(), times.end()) / step_seconds(favourite_);
  }
  for (int64_t fewer = 0; fewer < drafts; ++fewer) least = std::max(least, candidates_[fewer].cost / kBetter);
  return tokens(drafts, kSeen) < least * tokens(favourite_, 0);
}

double Drafting::step_seconds(int64_t drafts) const {
  std::vector<double> times = candidates_[drafts].seconds;
  if (times.empty()) return 0;
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>((times.size() - 1) / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

// Another number must be clearly better: times scatter.
int64_t Drafting::fastest() const {
  int64_t found = favourite_;
  double best = tokens(favourite_, 0) * kBetter;
  for (int64_t i = 0; i < static_cast<int64_t>(candidates_.size()); ++i) {
    const double cost = candidates_[i].cost;
    if (cost > 0 && tokens(i, 0) > best * cost) found = i, best = tokens(i, 0) / cost;
  }
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
