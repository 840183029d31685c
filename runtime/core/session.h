// session.h: one sequence: its tokens, its states, and the runs of the compiled programs over them.
#pragma once

#include "drafting.h"
#include "heads.h"
#include "model.h"
#include "pool.h"
#include "sampler.h"

#include <functional>
#include <memory>

struct pangu_session {
  pangu_session(pangu_model &model, const pangu_session_options &options);

  int64_t length() const { return static_cast<int64_t>(tokens_.size()); }
  void reset();
  void truncate(int64_t length);
  void prefill(const int64_t *tokens, int64_t n, int64_t chunk, bool all_logits, float *logits);
  void generate(const int64_t *prompt, int64_t n, const pangu_generate_options &options,
                const std::function<bool(int64_t)> &emit, pangu_generate_stats &stats);
  size_t saved_size() const;
  void save(uint8_t *out) const; // saved_size() bytes
  void restore(const uint8_t *data, size_t size);

private:
  using Draft = std::pair<int64_t, std::vector<double>>; // token, and its distribution when sampling

  void check_tokens(const int64_t *tokens, int64_t n) const;
  void run(const pangu_program_desc &program, const std::vector<int64_t> &dims, const std::vector<const void *> &in,
           const std::vector<void *> &out);
  void step(const int64_t *tokens, int64_t n, const std::vector<int64_t> &rows, float *logits);
  size_t write(uint8_t *out) const; // of the saved form without its digest; null: only the size
  void feed_head(int head, int64_t end, const std::vector<int64_t> &extra, float *logits);
  void feed_heads(int count);
  void flush_heads();
  void follow(int64_t count);
  int64_t heads_behind(int count) const;
  bool can_speculate(const pangu_core::Filter &filter);
  std::vector<int64_t> speculate(int64_t pending, const pangu_core::Filter &filter, const std::vector<double> &uniform);
  void check_finite(const float *logits) const;
  [[noreturn]] void not_finite(const char *what) const;
  void rollback(int64_t length);
  std::vector<Draft> propose(int64_t pending, int64_t count, const pangu_core::Filter &filter, const double *uniform);
  std::vector<int64_t> verify(int64_t pending, const std::vector<Draft> &drafts, const pangu_core::Filter &filter,
                              const double *uniform);
  int64_t choose(const float *logits, const pangu_core::Filter &filter, double uniform) const;

  pangu_model &model_;
  const pangu_generated_model_desc &tables_;
  const int64_t max_context_;
  const int heads_; // MTP heads in use
  // The programs of a whole step with drafts; null: the artifact has no such program, or not all heads are in use.
  const pangu_program_desc *const speculate_, *const speculate_sampled_;
  pangu_pool pool_;
  std::vector<pangu_core::Pages> states_;
  std::vector<void *> state_pointers_;
  std::vector<pangu_core::Pages> derived_;
  std::vector<uint8_t *> derived_pointers_;
  pangu_core::Pages arena_;
  std::vector<int64_t> tokens_;    // tokens that the trunk's states hold
  int64_t written_ = 0;            // positions below this were written to the rings since the last reset
  pangu_core::Heads following_{tables_, heads_, max_context_};
  std::vector<float> scratch_, rows_, logits_, carry_, levels_;
  pangu_core::Drafting drafting_;
};
