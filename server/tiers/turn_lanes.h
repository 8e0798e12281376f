// Turns at a device: a few lanes, each of which has one turn at a time run on the executor, in
// order of arrival. Calls make their turns short and come again for more, so that one with a slow
// client holds up nobody.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <deque>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "server/core/executor.h"

namespace kvstow {

class TurnLanes {
 public:
  // The executor outlives it.
  TurnLanes(Executor* executor, WorkPriority priority, size_t lanes)
      : executor_(*executor), priority_(priority), lanes_(lanes) {}

  size_t size() const { return lanes_; }
  void Schedule(absl::AnyInvocable<void()> turn) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void RunNext() ABSL_LOCKS_EXCLUDED(mu_);

  Executor& executor_;
  const WorkPriority priority_;
  const size_t lanes_;
  absl::Mutex mu_;
  size_t running_ ABSL_GUARDED_BY(mu_) = 0;  // lanes in use
  size_t coming_ ABSL_GUARDED_BY(mu_) = 0;   // of them those that have still to take a turn
  std::deque<absl::AnyInvocable<void()>> waiting_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
