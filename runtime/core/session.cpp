#include "session.h"

#include "pangu_sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

using pangu_core::Error;

namespace {

int64_t checked_context(const pangu_generated_model_desc &tables, int64_t asked) {
  if (asked < 0 || asked > tables.max_context)
    throw Error(PANGU_BAD_ARGUMENT, "max_context " + std::to_string(asked) + ": the artifact was built for at most " +
                                        std::to_string(tables.max_context) + "; build it with a larger --max-context");
  return asked == 0 ? tables.max_context : asked;
}

} // namespace

pangu_session::pangu_session(pangu_model &model, const pangu_session_options &options)
    : model_(model), tables_(model.tables), max_context_(checked_context(model.tables, options.max_context)),
      heads_(options.speculate != 0 ? std::min<int>(model.tables.num_drafts, PANGU_MAX_DRAFTS) : 0),
      speculate_(heads_ > 0 && heads_ == model.tables.num_drafts ? model.find("speculate") : nullptr),
      speculate_sampled_(speculate_ != nullptr ? model.find("speculate_sampled") : nullptr), pool_(model.threads),
      drafting_(model.learnt.take(heads_)) {
  if (std::strcmp(tables_.role, "lm") != 0) throw Error(PANGU_BAD_ARGUMENT, "this artifact is a compiled module, not a language model; use run_program");
  for (int i = 0; i < tables_.n_states; ++i) {
    const pangu_state_desc &s = tables_.states[i];
    states_.emplace_back(static_cast<size_t>((s.append != 0 ? max_context_ : s.rows) * s.row_bytes), tables_.device);
    if (tables_.device != nullptr && s.append == 0) states_.back().clear(); // host pages are zero already
    state_pointers_.push_back(states_.back().data());
  }
  for (int i = 0; i < tables_.n_derived; ++i) {
    const pangu_derived_desc &d = tables_.derived[i];
    const int64_t blocks = (max_context_ + d.block_rows - 1) / d.block_rows;
    derived_.emplace_back(static_cast<size_t>(PANGU_DERIVED_HEADER + d.head_bytes + blocks * d.block_bytes));
    derived_pointers_.push_back(derived_.back().data());
  }
  int64_t arena = 64;
  for (int i = 0; i < tables_.n_programs; ++i) arena = std::max(arena, tables_.programs[i].arena_bytes);
  new (&arena_) pangu_core::Pages(static_cast<size_t>(arena), tables_.device);
  scratch_.resize(static_cast<size_t>(tables_.max_chunk * tables_.hidden_size));
  rows_.resize(scratch_.size());
}

void pangu_session::check_tokens(const int64_t *tokens, int64_t n) const {
  for (int64_t i = 0; i < n; ++i)
    if (tokens[i] < 0 || tokens[i] >= tables_.vocab_size)
      throw Error(PANGU_BAD_TOKEN, "token " + std::to_string(tokens[i]) + " at position " + std::to_string(i) +
                                       " is outside the vocabulary of " + std::to_string(tables_.vocab_size));
  if (length() + n > max_context_)
    throw Error(PANGU_CONTEXT_FULL, "context full: " + std::to_string(length()) + " tokens held and " + std::to_string(n) +
                                        " more do not fit in " + std::to_string(max_context_) + "; open the session (or build) with a larger max_context");
}

void pangu_session::run(const pangu_program_desc &program, const std::vector<int64_t> &dims,
                        const std::vector<const void *> &in, const std::vector<void *> &out) {
  const pangu_exec exec{dims.data(), in.data(), out.data(), state_pointers_.data(), model_.weights.data(), arena_.data(), &pool_, derived_pointers_.data()};
  program.run(&exec);
}

