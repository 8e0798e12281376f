// A stream's rule: start operations only while it is open, finish it exactly once. gRPC 1.51 hangs
// on shutdown when a reactor never finishes and crashes when one finishes twice; cancellation, a
// stalled reader and shutdown may each want to be the one.
//
// Thread-safe.
#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace kvstow {

class FinishOnce {
 public:
  // Runs `start` unless the stream has finished. False when it has.
  template <typename F>
  bool IfOpen(F&& start) {
    absl::MutexLock lock(&mu_);
    if (finished_) return false;
    start();
    return true;
  }
  // Runs `finish`, the first time it is asked to.
  template <typename F>
  bool Finish(F&& finish) {
    absl::MutexLock lock(&mu_);
    if (finished_) return false;
    finished_ = true;
    finish();
    return true;
  }
  bool is_open() {
    absl::MutexLock lock(&mu_);
    return !finished_;
  }
  // The stream is done: its context is gone from here on.
  void MarkDone() {
    absl::MutexLock lock(&mu_);
    done_ = true;
  }
  // Runs `f` while the stream's context is still there, finished or not.
  template <typename F>
  void IfNotDone(F&& f) {
    absl::MutexLock lock(&mu_);
    if (!done_) f();
  }

 private:
  absl::Mutex mu_;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace kvstow
