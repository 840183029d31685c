// pangu_fused.h: what the kernels of fused operators share: scratch, small parallel regions, several products at once.
#pragma once

namespace pangu {

// Up to so many tokens the steps of an operator are joined into few parallel regions (decoding, verification of drafts);
// beyond, every product is a blocked one of its own. Both compute an element by the same operations.
constexpr int64_t kFewTokens = 8;
// So many weights come from the caches, so that every thread may read all of them.
constexpr int64_t kNearWeights = 192 * 1024;

// Scratch that the plan gave to one kernel, handed out from the front. Running out is a fault of the plan
// (compiler/plan/workspace.py): stopping here is better than writing over another buffer.
struct Workspace {
  uint8_t *at, *end;

  template <class T> T *take(int64_t n) {
    T *p = reinterpret_cast<T *>(at);
    at += (n * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    if (at > end) __builtin_trap();
    return p;
  }

  // The i-th of n equal parts of what is left.
  Workspace part(int64_t i, int64_t n) const {
    const int64_t bytes = (end - at) / n / 64 * 64;
    return {at + i * bytes, at + (i + 1) * bytes};
  }
};

// What a session keeps for kernels beside its states (pangu_abi.h: derived), by the state that it belongs to.
struct Kept {
  int n = 0;
  const void *const *state = nullptr;
  uint8_t *const *memory = nullptr;

  uint8_t *of(const void *rows) const { // null: nothing is kept for them
    for (int i = 0; memory != nullptr && i < n; ++i)
      if (state[i] == rows) return memory[i];
    return nullptr;
  }
};

// One product of a joined region: y[t, o] = x[t] . w[o].
struct Job {
  int64_t O, I;
  const float *x;
  int64_t x_stride;
  Weight w;
  float *y;
  int64_t y_stride;
};

constexpr int64_t kSlices = 512;

// Rows of a job that lie in [from, to) of the cost of all jobs, whose own cost begins at `before`; multiples of 16 rows.
inline int64_t job_row(const Job &job, int64_t before, int64_t cost) {
  const int64_t row = (cost - before) / max<int64_t>(job.I, 1) / 16 * 16;
  return cost >= before + job.O * job.I ? job.O : max<int64_t>(0, min(row, job.O));
}

// Products of the same few tokens with several matrices in one region, split by cost.
template <int N> inline void linear_together(pangu_pool *pool, int64_t T, const Job (&jobs)[N], Workspace &work) {
  if (T > kFewTokens) {
    for (const Job &j : jobs)
      if (j.O > 0) linear(pool, T, j.O, j.I, j.x, j.x_stride, j.w, j.y, j.y_stride);
    return;
  }
  Rows rows[N];
  int64_t total = 0;
  for (int i = 0; i < N; ++i) {
    if (jobs[i].O == 0) continue;
    total += jobs[i].O * jobs[i].I;
    const bool shared = i > 0 && jobs[i].x == jobs[i - 1].x && jobs[i].w.format == jobs[i - 1].w.format && jobs[i - 1].O > 0;
    rows[i] = shared ? rows[i - 1]
                     : prepare_rows(nullptr, jobs[i].w.format, T, jobs[i].I, jobs[i].x, jobs[i].x_stride,
                                    work.take<uint8_t>(rows_bytes(jobs[i].w.format, T, jobs[i].I)));
  }
  parallel(pool, kSlices, T * total / kSlices + 1, [&](int64_t begin, int64_t end) {
    const int64_t from = total * begin / kSlices, to = total * end / kSlices;
    int64_t before = 0;
    for (int i = 0; i < N; ++i) {
      const Job &j = jobs[i];
      const int64_t first = job_row(j, before, from), last = job_row(j, before, to);
      if (first < last) linear_rows(T, first, last, j.I, rows[i], j.w, j.y, j.y_stride);
      before += j.O * j.I;
    }
  });
}

// body(token) for every token: on the caller where there are few, else shared.
template <class Body> inline void each_token(pangu_pool *pool, int64_t T, int64_t work, const Body &body) {
  if (T <= 2) {
    for (int64_t t = 0; t < T; ++t) body(t);
    return;
  }
  parallel(pool, T, work, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) body(t);
  });
}

// Of a small operator, threads take tokens instead of rows of its weights: each of them reads all weights (so many), but there is one
// region, and nothing that the caller does alone. In how many shares; 1 where it does not pay.
inline int64_t token_shares(const pangu_pool *pool, int64_t T, int64_t weights) {
  if (T > kFewTokens || weights > kNearWeights || T * weights < kSerialWork) return 1;
  return min<int64_t>(T, pangu_pool_threads(pool));
}

// body(share, first, count): tokens [first, first + count) of every share.
template <class Body> inline void share_tokens(pangu_pool *pool, int64_t T, int64_t shares, const Body &body) {
  parallel(pool, shares, kSerialWork, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i, T * i / shares, T * (i + 1) / shares - T * i / shares);
  });
}

inline int64_t modulo(int64_t a, int64_t n) {
  const int64_t r = a % n;
  return r < 0 ? r + n : r;
}

} // namespace pangu
