// pangu_index.h: the lightning indexer's choice: every cached key is scored for a few query rows at a time, and the best `topk` are
// chosen as float32 scores order them, lowest position first among equals. Where the keys have codes (pangu_codes.h) most are
// decided without a float32 score.
#pragma once

namespace pangu {

constexpr int64_t kScoreRows = 4;          // query rows scored at once
constexpr int64_t kScanGroup = 3 * kWidth; // indexer heads whose sums the registers hold
constexpr int64_t kCodesFrom = 1 << 21;    // multiplications of a query's scan from which on codes pay
constexpr int64_t kCandidates = 8;         // times topk: of more keys that may be among the best, all are scored

// What choosing for one query row needs while it runs, in a Workspace.
struct Choice {
  float *score;             // [rows, to a whole block]; of scores by codes, the largest that they can be
  int32_t *candidates;      // positions, ascending; ~position: surely chosen
  float *lower, *upper;     // bounds of their scores
  int32_t *open, *picked;   // positions of those that are not sure, and which of them are chosen
  float *open_score;
  int64_t n, n_candidates, n_open; // n: rows that the query sees
  bool decided;             // the bounds left few enough open

  static int64_t rows(int64_t rows) { return (rows + kCodeBlock - 1) / kCodeBlock * kCodeBlock; }
  static int64_t most_candidates(int64_t rows, int64_t topk) { return min(rows, kCandidates * topk); }

  Choice() = default;
  Choice(Workspace &work, int64_t rows, int64_t topk, bool coded) : score(work.take<float>(Choice::rows(rows))) {
    if (!coded) return;
    const int64_t room = most_candidates(rows, topk) + kCodeBlock + 1; // an entry is written before it is known whether it stays
    candidates = work.take<int32_t>(room);
    lower = work.take<float>(room);
    upper = work.take<float>(room);
    open = work.take<int32_t>(room);
    open_score = work.take<float>(room);
    picked = work.take<int32_t>(topk);
  }
};

struct IndexScan {
  int64_t heads, width, topk;
  float scale;
  const float *q, *w, *keys; // q[T][heads][width], w[T][heads], keys[rows][width]
  KeyCodes codes;            // memory null: none
  int64_t codes_from = kCodesFrom;

  int64_t lanes() const { return (heads + kWidth - 1) / kWidth * kWidth; }
  int64_t turned_size() const { return lanes() * (width + 1); }
  bool coded(int64_t rows) const {
    return kCodes && codes.memory != nullptr && width <= kCodeColumns && scale > 0 && rows * heads * width >= codes_from;
  }

  // Token t's queries with heads as lanes, in groups of at most three vectors, and behind them the heads' weights.
  void turn_queries(int64_t t, float *turned) const {
    for (int64_t h = 0; h < lanes(); h += kScanGroup) {
      const int64_t group = min(kScanGroup, lanes() - h);
      turn_rows(q + (t * heads + h) * width, width, min(group, heads - h), width, group, turned + h * width);
    }
    float *const weights = turned + lanes() * width;
    for (int64_t h = 0; h < lanes(); ++h) weights[h] = h < heads ? w[t * heads + h] : 0.0f;
  }

  // score[j] (+)= sum over the heads of a group of weight * relu(query . key * scale).
  template <int NV, int NB>
  void score_tile(const float *turned, const float *weights, bool first, const float *const *rows, float *score) const {
    alignas(64) float dots[NB * NV * kWidth];
    lane_tile<NV, NB>(turned, rows, 0, width, true, dots, NV * kWidth);
    for (int n = 0; n < NB; ++n) {
      vec total{};
      for (int v = 0; v < NV; ++v) {
        const vec scaled = load(dots + (n * NV + v) * kWidth) * splat(scale);
        total = fma(load(weights + v * kWidth), scaled > vec{} ? scaled : vec{}, total);
      }
      score[n] = first ? sum(total) : score[n] + sum(total);
    }
  }

