// generate.cpp: the generation loop, with and without drafts.
#include "session.h"

#include <algorithm>
#include <chrono>

using pangu_core::Error;

namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

} // namespace

void pangu_session::generate(const int64_t *prompt, int64_t n, const pangu_generate_options &options,
                             const std::function<bool(int64_t)> &emit, pangu_generate_stats &stats) {
  const pangu_core::Filter filter{options.temperature, options.top_k, options.top_p};
  pangu_core::Random random(options.seed);
  std::vector<float> logits(static_cast<size_t>(tables_.vocab_size));
  std::vector<double> uniform;
  stats = {};
  const int64_t drafts = options.speculate == 0 ? 0 : options.max_drafts == 0 ? heads_ : std::min(heads_, options.max_drafts);
  // What a sampled token becomes depends on the drafts, and an NPU's 16-bit activations on the number of rows in a step: there,
  // a count that depends on the clock would make every run another.
  const bool learns = options.max_drafts == 0 && drafts > 0 && filter.greedy() && tables_.device == nullptr;
  const auto begin = std::chrono::steady_clock::now();
  prefill(prompt, n, 0, false, logits.data());
  if (options.max_new_tokens > 1) follow(learns ? drafting_.next() : drafts);
  stats.prompt_tokens = n;
  stats.prefill_seconds = seconds_since(begin);
  if (options.max_new_tokens <= 0) return;
  const auto decoding = std::chrono::steady_clock::now();
  const int64_t *const stops = options.stop_tokens, *const stops_end = stops + options.n_stop_tokens;
  int64_t pending = choose(logits.data(), filter, filter.greedy() ? 0.0 : random.uniform());
  // Deliver a token; true where generation ends with it.
  const auto deliver = [&](int64_t token) {
    ++stats.new_tokens;
    stats.decode_seconds = seconds_since(decoding);
    return !emit(token) || stats.new_tokens >= options.max_new_tokens || std::find(stops, stops_end, token) != stops_end;
  };
  if (deliver(pending)) return;
  for (;;) {
    if (length() >= max_context_) {
      if (learns) model_.learnt.leave(drafting_);
      throw Error(PANGU_CONTEXT_FULL, "context full after " + std::to_string(stats.new_tokens) + " new tokens: " +
                                          std::to_string(max_context_) + " positions; open the session (or build) with a larger max_context");
    }
    int64_t count = learns ? drafting_.next() : drafts;
    count = std::min({count, max_context_ - length() - 1, options.max_new_tokens - stats.new_tokens - 1, tables_.max_chunk - 1});
    const auto following = std::chrono::steady_clock::now();
    follow(count);
    const double followed = seconds_since(following);
    const auto stepping = std::chrono::steady_clock::now();
    const int64_t start = length();
    // As many numbers whatever becomes of the drafts: the step's tokens do not depend on who draws them.
    uniform.assign(static_cast<size_t>(2 * count + 1), 0.0);
    if (!filter.greedy()) std::generate(uniform.begin(), uniform.end(), [&random] { return random.uniform(); });
    const bool whole = count == heads_ && can_speculate(filter);
    const std::vector<int64_t> tokens = whole ? speculate(pending, filter, uniform)
                                              : verify(pending, propose(pending, count, filter, uniform.data()), filter, uniform.data() + count);
    ++stats.steps;
    for (int64_t i = 0; i < count; ++i) {
      ++stats.drafted[i];
      stats.accepted[i] += i + 1 < static_cast<int64_t>(tokens.size()) ? 1 : 0;
    }
    if (learns) drafting_.record(count, static_cast<int64_t>(tokens.size()) - 1, seconds_since(stepping), followed);
    flush_heads();
    for (size_t i = 0; i < tokens.size(); ++i)
      if (deliver(tokens[i])) {
        // The states hold everything before the last delivered token, and nothing after it.
        const int64_t held = start + 1 + static_cast<int64_t>(i);
        rollback(held);
        if (learns) model_.learnt.leave(drafting_);
        return;
      }
    pending = tokens.back();
  }
}
