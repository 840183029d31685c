// fake_model.cpp: a hand-written "generated" model for the runtime's tests. Its logits depend on what is read back from
// append and ring states, and every state row carries its position: a wrong row changes the tokens and is counted.
// The heads repeat the trunk's guess in weight[0] percent of the positions. Nothing here is shared with the compiler.
#include "pangu_abi.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#ifndef FAKE_VOCAB
#define FAKE_VOCAB 32
#endif
#ifndef FAKE_HEADS
#define FAKE_HEADS 3
#endif
#ifndef FAKE_CHUNK
#define FAKE_CHUNK 8
#endif
#ifndef FAKE_CONTEXT
#define FAKE_CONTEXT 1024
#endif
#ifndef FAKE_SALT
#define FAKE_SALT 1
#endif
#ifndef FAKE_WINDOWED // bit j: head j has nothing but its ring
#define FAKE_WINDOWED 0
#endif

namespace {

// The trunk's window, and the heads'. Where some heads have only that, the trunk's guess is one that they can know.
constexpr int64_t kVocab = FAKE_VOCAB, kHidden = 5, kWindow = 5;
constexpr int64_t kWindows[] = {kWindow, FAKE_WINDOWED ? 25 : kWindow, FAKE_WINDOWED ? 30 : kWindow, FAKE_WINDOWED ? 130 : kWindow};
constexpr int64_t kGuessed = FAKE_WINDOWED ? 2 : kWindow; // positions that decide the guess
constexpr uint64_t kSalt = FAKE_SALT;

constexpr int64_t ring_rows(int owner) { return kWindows[owner] + FAKE_HEADS; }
constexpr bool windowed(int owner) { return (FAKE_WINDOWED >> owner & 1) != 0; }

// partial: computed from rows that were not there, as a head's are behind a jump; nobody may use them.
struct Row {
  int64_t position, token, partial; // position + 1, so that a zero row is "never written"
};

std::atomic<int64_t> calls{0};  // of `speculate`
std::atomic<int64_t> fed[4];    // rows that each head was given
std::atomic<int64_t> faults{0}; // states, hidden rows or arguments that were not what the ABI promises

void expect(bool condition) {
  if (!condition) ++faults;
}

uint64_t mix(uint64_t h, uint64_t x) {
  h = (h ^ x) * 0x9e3779b97f4a7c15ull;
  return h ^ (h >> 29);
}

int64_t token_of(const Row &row, int64_t position) {
  expect(row.position == position + 1);
  return row.token;
}

// What is seen of the sequence up to `last`, from rows whose index is position - offset (offset 0: the trunk). Positions before
// `known` are left out: a head has never seen them. guess: what the trunk's logits come from; all: of everything that is seen.
struct Seen {
  uint64_t guess, all;
  bool partial;
};

Seen look(const Row *append, const Row *ring, int owner, int64_t last, int64_t offset, int64_t known) {
  Seen seen{mix(kSalt, static_cast<uint64_t>(last)), 0, false};
  for (int64_t p = last - kWindows[owner] + 1; p <= last; ++p) {
    if (p < known) continue;
    const Row &row = ring[(p - offset) % ring_rows(owner)];
    if (windowed(owner) && (row.position != p + 1 || row.partial != 0)) seen.partial = true;
    const auto token = static_cast<uint64_t>(windowed(owner) ? row.token : token_of(row, p));
    seen.all = mix(seen.all, token);
    if (p > last - kGuessed) seen.guess = mix(seen.guess, token);
  }
  if (windowed(owner) || last / 2 < known) return seen;
  const auto token = static_cast<uint64_t>(token_of(append[last / 2 - offset], last / 2));
  seen.all = mix(seen.all, token);
  if (FAKE_WINDOWED == 0) seen.guess = mix(seen.guess, token);
  return seen;
}

float logit(uint64_t hash, int64_t token) {
  const uint64_t h = mix(mix(hash, static_cast<uint64_t>(token)), 77);
  return static_cast<float>(h >> 40 & 0xffff) * (3.0f / 65536.0f);
}

// States of a head, or of the trunk (owner 0).
struct Cells {
  Row *append, *ring;
};

Cells cells(const pangu_exec *e, int owner) {
  return {static_cast<Row *>(e->state[2 * owner]), static_cast<Row *>(e->state[2 * owner + 1])};
}

struct Job {
  const int64_t *rows;
  const uint64_t *hash, *noise; // noise: what a head believes; the trunk has none
  const bool *agree;
  float *out;
};

// Logits of the wanted rows, shared over the pool.
void fill(pangu_pool *pool, Job &job, int64_t wanted) {
  pangu_parallel_for(
      pool, wanted * kVocab, 4,
      [](void *arg, int64_t begin, int64_t end, int32_t) {
        const Job &j = *static_cast<const Job *>(arg);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t row = j.rows[i / kVocab], token = i % kVocab;
          const float own = logit(j.hash[row], token);
          j.out[i] = j.noise == nullptr ? own : j.agree[row] ? own * 0.7f : logit(j.noise[row], token);
        }
      },
      &job);
}

