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

  // body over [0, n) on all threads, the caller included; returns when every range is done.
  void run(int64_t n, int64_t grain, void (*body)(void *, int64_t, int64_t, int32_t), void *arg);

private:
  void work(int worker);
  void run_range(int worker);
  void join();

  const int threads_;
  std::vector<std::thread> workers_;
  std::mutex sleep_;
  std::condition_variable wake_;
  alignas(64) std::atomic<uint64_t> generation_{0};
  alignas(64) std::atomic<int> pending_{0};
  bool stop_ = false;
  int64_t n_ = 0, grain_ = 1;
  void (*body_)(void *, int64_t, int64_t, int32_t) = nullptr;
  void *arg_ = nullptr;
};
