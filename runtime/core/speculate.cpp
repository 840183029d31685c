// speculate.cpp: one step with drafts as one run of the program `speculate`, or of `speculate_sampled`.
#include "session.h"

#include <algorithm>
#include <cmath>
#include <cstring>

using pangu_core::Error;

// Can the program run now? Its T is bounded by what a step leaves behind; heads that are further behind follow first.
bool pangu_session::can_speculate(const pangu_core::Filter &filter) {
  if ((filter.greedy() ? speculate_ : speculate_sampled_) == nullptr || length() < heads_ || heads_ + 1 + heads_ > tables_.max_chunk) return false;
  const int64_t behind = heads_behind(heads_);
  if (behind > heads_ + 1 || length() - behind < heads_ - 1) feed_heads(heads_);
  return true;
}

// The accepted drafts and one token of the trunk's own, as `verify` gives them; the states then hold `pending` and the
// accepted drafts. Every head's rows before the pending token stand, those on drafts count as never written.
std::vector<int64_t> pangu_session::speculate(int64_t pending, const pangu_core::Filter &filter, const std::vector<double> &uniform) {
  const int64_t start = length(), behind = heads_behind(heads_), first = start - behind, width = tables_.hidden_size, drafts = heads_;
  const size_t row_bytes = sizeof(float) * static_cast<size_t>(width);
  std::vector<int64_t> tokens(tokens_.begin() + first + 1, tokens_.end()), chosen(static_cast<size_t>(drafts + 1));
  tokens.push_back(pending);
  for (int64_t i = 0; i < behind; ++i) std::memcpy(rows_.data() + i * width, following_.hidden(0, first + i), row_bytes);
  carry_.resize(static_cast<size_t>((drafts - 1) * width));
  levels_.resize(static_cast<size_t>((drafts - 1) * behind * width));
  for (int64_t level = 1; level < drafts; ++level)
    std::memcpy(carry_.data() + (level - 1) * width, following_.hidden(static_cast<int>(level), first - level), row_bytes);
  int64_t accepted = 0, held = 0;
  std::vector<const void *> in{tokens.data(), rows_.data(), carry_.data(), &start};
  std::vector<void *> out{&accepted, chosen.data(), &held, scratch_.data(), levels_.data()};
  if (drafts == 1) in.erase(in.begin() + 2), out.pop_back();
  if (!filter.greedy()) in.insert(in.end(), {&filter.temperature, &filter.top_k, &filter.top_p, uniform.data(), uniform.data() + drafts});
  run(filter.greedy() ? *speculate_ : *speculate_sampled_, {behind, start, 0}, in, out);
  if (!std::all_of(scratch_.data(), scratch_.data() + (accepted + 1) * width, [](float x) { return std::isfinite(x); })) not_finite("hidden rows");
  for (int64_t level = 1; level < drafts; ++level)
    for (int64_t i = 0; i < behind; ++i)
      std::memcpy(following_.hidden(static_cast<int>(level), first + 1 - level + i), levels_.data() + ((level - 1) * behind + i) * width, row_bytes);
  for (int64_t i = 0; i <= accepted; ++i) std::memcpy(following_.hidden(0, start + i), scratch_.data() + i * width, row_bytes);
  for (int head = 1; head <= heads_; ++head) following_.set_rows(head, start - head + 1);
  chosen.resize(static_cast<size_t>(accepted + 1));
  tokens_.push_back(pending);
  tokens_.insert(tokens_.end(), chosen.begin(), chosen.end() - 1);
  written_ = std::max(written_, start + drafts + 1);
  return chosen;
}
