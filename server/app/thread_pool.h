// The executor of a running daemon: a fixed number of threads over one queue a priority.
//
// Thread-safe. Work still queued when the pool is destroyed is run first: what was scheduled holds
// reservations, pins and calls that must be let go in order.
#pragma once

#include <array>
#include <cstddef>
#include <deque>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/core/executor.h"

namespace kvstow {

class ThreadPool final : public Executor {
 public:
  // `niceness` is added to that of the thread that makes the pool: above 0, other threads of the
  // machine go first.
  explicit ThreadPool(size_t threads, int niceness = 0);
  ~ThreadPool() override;

  void Schedule(WorkPriority priority, absl::AnyInvocable<void()> work) override;
  size_t concurrency() const override { return threads_.size(); }
  size_t queue_depth() const override;

  // Blocks until nothing is queued and nothing runs.
  void Drain();

 private:
  static constexpr size_t kPriorities = 3;
  void Run(int niceness);
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mu_) { return queued_ > 0; }
  bool IsIdle() const ABSL_SHARED_LOCKS_REQUIRED(mu_) { return queued_ == 0 && running_ == 0; }
  bool ShouldWake() const ABSL_SHARED_LOCKS_REQUIRED(mu_) { return stopping_ || HasWork(); }
  absl::AnyInvocable<void()> PopWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable absl::Mutex mu_;
  std::array<std::deque<absl::AnyInvocable<void()>>, kPriorities> queues_ ABSL_GUARDED_BY(mu_);
  size_t queued_ ABSL_GUARDED_BY(mu_) = 0;
  size_t running_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace kvstow
