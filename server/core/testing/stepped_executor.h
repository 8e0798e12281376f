// An executor that runs nothing until a test says so. Not thread-safe.
#pragma once

#include <array>
#include <deque>
#include <utility>

#include "server/core/executor.h"

namespace kvstow {

class SteppedExecutor : public Executor {
 public:
  void Schedule(WorkPriority priority, absl::AnyInvocable<void()> work) override {
    queues_[static_cast<size_t>(priority)].push_back(std::move(work));
  }
  size_t concurrency() const override { return 4; }
  size_t queue_depth() const override {
    size_t depth = 0;
    for (const auto& queue : queues_) depth += queue.size();
    return depth;
  }

  // Runs the first of the most urgent; false when there is none.
  bool Step() {
    for (auto& queue : queues_) {
      if (queue.empty()) continue;
      auto work = std::move(queue.front());
      queue.pop_front();
      work();
      return true;
    }
    return false;
  }
  void RunAll() {
    while (Step()) {
    }
  }

 private:
  std::array<std::deque<absl::AnyInvocable<void()>>, 3> queues_;
};

}  // namespace kvstow