  template <int NV>
  void score_group(const float *turned, const float *weights, bool first, int64_t n, int64_t known, const float *const *rows, float *score) const {
    constexpr int NB = lane_rows(NV);
    int64_t j = 0;
    for (; j + NB <= n; j += NB) {
      // Several keys come at once, and slowly, or from anywhere: the processor does not follow by itself.
      for (int64_t i = j + 2 * NB; first && i < min(j + 3 * NB, known); ++i)
        for (int64_t k = 0; k < width; k += 16) simd::prefetch(rows[i] + k);
      score_tile<NV, NB>(turned, weights, first, rows + j, score + j);
    }
    for (; j < n; ++j) score_tile<NV, 1>(turned, weights, first, rows + j, score + j);
  }

  // The first n of `known` rows, of which the others follow later.
  void score_block(const float *turned, int64_t n, int64_t known, const float *const *rows, float *score) const {
    const float *const weights = turned + lanes() * width;
    for (int64_t h = 0; h < lanes(); h += kScanGroup) {
      const float *const group = turned + h * width;
      switch (min(kScanGroup, lanes() - h) / kWidth) {
      case 1: score_group<1>(group, weights + h, h == 0, n, known, rows, score); break;
      case 2: score_group<2>(group, weights + h, h == 0, n, known, rows, score); break;
      default: score_group<3>(group, weights + h, h == 0, n, known, rows, score);
      }
    }
  }

  // The same by codes, for all keys of a block.
  template <int NV, int NB>
  void code_tile(const CodedQuery &of, int64_t head, const Code *code, const float *steps, float *score) const {
    const uint8_t *integers = of.integers + head * code_columns(width) * 2;
    const int64_t columns = code_columns(width);
    StepSums sums[NB][NV] = {};
    for (int64_t c = 0; c < columns; c += kStepColumns, integers += NV * kStepColumns * 2 * kWidth) {
      StepQuery query[NV];
#pragma GCC unroll 16
      for (int v = 0; v < NV; ++v) query[v] = step_query(integers + v * kStepColumns * 2 * kWidth);
#pragma GCC unroll 16
      for (int n = 0; n < NB; ++n)
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) step(sums[n][v], query[v], code + n * columns + c);
    }
#pragma GCC unroll 16
    for (int n = 0; n < NB; ++n) {
      vec total{};
#pragma GCC unroll 16
      for (int v = 0; v < NV; ++v) {
        const int64_t lane = head + v * kWidth;
        const vec value = fma(sums_value(sums[n][v]) * splat(steps[n]), load(of.factors + lane), load(of.shifts + lane));
        total = fma(load(of.weights + lane), value > vec{} ? value : vec{}, total);
      }
      score[n] = (head == 0 ? 0.0f : score[n]) + sum(total);
    }
  }

  template <int NV> void code_group(const CodedQuery &query, int64_t head, const Code *code, const float *steps, float *score) const {
    constexpr int NB = NV == 3 && kWidth == 16 ? 6 : NV == 3 ? 3 : 4; // what the registers hold; each divides a block
    const int64_t tile = NB * code_columns(width);
    for (int64_t j = 0; j < kCodeBlock; j += NB, code += tile) {
      for (int64_t c = 0; head == 0 && c < tile; c += 64 / static_cast<int64_t>(sizeof(Code))) simd::prefetch(code + 2 * tile + c); // as above
      code_tile<NV, NB>(query, head, code, steps + j, score + j);
    }
  }

  void code_block(const CodedQuery &query, const Code *code, const float *steps, float *score) const {
    for (int64_t h = 0; h < lanes(); h += kScanGroup) {
      switch (min(kScanGroup, lanes() - h) / kWidth) {
      case 1: code_group<1>(query, h, code, steps, score); break;
      case 2: code_group<2>(query, h, code, steps, score); break;
      default: code_group<3>(query, h, code, steps, score);
      }
    }
  }

  // How far the score by codes of a row may be off; V is vec or float.
  template <class V> static V off(const CodedQuery &query, V rest, V size, V norm) {
    return (query.rest * rest + query.size * size) + (query.norm * norm + query.constant);
  }
  // The largest that the float32 scores of a block can be, from its scores by codes.
  void raise(const CodedQuery &query, int64_t b, float *score) const {
    for (int64_t j = 0; j < kCodeBlock; j += kWidth)
      store(score + j, load(score + j) + off(query, load(codes.rests(b) + j), load(codes.sizes(b) + j), load(codes.norms(b) + j)));
  }
  // The least, of a row whose largest is known.
  float least(const CodedQuery &query, int64_t row, float largest) const {
    const int64_t b = row / kCodeBlock, j = row % kCodeBlock;
    return largest - 2 * off(query, codes.rests(b)[j], codes.sizes(b)[j], codes.norms(b)[j]);
  }

