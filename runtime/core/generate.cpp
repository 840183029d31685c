// generate.cpp: the generation loop, with and without drafts.
#include "session.h"

#include <algorithm>
#include <chrono>
#include <cstring>

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
  stats = {};
  const auto begin = std::chrono::steady_clock::now();
  prefill(prompt, n, 0, false, logits.data());
  stats.prompt_tokens = n;
  stats.prefill_seconds = seconds_since(begin);
  if (options.max_new_tokens <= 0) return;
  const auto decoding = std::chrono::steady_clock::now();
  const int64_t *const stops = options.stop_tokens, *const stops_end = stops + options.n_stop_tokens;
  int64_t pending = choose(logits.data(), filter, random);
  // Deliver a token; true where generation ends with it.
  const auto deliver = [&](int64_t token) {
    ++stats.new_tokens;
    stats.decode_seconds = seconds_since(decoding);
    return !emit(token) || stats.new_tokens >= options.max_new_tokens || std::find(stops, stops_end, token) != stops_end;
  };
  if (deliver(pending)) return;
  for (;;) {
    if (length() >= max_context_)
      throw Error(PANGU_CONTEXT_FULL, "context full after " + std::to_string(stats.new_tokens) + " new tokens: " +
                                          std::to_string(max_context_) + " positions; open the session (or build) with a larger max_context");
    int64_t count = options.speculate != 0 ? heads_ : 0;
    count = std::min({count, max_context_ - length() - 1, options.max_new_tokens - stats.new_tokens - 1, tables_.max_chunk - 1});
    const std::vector<Draft> drafts = propose(pending, count, filter, random);
    const int64_t start = length();
    const std::vector<int64_t> tokens = verify(pending, drafts, filter, random);
    ++stats.steps;
    for (size_t i = 0; i < drafts.size(); ++i) {
      ++stats.drafted[i];
      stats.accepted[i] += i + 1 < tokens.size() ? 1 : 0;
    }
    flush_heads(false);
    for (size_t i = 0; i < tokens.size(); ++i)
      if (deliver(tokens[i])) {
        // The states hold everything before the last delivered token, and nothing after it.
        const int64_t held = start + 1 + static_cast<int64_t>(i);
        rollback(held);
        for (int head = 1; head <= heads_; ++head)
          head_rows_[head] = std::min(head_rows_[head], std::max<int64_t>(0, held - 1 - (head - 1)));
        return;
      }
    pending = tokens.back();
  }
}

// Saved form: magic, length, tokens, head rows, hidden rows, then of every state the rows that exist.

namespace {

constexpr uint64_t kMagic = 0x3153534553474e50ull; // "PNGSESS1"

struct Writer {
  std::vector<uint8_t> bytes;
  void put(const void *data, size_t n) {
    const uint8_t *p = static_cast<const uint8_t *>(data);
    bytes.insert(bytes.end(), p, p + n);
  }
  void number(uint64_t x) { put(&x, sizeof x); }
};

struct Reader {
  const uint8_t *at, *end;
  void get(void *data, size_t n) {
    if (static_cast<size_t>(end - at) < n) throw Error(PANGU_BAD_ARGUMENT, "saved session is too short for this artifact");
    std::memcpy(data, at, n);
    at += n;
  }
  uint64_t number() {
    uint64_t x;
    get(&x, sizeof x);
    return x;
  }
};

} // namespace

std::vector<uint8_t> pangu_session::save() const {
  Writer w;
  w.number(kMagic);
  w.number(static_cast<uint64_t>(tables_.n_states));
  w.number(static_cast<uint64_t>(heads_));
  w.number(static_cast<uint64_t>(length()));
  w.put(tokens_.data(), tokens_.size() * sizeof(int64_t));
  w.put(head_rows_.data(), head_rows_.size() * sizeof(int64_t));
  for (const std::vector<float> &level : hidden_) w.put(level.data(), level.size() * sizeof(float));
  for (int i = 0; i < tables_.n_states; ++i) {
    const pangu_state_desc &s = tables_.states[i];
    const uint64_t nbytes = static_cast<uint64_t>((s.append != 0 ? length() : s.rows) * s.row_bytes);
    w.number(nbytes);
    w.put(states_[i].data(), nbytes);
  }
  return w.bytes;
}

void pangu_session::restore(const uint8_t *data, size_t size) {
  // Read twice: the first pass only checks, so that a wrong buffer changes nothing.
  for (int pass = 0; pass < 2; ++pass) {
    Reader r{data, data + size};
    const bool same = r.number() == kMagic && r.number() == static_cast<uint64_t>(tables_.n_states) && r.number() == static_cast<uint64_t>(heads_);
    if (!same) throw Error(PANGU_BAD_ARGUMENT, "saved session is of another artifact, or was opened with other options");
    const uint64_t count = r.number();
    if (count > static_cast<uint64_t>(max_context_)) throw Error(PANGU_CONTEXT_FULL, "saved session holds " + std::to_string(count) + " tokens; this session has room for " + std::to_string(max_context_));
    std::vector<int64_t> tokens(count), heads(head_rows_.size());
    r.get(tokens.data(), count * sizeof(int64_t));
    r.get(heads.data(), heads.size() * sizeof(int64_t));
    std::vector<std::vector<float>> hidden = hidden_;
    for (std::vector<float> &level : hidden) r.get(level.data(), level.size() * sizeof(float));
    for (int i = 0; i < tables_.n_states; ++i) {
      const pangu_state_desc &s = tables_.states[i];
      const uint64_t nbytes = static_cast<uint64_t>((s.append != 0 ? static_cast<int64_t>(count) : s.rows) * s.row_bytes);
      if (r.number() != nbytes || static_cast<uint64_t>(r.end - r.at) < nbytes) throw Error(PANGU_BAD_ARGUMENT, "saved session does not fit this artifact's states");
      if (pass == 1) std::memcpy(states_[i].data(), r.at, nbytes);
      r.at += nbytes;
    }
    if (r.at != r.end) throw Error(PANGU_BAD_ARGUMENT, "saved session has bytes left over");
    if (pass == 1) tokens_ = tokens, head_rows_ = heads, hidden_ = hidden;
  }
}