void check_call(const pangu_exec *e, int64_t start, const int64_t *tokens, const int64_t *rows) {
  expect(e->dim[0] >= 1 && e->dim[0] <= FAKE_CHUNK && e->dim[1] == start && start + e->dim[0] <= FAKE_CONTEXT);
  for (int64_t i = 0; i < e->dim[0]; ++i) expect(tokens[i] >= 0 && tokens[i] < kVocab);
  for (int64_t i = 0; i < e->dim[2]; ++i) expect(rows[i] >= 0 && rows[i] < e->dim[0]);
  expect(reinterpret_cast<uintptr_t>(e->arena) % 64 == 0);
  std::memset(e->arena, 0xA5, 4096);
}

// The trunk on n tokens: hidden rows, and the hash that each row's logits come from.
void trunk_rows(Cells states, const int64_t *tokens, int64_t n, int64_t start, float *hidden, uint64_t *hash) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t p = start + i;
    states.append[p] = states.ring[p % ring_rows(0)] = {p + 1, tokens[i], 0};
    hash[i] = look(states.append, states.ring, 0, p, 0, 0).guess;
    const float row[kHidden] = {static_cast<float>(p), static_cast<float>(tokens[i])};
    std::memcpy(hidden + i * kHidden, row, sizeof row);
  }
}

void step(const pangu_exec *e) {
  const auto *tokens = static_cast<const int64_t *>(e->in[0]), *rows = static_cast<const int64_t *>(e->in[2]);
  const int64_t n = e->dim[0], start = *static_cast<const int64_t *>(e->in[1]);
  check_call(e, start, tokens, rows);
  uint64_t hash[FAKE_CHUNK];
  trunk_rows(cells(e, 0), tokens, n, start, static_cast<float *>(e->out[1]), hash);
  Job job{rows, hash, nullptr, nullptr, static_cast<float *>(e->out[0])};
  fill(e->pool, job, e->dim[2]);
#ifdef FAKE_NAN
  for (int64_t i = 0; i < e->dim[2]; ++i) job.out[i * kVocab + 3] = NAN;
#endif
}

// Row i of head j stands at position p = i + j - 1, holds token p + 1, and guesses the token of p + 2.
struct Guesses {
  uint64_t hash[FAKE_CHUNK], noise[FAKE_CHUNK];
  bool agrees[FAKE_CHUNK], partial[FAKE_CHUNK];
};

void head_rows(int head, Cells states, int64_t agree, const int64_t *tokens, const float *given, int64_t n, int64_t start,
               float *hidden, Guesses &guesses) {
  fed[head] += n;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t local = start + i, q = local + head; // q = p + 1, the position of the token that this row reads
    const float *g = given + i * kHidden;
    Row &own = states.ring[local % ring_rows(head)];
    own = {q + 1, tokens[i], g[3] != 0};
    // g is the trunk's row p, or head j-1's row p - 1; both carry the token of position p.
    expect(g[0] == static_cast<float>(q - 1) && g[2] == static_cast<float>(head - 1));
    if (windowed(head)) {
      Row &before = states.ring[(local + ring_rows(head) - 1) % ring_rows(head)]; // behind a jump it may be of a rejected draft
      if (local > 0 && before.position == q && g[1] != static_cast<float>(before.token)) before.partial = 1;
    } else {
      states.append[local] = own;
      expect(g[3] == 0);
      if (local > 0) expect(g[1] == static_cast<float>(token_of(states.append[local - 1], q - 1)));
    }
    const Seen seen = look(states.append, states.ring, head, q, head, head);
    guesses.hash[i] = seen.guess;
    guesses.noise[i] = mix(mix(mix(seen.guess, seen.all), static_cast<uint64_t>(g[4])), static_cast<uint64_t>(head));
    guesses.agrees[i] = static_cast<int64_t>(mix(guesses.noise[i], 5) >> 33) % 100 < agree;
    guesses.partial[i] = seen.partial;
    const float row[kHidden] = {static_cast<float>(q), static_cast<float>(tokens[i]), static_cast<float>(head), seen.partial ? 1.0f : 0.0f,
                                static_cast<float>(guesses.noise[i] >> 48)};
    std::memcpy(hidden + i * kHidden, row, sizeof row);
  }
}

