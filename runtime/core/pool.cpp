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
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  for (std::thread &worker : workers_) worker.join();
}

void pangu_pool::run_range(int worker) {
  // Equal contiguous shares in multiples of the grain: which thread computes what never depends on timing.
  const int64_t grains = (n_ + grain_ - 1) / grain_;
  const int64_t begin = grains * worker / threads_ * grain_;
  const int64_t end = std::min(n_, grains * (worker + 1) / threads_ * grain_);
  if (begin < end) body_(arg_, begin, end, worker);
}

void pangu_pool::work(int worker) {
  uint64_t seen = 0;
  for (;;) {
    int spins = 0;
    while (generation_.load(std::memory_order_acquire) == seen && spins < kSpins) relax(), ++spins;
    if (generation_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> hold(sleep_);
      wake_.wait(hold, [&] { return generation_.load(std::memory_order_acquire) != seen; });
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    run_range(worker);
    pending_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

void pangu_pool::run(int64_t n, int64_t grain, void (*body)(void *, int64_t, int64_t, int32_t), void *arg) {
  if (n <= 0) return;
  grain = std::max<int64_t>(1, grain);
  if (threads_ == 1 || n <= grain) return body(arg, 0, n, 0);
  n_ = n, grain_ = grain, body_ = body, arg_ = arg;
  pending_.store(threads_ - 1, std::memory_order_relaxed);
  {
    std::lock_guard<std::mutex> hold(sleep_);
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  run_range(0);
  for (int spins = 0; pending_.load(std::memory_order_acquire) != 0; ++spins)
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
