// state.cpp: a session's states as a whole: reset, truncate, save, restore.
#include "session.h"
#include "sha256.h"

#include <algorithm>
#include <cstring>

using pangu_core::Error;

namespace {

// Saved form: magic, the artifact's fingerprint, counts, tokens, how far the heads are, of every level and state the rows that
// exist, and the SHA-256 of all that.
constexpr uint64_t kMagic = 0x3353534553474e50ull; // "PNGSESS3"
constexpr size_t kDigest = 64;

struct Writer {
  uint8_t *at; // null: only count
  size_t size;
  void put(const void *data, size_t n) {
    if (at != nullptr && n > 0) std::memcpy(at + size, data, n);
    size += n;
  }
  void number(int64_t x) { put(&x, sizeof x); }
};

struct Reader {
  const uint8_t *at, *end;
  const uint8_t *take(size_t n) {
    if (static_cast<size_t>(end - at) < n) throw Error(PANGU_BAD_ARGUMENT, "saved session is too short for this artifact");
    at += n;
    return at - n;
  }
  void get(void *data, size_t n) {
    const uint8_t *from = take(n);
    if (n > 0) std::memcpy(data, from, n);
  }
  int64_t number() {
    int64_t x;
    get(&x, sizeof x);
    return x;
  }
};

std::string padded(std::string fingerprint) {
  fingerprint.resize(kDigest, '-');
  return fingerprint;
}

} // namespace

void pangu_session::reset() {
  tokens_.clear();
  written_ = 0;
  following_.reset();
  for (int i = 0; i < tables_.n_states; ++i)
    if (tables_.states[i].append == 0) states_[i].clear();
}

void pangu_session::truncate(int64_t length) {
  if (length < 0 || length > this->length())
    throw Error(PANGU_BAD_ARGUMENT, "cannot truncate to " + std::to_string(length) + " tokens; the session holds " + std::to_string(this->length()));
  // Rings hold num_drafts rows more than their windows. Further back the rows are overwritten: compute them again.
  if (written_ - length <= tables_.num_drafts) return rollback(length);
  const std::vector<int64_t> kept(tokens_.begin(), tokens_.begin() + length);
  reset();
  if (length > 0) prefill(kept.data(), length, 0, false, nullptr);
}

size_t pangu_session::write(uint8_t *out) const {
  Writer w{out, 0};
  w.put(&kMagic, sizeof kMagic);
  w.put(padded(model_.fingerprint).data(), kDigest);
  for (const int64_t x : {static_cast<int64_t>(tables_.n_states), static_cast<int64_t>(heads_), length(), written_}) w.number(x);
  w.put(tokens_.data(), tokens_.size() * sizeof(int64_t));
  const std::vector<int64_t> heads = following_.counts();
  w.put(heads.data(), heads.size() * sizeof(int64_t));
  for (int level = 0; level < following_.levels(); ++level) {
    const int64_t rows = level == 0 ? length() : following_.rows(level);
    for (int64_t row = std::max<int64_t>(0, rows - following_.kept(level)); row < rows; ++row)
      w.put(following_.hidden(level, row), sizeof(float) * tables_.hidden_size);
  }
  for (int i = 0; i < tables_.n_states; ++i) {
    const pangu_state_desc &s = tables_.states[i];
    const int64_t nbytes = (s.append != 0 ? length() : s.rows) * s.row_bytes;
    w.number(nbytes);
    if (out != nullptr) states_[i].read(out + w.size, static_cast<size_t>(nbytes));
    w.size += static_cast<size_t>(nbytes);
  }
  return w.size;
}

size_t pangu_session::saved_size() const { return write(nullptr) + kDigest; }

void pangu_session::save(uint8_t *out) const {
  const size_t size = write(out);
  std::memcpy(out + size, pangu_core::sha256_hex(out, size).data(), kDigest);
}

void pangu_session::restore(const uint8_t *data, size_t size) {
  // Everything is checked before the first byte of the session changes.
  if (size < sizeof kMagic + kDigest || std::memcmp(data, &kMagic, sizeof kMagic) != 0)
    throw Error(PANGU_BAD_ARGUMENT, "these bytes are not a saved session of this runtime");
  size -= kDigest;
  if (std::memcmp(pangu_core::sha256_hex(data, size).data(), data + size, kDigest) != 0)
    throw Error(PANGU_BAD_ARGUMENT, "saved session is damaged: its checksum differs");
  Reader r{data + sizeof kMagic, data + size};
  if (std::memcmp(r.take(kDigest), padded(model_.fingerprint).data(), kDigest) != 0)
    throw Error(PANGU_BAD_ARGUMENT, "saved session is of another artifact");
  if (r.number() != tables_.n_states || r.number() != heads_)
    throw Error(PANGU_BAD_ARGUMENT, "saved session was opened with another `speculate` option than this one");
  const int64_t count = r.number(), written = r.number();
  if (count < 0 || count > max_context_)
    throw Error(PANGU_CONTEXT_FULL, "saved session holds " + std::to_string(count) + " tokens; this session has room for " + std::to_string(max_context_));
  std::vector<int64_t> tokens(static_cast<size_t>(count)), heads(following_.counts().size());
  r.get(tokens.data(), tokens.size() * sizeof(int64_t));
  r.get(heads.data(), heads.size() * sizeof(int64_t));
  if (std::any_of(heads.begin(), heads.end(), [count](int64_t rows) { return rows < 0 || rows > count; }))
    throw Error(PANGU_BAD_ARGUMENT, "saved session has heads that are ahead of its tokens");
  const size_t width = sizeof(float) * static_cast<size_t>(tables_.hidden_size);
  struct Level {
    int64_t first, end; // rows
    const uint8_t *at;
  };
  std::vector<Level> hidden;
  for (int level = 0; level < following_.levels(); ++level) {
    const int64_t end = level == 0 ? count : heads[static_cast<size_t>(level)], first = std::max<int64_t>(0, end - following_.kept(level));
    hidden.push_back({first, end, r.take(static_cast<size_t>(end - first) * width)});
  }
  std::vector<const uint8_t *> rows;
  std::vector<size_t> sizes;
  for (int i = 0; i < tables_.n_states; ++i) {
    const pangu_state_desc &s = tables_.states[i];
    const int64_t nbytes = (s.append != 0 ? count : s.rows) * s.row_bytes;
    if (r.number() != nbytes) throw Error(PANGU_BAD_ARGUMENT, "saved session does not fit this artifact's states");
    sizes.push_back(static_cast<size_t>(nbytes));
    rows.push_back(r.take(sizes.back()));
  }
  if (r.at != r.end) throw Error(PANGU_BAD_ARGUMENT, "saved session has bytes left over");
  for (size_t i = 0; i < rows.size(); ++i)
    states_[i].write(rows[i], sizes[i]);
  for (uint8_t *memory : derived_pointers_) std::memset(memory, 0, PANGU_DERIVED_HEADER); // of other rows
  for (int level = 0; level < following_.levels(); ++level) {
    const Level &l = hidden[static_cast<size_t>(level)];
    for (int64_t row = l.first; row < l.end; ++row) std::memcpy(following_.hidden(level, row), l.at + static_cast<size_t>(row - l.first) * width, width);
  }
  tokens_.swap(tokens), following_.restore(heads);
  written_ = written;
}