  // Candidates: the rows whose score may be `floor` or more. False where they are too many, or their bounds no numbers.
  bool collect(const CodedQuery &query, float floor, Choice &c) const {
    const int64_t most = Choice::most_candidates(c.n, topk);
    int64_t count = 0;
    for (int64_t first = 0; first < c.n; first += kCodeBlock) {
      for (int64_t j = 0; j < kCodeBlock; j += kWidth) {
        const ints may = ~(ints)(load(c.score + first + j) < floor);
        if (!any(may)) continue;
        for (int l = 0; l < kWidth; ++l) {
          c.candidates[count] = static_cast<int32_t>(first + j + l);
          count -= may[l];
        }
      }
      if (first + kCodeBlock > c.n) // what lies behind the last row
        while (count > 0 && c.candidates[count - 1] >= c.n) --count;
      if (count > most) return false;
    }
    float bad = 0;
    for (int64_t i = 0; i < count; ++i) {
      c.upper[i] = c.score[c.candidates[i]];
      c.lower[i] = least(query, c.candidates[i], c.upper[i]);
      bad += (c.lower[i] - c.lower[i]) + (c.upper[i] - c.upper[i]);
    }
    c.n_candidates = count;
    return bad == 0;
  }

  // By the bounds alone: which rows may be among the best `topk`, and which must be. Decides nothing where these are too many.
  void narrow(const CodedQuery &query, Choice &c) const {
    constexpr int64_t kSample = 1024; // rows that say from which score on a row is worth a look
    const int64_t sample = min(kSample, c.n);
    float largest[kSample];
    for (int64_t i = 0; i < sample; ++i) largest[i] = c.score[i * c.n / sample];
    const double expected = static_cast<double>(topk * sample) / static_cast<double>(c.n);
    int64_t rank = static_cast<int64_t>(expected + 3 * std::sqrt(expected)) + 2;
    for (int64_t sure = 0; sure < topk; rank *= 2) {
      float floor = -std::numeric_limits<float>::infinity();
      if (rank < sample) { // what the row of this rank reaches at least
        const int32_t order = kth_largest(largest, sample, rank);
        const int64_t at = std::find_if(largest, largest + sample, [order](float x) { return order_of(x) == order; }) - largest;
        floor = least(query, at * c.n / sample, largest[at]);
      }
      if (!collect(query, floor, c)) return;
      sure = std::count_if(c.lower, c.lower + c.n_candidates, [floor](float l) { return l >= floor; });
    }
    // topk rows reach `enough` for sure, and no more than topk can exceed `most`.
    const int32_t enough = kth_largest(c.lower, c.n_candidates, topk);
    const int32_t most = c.n_candidates > topk ? kth_largest(c.upper, c.n_candidates, topk + 1) : std::numeric_limits<int32_t>::min();
    int64_t kept = 0;
    c.n_open = 0;
    for (int64_t i = 0; i < c.n_candidates; ++i) {
      const int32_t row = c.candidates[i];
      const bool may = order_of(c.upper[i]) >= enough, must = order_of(c.lower[i]) > most;
      c.candidates[kept] = must ? ~row : row;
      kept += may;
      c.open[c.n_open] = row;
      c.n_open += may && !must;
    }
    c.n_candidates = kept;
    c.decided = true;
  }

  // Positions of the best topk, ascending, from the candidates and the float32 scores of those that were open.
  void decide(const Choice &c, int32_t *chosen) const {
    const int64_t wanted = topk - (c.n_candidates - c.n_open);
    int32_t *picked = c.picked;
    if (wanted > 0 && wanted < c.n_open) choose_top(c.open_score, c.n_open, wanted, picked);
    int32_t number = 0;
    const int32_t *const end = c.candidates + c.n_candidates;
    for (const int32_t *candidate = c.candidates; candidate != end; ++candidate) {
      if (*candidate < 0) {
        *chosen++ = ~*candidate;
        continue;
      }
      const bool all = wanted == c.n_open, is = all || (wanted > 0 && picked - c.picked < wanted && *picked == number);
      picked += !all && is;
      ++number;
      if (is) *chosen++ = *candidate;
    }
  }

