// A bound on bytes in flight. Work already admitted may go over it by what it had begun; new work
// waits or is refused.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"

namespace kvstow {

class ByteBudget {
 public:
  explicit ByteBudget(uint64_t limit) : limit_(limit) {}

  // False, and nothing taken, when it would pass the limit; a single piece of work larger than the
  // limit passes when nothing else is in flight, lest it wait for ever.
  bool TryTake(uint64_t bytes);
  // Takes whatever the limit says.
  void Take(uint64_t bytes);
  void Give(uint64_t bytes);

  bool below_limit() const;
  uint64_t used() const;
  uint64_t limit() const { return limit_; }

  // Calls `resume` once usage is below the limit: now, on this stack, when it already is; else on
  // that of the Give that brought it there.
  void WhenBelowLimit(absl::AnyInvocable<void()> resume);

 private:
  const uint64_t limit_;
  mutable absl::Mutex mu_;
  uint64_t used_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<absl::AnyInvocable<void()>> waiting_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
