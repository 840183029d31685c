// placement.cpp: how long a cache line takes from one thread to the other and back, in nanoseconds, again and again. Two processors
// of a virtual machine may be one core's threads, neighbours, or far apart, and change from one second to the next.
// g++ -O2 -pthread benchmarks/placement.cpp -o placement && ./placement [SAMPLES]

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace {

double round_trip(long trips) {
  alignas(64) std::atomic<long> turn{0};
  std::thread other([&] {
    for (long i = 0; i < trips; ++i) {
      while (turn.load(std::memory_order_acquire) != 2 * i + 1) {
      }
      turn.store(2 * i + 2, std::memory_order_release);
    }
  });
  const auto begin = std::chrono::steady_clock::now();
  for (long i = 0; i < trips; ++i) {
    turn.store(2 * i + 1, std::memory_order_release);
    while (turn.load(std::memory_order_acquire) != 2 * i + 2) {
    }
  }
  const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - begin;
  other.join();
  return taken.count() / static_cast<double>(trips);
}

} // namespace

int main(int argc, char **argv) {
  const int samples = argc > 1 ? std::atoi(argv[1]) : 10;
  for (int i = 0; i < samples; ++i) {
    std::printf("%.0f\n", round_trip(20000));
    std::fflush(stdout);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}