template <int J> void draft(const pangu_exec *e) {
  const auto *tokens = static_cast<const int64_t *>(e->in[0]), *rows = static_cast<const int64_t *>(e->in[3]);
  const auto *given = static_cast<const float *>(e->in[1]);
  const int64_t n = e->dim[0], start = *static_cast<const int64_t *>(e->in[2]), agree = *static_cast<const int64_t *>(e->weight[0]);
  check_call(e, start, tokens, rows);
  Guesses guesses;
  head_rows(J, cells(e, J), agree, tokens, given, n, start, static_cast<float *>(e->out[1]), guesses);
  for (int64_t i = 0; i < e->dim[2]; ++i) expect(!guesses.partial[rows[i]]);
  Job job{rows, guesses.hash, guesses.noise, guesses.agrees, static_cast<float *>(e->out[0])};
  fill(e->pool, job, e->dim[2]);
}

#ifdef FAKE_SPECULATE
int64_t best(const float *logits) { return std::max_element(logits, logits + kVocab) - logits; }

// What models/speculate.py computes, on rows that are checked. in: tokens, hidden, [carry], start.
void speculate(const pangu_exec *e) {
  constexpr int64_t K = FAKE_HEADS;
  const int64_t n = e->dim[0], start = e->dim[1], agree = *static_cast<const int64_t *>(e->weight[0]);
  expect(*static_cast<const int64_t *>(e->in[K > 1 ? 3 : 2]) == start && n >= 1 && start - n >= K - 1);
  expect(n + K - 1 <= FAKE_CHUNK && K + 1 <= FAKE_CHUNK && start + K + 1 <= FAKE_CONTEXT);
  const auto *confirmed = static_cast<const int64_t *>(e->in[0]);
  const float *carry = K > 1 ? static_cast<const float *>(e->in[2]) : nullptr;
  int64_t tokens[FAKE_CHUNK + K];
  std::memcpy(tokens, confirmed, sizeof(int64_t) * static_cast<size_t>(n));
  float below[(FAKE_CHUNK + 1) * kHidden], above[FAKE_CHUNK * kHidden], logits[kVocab];
  std::memcpy(below, e->in[1], sizeof(float) * static_cast<size_t>(n * kHidden));
  for (int64_t j = 1; j <= K; ++j) {
    const int64_t count = n + j - 1, last = count - 1;
    Guesses guesses;
    head_rows(static_cast<int>(j), cells(e, static_cast<int>(j)), agree, tokens, below, count, start - n - j + 1, above, guesses);
    expect(!guesses.partial[last] && (j == K || carry[(j - 1) * kHidden + 3] == 0));
    Job job{&last, guesses.hash, guesses.noise, guesses.agrees, logits};
    fill(e->pool, job, 1);
    tokens[count] = best(logits);
    if (j == K) break;
    std::memcpy(static_cast<float *>(e->out[4]) + (j - 1) * n * kHidden, above, sizeof(float) * static_cast<size_t>(n * kHidden));
    std::memcpy(below, carry + (j - 1) * kHidden, sizeof(float) * kHidden);
    std::memcpy(below + kHidden, above, sizeof(float) * static_cast<size_t>(count * kHidden));
  }
  const int64_t *fed = tokens + n - 1;
  uint64_t hash[K + 1];
  trunk_rows(cells(e, 0), fed, K + 1, start, static_cast<float *>(e->out[3]), hash);
  auto *chosen = static_cast<int64_t *>(e->out[1]);
  int64_t accepted = 0;
  for (int64_t i = 0; i <= K; ++i) chosen[i] = -1;
  for (int64_t i = 0; i <= K; ++i) {
    Job job{&i, hash, nullptr, nullptr, logits};
    fill(e->pool, job, 1);
    chosen[i] = best(logits);
    if (i == K || chosen[i] != fed[i + 1]) break;
    ++accepted;
  }
  *static_cast<int64_t *>(e->out[0]) = accepted;
  *static_cast<int64_t *>(e->out[2]) = start + accepted + 1;
  ++calls;
}
#endif

