// Threads for the calls that a worker does not wait for. Each runs one call at a time from its
// beginning to its end; calls beyond that wait in line.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <thread>
#include <utility>
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

  // Names a call that waits in line. None when too many wait already; then `call` is not run.
  using Ticket = uint64_t;
  std::optional<Ticket> Run(std::function<void()> call) ABSL_LOCKS_EXCLUDED(mu_);
  // Takes a call out of the line, never to be run. False when it has begun.
  bool Withdraw(Ticket ticket) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Loop();

  const size_t max_threads_, max_waiting_;
  absl::Mutex mu_;
  std::deque<std::pair<Ticket, std::function<void()>>> waiting_ ABSL_GUARDED_BY(mu_);
  Ticket next_ticket_ ABSL_GUARDED_BY(mu_) = 0;
  size_t idle_ ABSL_GUARDED_BY(mu_) = 0;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow::client