// One run of the trunk: at most max_chunk tokens; logits [rows.size(), vocab].
void pangu_session::step(const int64_t *tokens, int64_t n, const std::vector<int64_t> &rows, float *logits) {
  const int64_t start = length();
  run(model_.program("step"), {n, start, static_cast<int64_t>(rows.size())}, {tokens, &start, rows.data()}, {logits, scratch_.data()});
  tokens_.insert(tokens_.end(), tokens, tokens + n);
  written_ = std::max(written_, length());
  if (heads_ > 0)
    for (int64_t i = 0; i < n; ++i)
      std::memcpy(following_.hidden(0, start + i), scratch_.data() + i * tables_.hidden_size, sizeof(float) * tables_.hidden_size);
}

// Bring head `head` to row `end`, which is the next one then. Tokens after the confirmed ones come from `extra`. logits: of its last row.
void pangu_session::feed_head(int head, int64_t end, const std::vector<int64_t> &extra, float *logits) {
  const int64_t width = tables_.hidden_size;
  const auto token_at = [&](int64_t p) { return p < length() ? tokens_[p] : extra[p - length()]; };
  const pangu_program_desc &program = model_.program("draft_" + std::to_string(head));
  while (following_.rows(head) < end) {
    const int64_t start = following_.rows(head), n = std::min(tables_.max_chunk, end - start);
    if (head > 1) feed_head(head - 1, start + n, extra, nullptr); // no further: a level keeps few rows
    std::vector<int64_t> tokens(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      tokens[i] = token_at(start + i + head);
      std::memcpy(rows_.data() + i * width, following_.hidden(head - 1, start + i), sizeof(float) * width);
    }
    const std::vector<int64_t> wanted(logits != nullptr && start + n == end ? 1 : 0, n - 1);
    run(program, {n, start, static_cast<int64_t>(wanted.size())}, {tokens.data(), rows_.data(), &start, wanted.data()}, {logits, scratch_.data()});
    if (head < heads_)
      for (int64_t i = 0; i < n; ++i) std::memcpy(following_.hidden(head, start + i), scratch_.data() + i * width, sizeof(float) * width);
    following_.set_rows(head, start + n);
  }
}

// Let the heads that miss no row follow the trunk over confirmed tokens, once a whole chunk is waiting. One that is not drafting
// (few tokens are wanted) falls behind the others, and must follow before the hidden rows that it needs are overwritten.
void pangu_session::flush_heads() {
  if (heads_behind(following_.complete()) >= tables_.max_chunk) feed_heads(following_.complete());
}

// Heads 1 .. count over the confirmed tokens.
void pangu_session::feed_heads(int count) {
  for (int head = 1; head <= count; ++head) feed_head(head, length() - head, {}, nullptr);
}

// Heads 1 .. count are about to draft: the windowed ones follow, unless they are no further behind than a step leaves them.
void pangu_session::follow(int64_t count) {
  const int heads = static_cast<int>(count);
  if (heads <= following_.complete()) return;
  following_.aim(heads, length());
  if (heads_behind(heads) > heads_ + 1)
    for (int head = heads; head >= 1; --head) feed_head(head, length() - head, {}, nullptr);
}

// Positions of the trunk that the slowest of heads 1 .. count has no row for (at least one: its row needs the token that follows).
int64_t pangu_session::heads_behind(int count) const {
  int64_t behind = 0;
  for (int head = 1; head <= count; ++head) behind = std::max(behind, length() - head + 1 - following_.rows(head));
  return behind;
}

void pangu_session::prefill(const int64_t *tokens, int64_t n, int64_t chunk, bool all_logits, float *logits) {
  if (n <= 0) throw Error(PANGU_BAD_ARGUMENT, "no tokens given");
  check_tokens(tokens, n);
  const int64_t size = chunk <= 0 ? tables_.max_chunk : std::min(chunk, tables_.max_chunk);
  for (int64_t at = 0; at < n; at += size) {
    const int64_t count = std::min(size, n - at);
    std::vector<int64_t> rows;
    float *out = logits;
    if (logits != nullptr && all_logits) {
      rows.resize(static_cast<size_t>(count));
      std::iota(rows.begin(), rows.end(), 0);
      out = logits + at * tables_.vocab_size;
    } else if (logits != nullptr && at + count == n) {
      rows.push_back(count - 1);
    }
    step(tokens + at, count, rows, out);
    flush_heads();
  }
}

