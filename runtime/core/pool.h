// pool.h: a pool of threads that belongs to one session (one caller at a time).
#pragma once

#include "pangu_abi.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

struct pangu_pool {
  explicit pangu_pool(int threads);
  ~pangu_pool();
  pangu_pool(const pangu_pool &) = delete;
  pangu_pool &operator=(const pangu_pool &) = delete;

  int threads() const { return threads_; }

  // body over [0, n) on all threads, the caller included; returns when every range is done. The ranges are handed out one
  // after the other to whoever is free, so a thread that the system has put aside holds nobody up: which thread computes
  // what depends on timing, what is computed does not (a body's result must not depend on its range).
  void run(int64_t n, int64_t grain, void (*body)(void *, int64_t, int64_t, int32_t), void *arg);

private:
  void work(int worker);
  bool take(int worker);
  void join();

  const int threads_;
  std::vector<std::thread> workers_;
  std::mutex sleep_;
  std::condition_variable wake_;
  // Job number in the upper half, ranges not yet taken in the lower: a range is taken by counting down, which succeeds
  // only while its own job lasts, so the fields below are read only while they cannot change.
  alignas(64) std::atomic<uint64_t> open_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  bool stop_ = false;
  int64_t n_ = 0, grain_ = 1, ranges_ = 0;
  void (*body_)(void *, int64_t, int64_t, int32_t) = nullptr;
  void *arg_ = nullptr;
};
