// How long calls take while several clients make them without pause. For benchmarks.
#pragma once

#include <chrono>
#include <functional>
#include <thread>
#include <vector>

namespace kvstow::testing {

// When calls begin and end, on the monotonic clock that all processes share.
struct Period {
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin, end;
};

// Seconds of each call. Every client has a thread of its own, on which `connect` makes what one
// call of it is, before the period begins if it is quick enough.
inline std::vector<double> Latencies(size_t clients, Period period,
                                     const std::function<std::function<void()>()>& connect) {
  using Clock = Period::Clock;
  std::vector<std::vector<double>> took(clients);
  std::vector<std::thread> threads;
  for (size_t c = 0; c < clients; ++c) {
    threads.emplace_back([&, c] {
      const std::function<void()> call = connect();
      std::this_thread::sleep_until(period.begin);
      while (Clock::now() < period.end) {
        const auto start = Clock::now();
        call();
        took[c].push_back(std::chrono::duration<double>(Clock::now() - start).count());
      }
    });
  }
  std::vector<double> all;
  for (size_t c = 0; c < clients; ++c) {
    threads[c].join();
    all.insert(all.end(), took[c].begin(), took[c].end());
  }
  return all;
}

}  // namespace kvstow::testing
