// Threads for the calls that a worker does not wait for. Each runs one call at a time from its
// beginning to its end; calls beyond that wait in line.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace kvstow::client {

class CallThreads {
 public:
  // Threads are started when there is a call for them.
  CallThreads(size_t max_threads, size_t max_waiting)
      : max_threads_(max_threads), max_waiting_(max_waiting) {}
  // All calls must have ended. Not on one of the threads.
  ~CallThreads();

  // False when too many wait already; then `call` is not run.
  bool Run(std::function<void()> call) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Loop();

  const size_t max_threads_, max_waiting_;
  absl::Mutex mu_;
  std::deque<std::function<void()>> waiting_ ABSL_GUARDED_BY(mu_);
  size_t idle_ ABSL_GUARDED_BY(mu_) = 0;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow::client
