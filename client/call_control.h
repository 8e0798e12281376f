// How a call on one thread is given up from another.
//
// Thread-safe.
#pragma once

#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/deadline.h"

namespace kvstow::client {

class CallControl {
 public:
  // Ends what is under way, and keeps the call from beginning anything else.
  void Cancel() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    cancelled_ = true;
    if (end_) end_();
  }
  bool cancelled() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return cancelled_;
  }

  // The call can be ended by `end`, from any thread, until Disarm(). `end` must be quick.
  void Arm(std::function<void()> end) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    end_ = std::move(end);
    if (cancelled_) end_();
  }
  void Disarm() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    end_ = nullptr;
  }

  // Layers up to this one may be sent.
  void AllowLayer(uint32_t layer) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (layer + int64_t{1} > allowed_) allowed_ = layer + int64_t{1};
  }
  bool LayerAllowed(uint32_t layer) const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return layer < allowed_;
  }
  // Waits for a layer. False when the call was given up or the deadline came first.
  bool AwaitLayer(uint32_t layer, const Deadline& deadline) const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    const auto decided = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return cancelled_ || layer < allowed_;
    };
    mu_.AwaitWithTimeout(absl::Condition(&decided), deadline.remaining());
    return !cancelled_ && layer < allowed_;
  }

 private:
  mutable absl::Mutex mu_;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  int64_t allowed_ ABSL_GUARDED_BY(mu_) = 0;  // layers below it
  std::function<void()> end_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow::client