void count_calls(const pangu_exec *e) { *static_cast<int64_t *>(e->out[0]) = calls.load(); }

void count_fed(const pangu_exec *e) {
  for (int64_t j = 0; j <= FAKE_HEADS; ++j) static_cast<int64_t *>(e->out[0])[j] = fed[j].load();
}

void count_faults(const pangu_exec *e) { *static_cast<int64_t *>(e->out[0]) = faults.load(); }

// A program of one symbolic size, for pangu_run_program.
void sum(const pangu_exec *e) {
  const float *a = static_cast<const float *>(e->in[0]), *b = static_cast<const float *>(e->in[1]);
  for (int64_t i = 0; i < e->dim[0]; ++i) static_cast<float *>(e->out[0])[i] = a[i] + b[i];
}

const char *const kDims[] = {"T", "S", "M"};
const pangu_weight_desc kWeights[] = {{"agree", PANGU_I64, 4096, 8}};
// FAKE_FOLLOW: heads that need no cache have one all the same, so that they miss no row.
#ifdef FAKE_FOLLOW
#define FAKE_OWNER(j) j
#else
#define FAKE_OWNER(j) (windowed(j) ? 0 : j)
#endif
#define FAKE_STATES(j) \
  {"cache" #j, 1, FAKE_OWNER(j), PANGU_I64, FAKE_CONTEXT, sizeof(Row)}, {"ring" #j, 0, j, PANGU_I64, ring_rows(j), sizeof(Row)}
static_assert(FAKE_HEADS >= 1 && FAKE_HEADS <= 3, "the tables below have three heads");
const pangu_state_desc kStates[] = {FAKE_STATES(0), FAKE_STATES(1), FAKE_STATES(2), FAKE_STATES(3)};
const pangu_program_desc kPrograms[] = {
    {"step", step, 4096, 3, 3, 2, kDims},           {"draft_1", draft<1>, 4096, 3, 4, 2, kDims},
    {"draft_2", draft<2>, 4096, 3, 4, 2, kDims},    {"draft_3", draft<3>, 4096, 3, 4, 2, kDims},
    {"faults", count_faults, 0, 0, 0, 1, nullptr},  {"sum", sum, 0, 1, 2, 1, kDims},
    {"calls", count_calls, 0, 0, 0, 1, nullptr},     {"fed", count_fed, 0, 0, 0, 1, nullptr},
#ifdef FAKE_SPECULATE
    {"speculate", speculate, 4096, 3, FAKE_HEADS > 1 ? 4 : 3, FAKE_HEADS > 1 ? 5 : 4, kDims},
#endif
};

#ifdef FAKE_LEVELS // bit i: the processor has the i-th of three levels, whose contexts are 1, 2, 3 smaller than the least's
template <int I> int32_t has() { return FAKE_LEVELS >> I & 1; }
#define LEVEL(i)                                                                                                        \
  const pangu_generated_model_desc kLevel##i = {PANGU_ABI_VERSION, "lm", kVocab, kHidden, FAKE_CONTEXT - 1 - i, FAKE_CHUNK, FAKE_HEADS, 1, 8, \
                                                static_cast<int32_t>(sizeof kPrograms / sizeof *kPrograms), kWeights, kStates, kPrograms};
LEVEL(0) LEVEL(1) LEVEL(2)
const pangu_level kLevels[] = {{"best", has<0>, &kLevel0}, {"better", has<1>, &kLevel1}, {"good", has<2>, &kLevel2}, {nullptr, nullptr, nullptr}};
#else
const pangu_level *const kLevels = nullptr;
#endif

} // namespace

extern "C" const pangu_generated_model_desc pangu_generated_model = {
    PANGU_ABI_VERSION, "lm", kVocab, kHidden, FAKE_CONTEXT, FAKE_CHUNK, FAKE_HEADS, 1, 8,
    static_cast<int32_t>(sizeof kPrograms / sizeof *kPrograms), kWeights, kStates, kPrograms, nullptr, kLevels,
};
