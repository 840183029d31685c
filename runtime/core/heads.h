// heads.h: how far each MTP head has come, and the hidden rows that they read from one another.
#pragma once

#include "pages.h"

#include <vector>

namespace pangu_core {

// Rows are counted as in a head's own states: row i of head j reads row i of the level below (level 0 is the trunk, level j head
// j) and the token of position i + j.
//
// Heads follow the trunk where drafts need them. A head with an append cache sees every row, so it and those below it miss none. The heads
// above are windowed: what one of them computes depends only on its look-back, the rows that its rings hold together (a chain of
// dependencies passes each ring once). One that has fallen further behind jumps ahead, and its outputs are exact one look-back
// later, so the head below it must begin a look-back earlier. Row numbers keep counting across a jump.
class Heads {
public:
  Heads(const pangu_generated_model_desc &tables, int count, int64_t max_context);

  int complete() const { return complete_; } // heads up to this one miss no row
  int64_t rows(int head) const { return rows_[static_cast<size_t>(head)]; } // the next row of the head
  void set_rows(int head, int64_t rows) { rows_[static_cast<size_t>(head)] = rows; }
  // The trunk holds `length` tokens, and heads 1 .. count are about to draft: where each of the windowed ones goes on.
  void aim(int count, int64_t length);
  void rollback(int64_t length); // a row stands if it read tokens that are kept
  void reset();

  float *hidden(int level, int64_t row) const;
  int64_t kept(int level) const { return kept_[static_cast<size_t>(level)]; } // rows; a ring
  int levels() const { return static_cast<int>(hidden_.size()); }

  std::vector<int64_t> counts() const; // what a saved session holds of rows and beginnings
  void restore(const std::vector<int64_t> &counts);

private:
  bool exact_from(int head, int64_t row) const;

  const int count_;
  const int64_t width_, lead_; // lead: rows that a level may be ahead of its reader
  int complete_ = 0;
  std::vector<int64_t> look_back_; // [head]
  std::vector<int64_t> rows_, begun_; // [head]: its next row; the row of its last jump, 0: it has seen all
  std::vector<int64_t> kept_;         // [level]
  std::vector<Pages> hidden_;         // [level]: ring of hidden rows
};

} // namespace pangu_core