  // Tokens [t, t + count): chosen[i * topk ..] gets the positions for token t + i, where more than topk rows lie before and at it.
  void choose(pangu_pool *pool, int64_t before, int64_t t, int64_t count, Choice *choices, int32_t *chosen) const {
    const int64_t n = before + t + count, floats = (turned_size() * 4 + 63) / 64 * 64;
    const bool by_codes = codes.memory != nullptr && codes.rows() >= n;
    const int64_t bytes = (floats + (by_codes ? CodedQuery::bytes(lanes(), heads, width) : 0) + 63) / 64 * 64;
    uint8_t *const turned = static_cast<uint8_t *>(linear_scratch(count * bytes));
    CodedQuery queries[kScoreRows];
    parallel(pool, count, 4 * lanes() * width, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        choices[i].n = before + t + i + 1;
        choices[i].decided = false;
        turn_queries(t + i, reinterpret_cast<float *>(turned + i * bytes));
        if (by_codes) queries[i] = CodedQuery(q + (t + i) * heads * width, w + (t + i) * heads, scale, heads, lanes(), kScanGroup, codes, turned + i * bytes + floats);
      }
    });
    if (by_codes) score_by_codes(pool, n, count, queries, choices);
    for (int64_t i = 0; i < count; ++i)
      if (Choice &c = choices[i]; c.decided)
        score_rows(pool, c.n_open, 1, turned + i * bytes, bytes, [&c](int64_t j) { return int64_t{c.open[j]}; }, [&c](int64_t) { return c.open_score; });
    const auto left = [this](const Choice &c) { return !c.decided && c.n > topk; };
    if (std::any_of(choices, choices + count, left))
      score_rows(pool, n, count, turned, bytes, [](int64_t j) { return j; }, [&](int64_t i) { return left(choices[i]) ? choices[i].score : nullptr; });
    parallel(pool, count, 32 * n, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (choices[i].n <= topk) continue;
        if (choices[i].decided) decide(choices[i], chosen + i * topk);
        else choose_top(choices[i].score, choices[i].n, topk, chosen + i * topk);
      }
    });
  }

private:
  static constexpr int64_t kAhead = 24; // rows listed behind a block: three tiles at most

  // Float32 scores of rows row_of(0) .. row_of(n - 1) for `count` queries; score_of(i): where those of query i go, or null.
  template <class RowOf, class Score>
  void score_rows(pangu_pool *pool, int64_t n, int64_t count, const uint8_t *turned, int64_t stride, const RowOf &row_of, const Score &score_of) const {
    parallel(pool, (n + kCodeBlock - 1) / kCodeBlock, count * kCodeBlock * heads * width / 4, [&](int64_t begin, int64_t end) {
      const float *rows[kCodeBlock + kAhead];
      for (int64_t b = begin; b < end; ++b) {
        const int64_t from = b * kCodeBlock, known = min(kCodeBlock + kAhead, n - from);
        for (int64_t j = 0; j < known; ++j) rows[j] = keys + row_of(from + j) * width;
        for (int64_t i = 0; i < count; ++i)
          if (float *const score = score_of(i)) score_block(reinterpret_cast<const float *>(turned + i * stride), min(kCodeBlock, n - from), known, rows, score + from);
      }
    });
  }

  // Scores by codes, raised to their bounds, and what these decide.
  void score_by_codes(pangu_pool *pool, int64_t n, int64_t count, const CodedQuery *queries, Choice *choices) const {
    parallel(pool, (n + kCodeBlock - 1) / kCodeBlock, count * kCodeBlock * heads * width / 8, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        for (int64_t i = 0; i < count; ++i) {
          float *const score = choices[i].score + b * kCodeBlock;
          code_block(queries[i], codes.codes(b), codes.steps(b), score);
          raise(queries[i], b, score);
        }
    });
    parallel(pool, count, 4 * n, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        if (choices[i].n > topk) narrow(queries[i], choices[i]);
    });
  }
};

} // namespace pangu
