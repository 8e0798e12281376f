// Where codec work and copies run, so that transport threads never block. Tests step it by hand.
#pragma once

#include <cstddef>

#include "absl/functional/any_invocable.h"

namespace kvstow {

// What a request waits for goes first.
enum class WorkPriority { kGet = 0, kPut = 1, kBackground = 2 };

class Executor {
 public:
  virtual ~Executor() = default;
  // Runs `work` later on some worker, within a priority in order of arrival. Never runs it on the
  // caller's stack, never refuses: callers bound what they have in flight (InflightBudget).
  // Thread-safe.
  virtual void Schedule(WorkPriority priority, absl::AnyInvocable<void()> work) = 0;
  // How many pieces of work can run at once.
  virtual size_t concurrency() const = 0;
  // Scheduled and not yet begun.
  virtual size_t queue_depth() const = 0;
};

}  // namespace kvstow
