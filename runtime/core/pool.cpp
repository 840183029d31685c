// pool.cpp: the work-sharing pool behind pangu_parallel_for. Workers spin briefly for the next job, then sleep.
#include "pool.h"

#include "error.h"

#include <algorithm>
#include <system_error>

namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr int kSpins = 4000;
constexpr int64_t kRangesPerThread = 2; // enough to even out, few enough for long reads
constexpr uint64_t kTaken = 0xFFFFFFFFu; // the lower half of `open_`

// How many ranges: of few grains rather one for each thread than some of twice the size (6 grains of heads on 2 threads:
// 3 and 3, not 1, 2, 1, 2).
int64_t even_ranges(int64_t grains, int64_t threads) {
  const int64_t most = kRangesPerThread * threads;
  if (grains <= 4 * most)
    for (int64_t ranges = most; ranges >= threads; ranges -= threads)
      if (grains % ranges == 0) return ranges;
  return std::min(grains, most);
}

} // namespace

pangu_pool::pangu_pool(int threads) : threads_(std::max(1, threads)) {
  try {
    workers_.reserve(static_cast<size_t>(threads_));
    for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error &error) {
    join(); // a joinable thread must not be destroyed
    throw pangu_core::Error(PANGU_NO_MEMORY, "cannot start " + std::to_string(threads_) + " threads (" + error.what() +
                                                 "); open the model with fewer threads");
  }
}

pangu_pool::~pangu_pool() { join(); }

void pangu_pool::join() {
  {
    std::lock_guard<std::mutex> hold(sleep_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread &worker : workers_) worker.join();
}

// Takes one range of the current job and computes it; false where there is none.
bool pangu_pool::take(int worker) {
  uint64_t open = open_.load(std::memory_order_acquire);
  do {
    if ((open & kTaken) == 0) return false;
  } while (!open_.compare_exchange_weak(open, open - 1, std::memory_order_acq_rel, std::memory_order_acquire));
  const int64_t grains = (n_ + grain_ - 1) / grain_, i = ranges_ - static_cast<int64_t>(open & kTaken);
  const int64_t begin = grains * i / ranges_ * grain_, end = std::min(n_, grains * (i + 1) / ranges_ * grain_);
  if (begin < end) body_(arg_, begin, end, worker);
  done_.fetch_add(1, std::memory_order_release);
  return true;
}

void pangu_pool::work(int worker) {
  for (int spins = 0;;) {
    if (take(worker)) {
      spins = 0;
      continue;
    }
    if (++spins < kSpins) {
      relax();
      continue;
    }
    std::unique_lock<std::mutex> hold(sleep_);
    sleepers_.fetch_add(1);
    // open_ is looked at after the sleeper is counted, and the caller looks for sleepers after it has opened a job.
    wake_.wait(hold, [&] { return stop_ || (open_.load() & kTaken) != 0; });
    sleepers_.fetch_sub(1);
    if (stop_) return;
    spins = 0;
  }
}

void pangu_pool::run(int64_t n, int64_t grain, void (*body)(void *, int64_t, int64_t, int32_t), void *arg) {
  if (n <= 0) return;
  grain = std::max<int64_t>(1, grain);
  if (threads_ == 1 || n <= grain) return body(arg, 0, n, 0);
  n_ = n, grain_ = grain, body_ = body, arg_ = arg;
  ranges_ = even_ranges((n + grain - 1) / grain, threads_);
  done_.store(0, std::memory_order_relaxed);
  open_.store(((open_.load(std::memory_order_relaxed) >> 32) + 1) << 32 | static_cast<uint64_t>(ranges_));
  if (sleepers_.load() > 0) {
    { std::lock_guard<std::mutex> hold(sleep_); }
    wake_.notify_all();
  }
  while (take(0)) {
  }
  for (int spins = 0; done_.load(std::memory_order_acquire) != ranges_; ++spins)
    spins < kSpins ? relax() : std::this_thread::yield();
}

extern "C" void pangu_parallel_for(pangu_pool *pool, int64_t n, int64_t grain,
                                   void (*body)(void *, int64_t, int64_t, int32_t), void *arg) {
  if (pool == nullptr) {
    if (n > 0) body(arg, 0, n, 0);
    return;
  }
  pool->run(n, grain, body, arg);
}

extern "C" int32_t pangu_pool_threads(const pangu_pool *pool) { return pool == nullptr ? 1 : pool->threads(); }
