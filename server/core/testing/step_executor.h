// An executor that runs nothing by itself: tests step it. Thread-safe.
#pragma once

#include <deque>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/core/executor.h"

namespace kvstow {

class StepExecutor : public Executor {
 public:
  // How many threads it says that it has.
  explicit StepExecutor(size_t concurrency = 1) : concurrency_(concurrency) {}

  void Schedule(WorkPriority priority, absl::AnyInvocable<void()> work) override {
    absl::MutexLock lock(&mu_);
    queues_[priority].push_back(std::move(work));
    ++queued_;
  }
  size_t concurrency() const override { return concurrency_; }
  size_t queue_depth() const override {
    absl::MutexLock lock(&mu_);
    return queued_;
  }

  // The piece of work that is next, or the last of its kind, on the caller's stack. False when
  // there is none.
  bool RunOne(bool last = false) {
    absl::AnyInvocable<void()> work = Pop(last);
    if (!work) return false;
    work();
    return true;
  }
  // Also what is scheduled meanwhile.
  void RunAll() {
    while (RunOne()) {
    }
  }
  void RunAllBackwards() {
    while (RunOne(/*last=*/true)) {
    }
  }

 private:
  absl::AnyInvocable<void()> Pop(bool last) {
    absl::MutexLock lock(&mu_);
    for (auto& [priority, queue] : queues_) {
      if (queue.empty()) continue;
      auto work = std::move(last ? queue.back() : queue.front());
      last ? queue.pop_back() : queue.pop_front();
      --queued_;
      return work;
    }
    return nullptr;
  }

  const size_t concurrency_;
  mutable absl::Mutex mu_;
  std::map<WorkPriority, std::deque<absl::AnyInvocable<void()>>> queues_ ABSL_GUARDED_BY(mu_);
  size_t queued_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace kvstow
