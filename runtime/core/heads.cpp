#include "heads.h"

#include "error.h"

#include <algorithm>

namespace pangu_core {

// Memory: a level keeps two chunks of rows, and the one below the first windowed head as much as a jump goes back: all windowed
// heads' look-backs. (Flash: 3 heads of 2048 tokens, 63 MB of the trunk's rows, touched as the text grows.)
Heads::Heads(const pangu_generated_model_desc &tables, int count, int64_t max_context)
    : count_(count), width_(tables.hidden_size), lead_(2 * tables.max_chunk + 2 * PANGU_MAX_DRAFTS), look_back_(static_cast<size_t>(count) + 1),
      rows_(look_back_.size()), begun_(look_back_.size()) {
  if (tables.device != nullptr) complete_ = count; // 16-bit activations: there a row's values depend on which rows its call has
  for (int i = 0; i < tables.n_states; ++i) {
    const pangu_state_desc &s = tables.states[i];
    if (s.owner < 1 || s.owner > count) continue;
    if (s.append != 0) complete_ = std::max<int>(complete_, s.owner);
    else look_back_[static_cast<size_t>(s.owner)] += std::max<int64_t>(0, s.rows - tables.num_drafts); // spare rows for drafts
  }
  for (int level = 0; level < count; ++level) {
    int64_t rows = lead_ + 4 * PANGU_MAX_DRAFTS;
    if (level == complete_)
      for (int head = level + 1; head <= count; ++head) rows += look_back_[static_cast<size_t>(head)];
    kept_.push_back(std::min(rows, max_context));
    hidden_.emplace_back(sizeof(float) * static_cast<size_t>(kept_.back() * width_));
  }
}

float *Heads::hidden(int level, int64_t row) const {
  return reinterpret_cast<float *>(hidden_[static_cast<size_t>(level)].data()) + row % kept(level) * width_;
}

bool Heads::exact_from(int head, int64_t row) const {
  const int64_t begun = begun_[static_cast<size_t>(head)];
  return begun == 0 || begun + look_back_[static_cast<size_t>(head)] <= row;
}

void Heads::aim(int count, int64_t length) {
  // From here on all heads are exact: a step of the program `speculate` computes up to count + 1 rows of them again.
  const int64_t exact = std::max<int64_t>(0, length - 2 * (count_ + 1));
  int64_t needed = exact; // the first row of the head that is read
  for (int head = count; head > complete_; --head) {
    const size_t h = static_cast<size_t>(head);
    const int64_t beginning = std::max<int64_t>(0, needed - look_back_[h]);
    const bool held = head == count || needed >= rows_[h] - lead_;
    if (rows_[h] < beginning || !exact_from(head, needed) || !held) rows_[h] = begun_[h] = beginning;
    needed = std::min(rows_[h], exact);
  }
}

void Heads::rollback(int64_t length) {
  for (int head = 1; head <= count_; ++head) {
    int64_t &rows = rows_[static_cast<size_t>(head)];
    rows = std::clamp<int64_t>(length - head, 0, rows);
  }
}

void Heads::reset() {
  std::fill(rows_.begin(), rows_.end(), 0);
  std::fill(begun_.begin(), begun_.end(), 0);
}

std::vector<int64_t> Heads::counts() const {
  std::vector<int64_t> all = rows_;
  all.insert(all.end(), begun_.begin(), begun_.end());
  return all;
}

void Heads::restore(const std::vector<int64_t> &counts) {
  const auto middle = counts.begin() + static_cast<std::ptrdiff_t>(rows_.size());
  rows_.assign(counts.begin(), middle);
  begun_.assign(middle, counts.end());
}

} // namespace pangu_core
