// How long calls take while several clients make them without pause. For benchmarks.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

namespace kvstow::testing {

// Seconds of each call, ascending. Every client has a thread of its own, on which `connect` makes
// what one call of it is.
inline std::vector<double> Latencies(size_t clients, double seconds,
                                     const std::function<std::function<void()>()>& connect) {
  using Clock = std::chrono::steady_clock;
  std::vector<std::vector<double>> took(clients);
  std::vector<std::thread> threads;
  for (size_t c = 0; c < clients; ++c) {
    threads.emplace_back([&, c] {
      const std::function<void()> call = connect();
      for (const auto end = Clock::now() + std::chrono::duration<double>(seconds);
           Clock::now() < end;) {
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
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace kvstow::testing
