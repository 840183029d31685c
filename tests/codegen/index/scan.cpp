// scan.cpp: the indexer's choice with codes of the keys is the choice without, and the bounds that it rests on hold.
//
// A program of its own, so that it runs under the address sanitizer and under an emulator. Prints one line for each failure;
// exit status 1 if there was one.
#include "pangu_kernels.h"
#include "pool.h"

#include <cstdio>
#include <memory>
#include <string>

namespace {

using pangu::Choice;
using pangu::IndexScan;
using pangu::KeyCodes;

uint64_t seed = 1;
uint32_t random_bits() { return static_cast<uint32_t>((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 33); }
float uniform() { return static_cast<float>(random_bits()) / 1073741824.0f - 1.0f; }
float normal() { return uniform() + uniform() + uniform(); }

int failures = 0;

struct Shape {
  int64_t heads, width, topk, rows;
};

// How keys, queries and the weights of heads are drawn.
const char *const kKinds[] = {"normal", "positive weights", "few distinct keys", "equal keys", "nearly equal keys", "one large key", "one large column",
                              "far from zero", "a common part", "zero keys", "zero queries", "zero weights", "tiny", "huge", "NaN key", "infinite key", "NaN query",
                              "sparse keys"};
// Kinds that the bounds are known to decide.
bool must_decide(int kind) { return kind <= 1 || kind == 5 || kind == 7 || kind == 8; }

struct Case {
  Shape s;
  int64_t T;
  std::vector<float> q, w, keys;

  Case(const Shape &shape, int64_t tokens, int kind) : s(shape), T(tokens), q(size(T * s.heads * s.width)), w(size(T * s.heads)), keys(size(s.rows * s.width)) {
    for (float &x : q) x = normal();
    for (float &x : w) x = normal();
    for (float &x : keys) x = normal();
    const std::string what = kKinds[kind];
    const size_t width = size(s.width), some = size(s.rows / 2) * width;
    const auto key_by_key = [&](const auto &source) {
      for (size_t j = width; j < keys.size(); j += width) std::copy_n(keys.begin() + source(j / width) * s.width, width, keys.begin() + static_cast<int64_t>(j));
    };
    if (what == "positive weights") for (float &x : w) x = std::fabs(x);
    if (what == "few distinct keys") key_by_key([](size_t j) { return static_cast<int64_t>(j < 5 ? j : random_bits() % 5); });
    if (what == "equal keys" || what == "nearly equal keys") key_by_key([](size_t) { return int64_t{0}; });
    if (what == "nearly equal keys") for (float &x : keys) x *= 1 + 1e-6f * uniform();
    if (what == "one large key") for (size_t c = 0; c < width; ++c) keys[some + c] *= 1000;
    if (what == "one large column") for (size_t j = 0; j < keys.size(); j += width) keys[j] *= 300;
    if (what == "far from zero") for (float &x : keys) x += 50;
    if (what == "a common part")
      for (size_t j = 0; j < keys.size(); ++j) keys[j] = 0.1f * keys[j] * static_cast<float>(1 + j % width % 7) + static_cast<float>(j % width % 5) - 2;
    if (what == "zero keys") std::fill(keys.begin() + static_cast<int64_t>(some), keys.end(), 0.0f);
    if (what == "zero queries") std::fill_n(q.begin(), s.heads * s.width, 0.0f);
    if (what == "zero weights") std::fill_n(w.begin(), s.heads, 0.0f);
    if (what == "tiny") for (float &x : keys) x *= 1e-33f;
    if (what == "huge") for (float &x : keys) x *= 1e37f;
    if (what == "NaN key") keys[some] = std::numeric_limits<float>::quiet_NaN();
    if (what == "infinite key") keys[some] = -std::numeric_limits<float>::infinity();
    if (what == "NaN query") q[width - 1] = std::numeric_limits<float>::quiet_NaN();
    if (what == "sparse keys") for (float &x : keys) x = random_bits() % 8 == 0 ? x : 0.0f;
  }
  static size_t size(int64_t n) { return static_cast<size_t>(n); }
};

// Memory of a session: exact size, on the heap.
struct Kept {
  std::vector<uint8_t> bytes;
  uint8_t *at;
  Kept(int64_t rows, int64_t width)
      : bytes(static_cast<size_t>(64 + PANGU_DERIVED_HEADER + 8 * pangu::code_columns(width) + Choice::rows(rows) * (2 * pangu::code_columns(width) + 16))),
        at(reinterpret_cast<uint8_t *>((reinterpret_cast<uintptr_t>(bytes.data()) + 63) / 64 * 64)) {}
};

// The rows that every token chooses, as DsaAttention asks for them; how many queries were decided, and what was left open.
std::vector<int32_t> chosen_rows(const Case &c, pangu_pool *pool, uint8_t *codes, int64_t *decided = nullptr, int64_t *open = nullptr) {
  const int64_t choice = c.s.rows + c.s.topk + 5 * (Choice::most_candidates(c.s.rows, c.s.topk) + 49) + 48 + 7 * 16; // compiler/plan/workspace.py
  std::vector<uint8_t> memory(static_cast<size_t>(64 + pangu::kScoreRows * 4 * choice), 0xA5);
  uint8_t *const begin = reinterpret_cast<uint8_t *>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
  pangu::Workspace work{begin, memory.data() + memory.size()};
  const KeyCodes coded{codes, c.s.width};
  const IndexScan scan{c.s.heads, c.s.width, c.s.topk, 0.125f, c.q.data(), c.w.data(), c.keys.data(), coded, 0};
  if (scan.coded(c.s.rows)) coded.extend(pool, c.s.rows, c.keys.data());
  std::vector<int32_t> chosen(static_cast<size_t>(c.T * c.s.topk), -1);
  Choice choices[pangu::kScoreRows];
  for (Choice &each : choices) each = Choice(work, c.s.rows, c.s.topk, codes != nullptr);
  for (int64_t t = 0; t < c.T; t += pangu::kScoreRows) {
    const int64_t count = pangu::min(pangu::kScoreRows, c.T - t);
    scan.choose(pool, c.s.rows - c.T, t, count, choices, chosen.data() + t * c.s.topk);
    for (int64_t i = 0; decided != nullptr && i < count; ++i) *decided += choices[i].decided, *open += choices[i].decided ? choices[i].n_open : 0;
  }
  return chosen;
}

void fail(const Shape &s, int kind, const char *what) {
  std::printf("%s: %s, heads %d width %d topk %d rows %d\n", what, kKinds[kind], static_cast<int>(s.heads), static_cast<int>(s.width),
              static_cast<int>(s.topk), static_cast<int>(s.rows));
  ++failures;
}

// Every key's score in float64, and in float32, lies between the bounds.
void check_bounds(const Case &c, int kind) {
  const Shape &s = c.s;
  Kept kept(s.rows, s.width);
  const KeyCodes coded{kept.at, s.width};
  const IndexScan scan{s.heads, s.width, s.topk, 0.125f, c.q.data(), c.w.data(), c.keys.data(), coded, 0};
  if (!scan.coded(s.rows)) return;
  coded.extend(nullptr, s.rows, c.keys.data());
  std::vector<uint8_t> memory(static_cast<size_t>(pangu::CodedQuery::bytes(scan.lanes(), s.heads, s.width)));
  const pangu::CodedQuery query(c.q.data(), c.w.data(), 0.125f, s.heads, scan.lanes(), pangu::kScanGroup, coded, memory.data());
  std::vector<float> turned(static_cast<size_t>(scan.turned_size())), by_codes(static_cast<size_t>(Choice::rows(s.rows)));
  scan.turn_queries(0, turned.data());
  for (int64_t b = 0; b * pangu::kCodeBlock < s.rows; ++b) {
    float *const block = by_codes.data() + b * pangu::kCodeBlock;
    scan.code_block(query, coded.codes(b), coded.steps(b), block);
    scan.raise(query, b, block);
  }
  for (int64_t j = 0; j < s.rows; ++j) {
    const float *const key = c.keys.data() + j * s.width;
    float single = 0;
    scan.score_block(turned.data(), 1, 1, &key, &single);
    double score = 0;
    for (int64_t h = 0; h < s.heads; ++h) {
      double sum = 0;
      for (int64_t k = 0; k < s.width; ++k) sum += double{c.q[static_cast<size_t>(h * s.width + k)]} * key[k];
      score += std::max(0.0, sum * 0.125) * c.w[static_cast<size_t>(h)];
    }
    const float most = by_codes[static_cast<size_t>(j)], least = scan.least(query, j, most);
    if (std::isfinite(most) && std::isfinite(least) && !(least <= std::min<double>(score, single) && std::max<double>(score, single) <= most))
      return fail(s, kind, "score outside its bounds");
  }
}

void check(const Shape &s, int kind, pangu_pool *pool) {
  const Case c(s, pangu::min<int64_t>(7, s.rows - s.topk + 2), kind);
  const std::vector<int32_t> want = chosen_rows(c, nullptr, nullptr);
  Kept kept(s.rows, s.width);
  int64_t decided = 0, open = 0;
  if (chosen_rows(c, nullptr, kept.at, &decided, &open) != want) fail(s, kind, "other rows with codes");
  if (pangu::kCodes && must_decide(kind) && s.width == 128 && s.rows == 1500 && (decided < c.T || open > c.T * s.rows / 5)) fail(s, kind, "too little decided");
  if (chosen_rows(c, pool, kept.at) != want) fail(s, kind, "other rows with codes on several threads");
  // Rows that were rejected and written again; the header is set back as DsaAttention does.
  Case changed = c;
  const int64_t back = s.rows - s.rows / 3;
  for (int64_t i = back * s.width; i < s.rows * s.width; ++i) changed.keys[static_cast<size_t>(i)] = normal();
  KeyCodes{kept.at, s.width}.rows() = back;
  if (chosen_rows(changed, pool, kept.at) != chosen_rows(changed, nullptr, nullptr)) fail(s, kind, "other rows after some were replaced");
  check_bounds(c, kind);
}

} // namespace

int main(int argc, char **) {
  const bool quick = argc > 1;
  const std::unique_ptr<pangu_pool> pool = std::make_unique<pangu_pool>(3);
  const Shape shapes[] = {{24, 128, 96, 1500}, {4, 32, 16, 200}, {1, 16, 1, 100}, {3, 24, 5, 49}, {9, 40, 47, 48}, {33, 64, 64, 333},
                          {24, 128, 512, 521}, {64, 128, 100, 4000}, {8, 512, 33, 2000}, {16, 520, 33, 300}};
  for (const Shape &s : shapes) {
    if (quick && s.rows * s.heads * s.width > 2000000) continue;
    for (int kind = 0; kind < static_cast<int>(sizeof kKinds / sizeof *kKinds); ++kind) check(s, kind, pool.get());
  }
  std::printf("%d failures\n", failures);
  return failures > 0;
}