// Forget every row from `length` on. Nothing is copied: rings and caches are addressed and masked by position.
void pangu_session::rollback(int64_t length) {
  tokens_.resize(static_cast<size_t>(length));
  following_.rollback(length);
}

// A model whose numbers have gone bad must be an error, not a token.
void pangu_session::check_finite(const float *logits) const {
  for (int64_t i = 0; i < tables_.vocab_size; ++i)
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity()) not_finite("logits");
}

void pangu_session::not_finite(const char *what) const {
  throw Error(PANGU_INTERNAL, std::string("the ") + what + " after " + std::to_string(length()) +
                                  " tokens are not finite; check the checkpoint with pangu-compile verify");
}

int64_t pangu_session::choose(const float *logits, const pangu_core::Filter &filter, double uniform) const {
  check_finite(logits);
  if (filter.greedy()) return pangu_core::argmax(logits, tables_.vocab_size);
  return pangu_sampling::draw(filter.distribution(logits, tables_.vocab_size).data(), tables_.vocab_size, uniform);
}

// Drafts d_1 .. d_count that follow the pending token (which is not yet in the trunk's states). uniform[count].
std::vector<pangu_session::Draft> pangu_session::propose(int64_t pending, int64_t count, const pangu_core::Filter &filter,
                                                         const double *uniform) {
  std::vector<Draft> drafts;
  std::vector<int64_t> extra{pending};
  std::vector<float> logits(static_cast<size_t>(tables_.vocab_size));
  for (int head = 1; head <= count; ++head) {
    feed_head(head, length(), extra, logits.data());
    check_finite(logits.data());
    Draft draft{0, {}};
    if (filter.greedy()) {
      draft.first = pangu_core::argmax(logits.data(), tables_.vocab_size);
    } else {
      draft.second = filter.distribution(logits.data(), tables_.vocab_size);
      draft.first = pangu_sampling::draw(draft.second.data(), tables_.vocab_size, uniform[head - 1]);
    }
    extra.push_back(draft.first);
    drafts.push_back(std::move(draft));
  }
  return drafts;
}

// One run of the trunk on [pending, drafts..]: the accepted drafts and one token of the trunk's own. The states then hold
// the pending token and the accepted drafts. uniform[drafts + 1] is read in order: one for each draft looked at, one for the draw.
std::vector<int64_t> pangu_session::verify(int64_t pending, const std::vector<Draft> &drafts, const pangu_core::Filter &filter,
                                           const double *uniform) {
  const int64_t start = length(), vocab = tables_.vocab_size;
  std::vector<int64_t> tokens{pending}, rows(drafts.size() + 1);
  for (const Draft &d : drafts) tokens.push_back(d.first);
  std::iota(rows.begin(), rows.end(), 0);
  logits_.resize(rows.size() * static_cast<size_t>(vocab));
  step(tokens.data(), static_cast<int64_t>(tokens.size()), rows, logits_.data());
  std::vector<int64_t> result;
  for (size_t i = 0;; ++i) {
    const float *row = logits_.data() + static_cast<int64_t>(i) * vocab;
    if (i == drafts.size()) {
      result.push_back(choose(row, filter, uniform[i]));
      break;
    }
    const int64_t guess = drafts[i].first;
    check_finite(row);
    if (filter.greedy()) {
      const int64_t own = pangu_core::argmax(row, vocab);
      result.push_back(own);
      if (own != guess) break;
      continue;
    }
    std::vector<double> p = filter.distribution(row, vocab);
    const std::vector<double> &q = drafts[i].second;
    if (pangu_sampling::stands(p[guess], q[guess], uniform[i])) {
      result.push_back(guess);
      continue;
    }
    pangu_sampling::without(p.data(), q.data(), vocab);
    result.push_back(pangu_sampling::draw(p.data(), vocab, uniform[i + 1]));
    break;
  }
  rollback(start + static_cast<int64_t>(result.size())); // the pending token and the accepted drafts
  return result;
}
