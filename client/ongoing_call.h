// A Put or Get on a thread of the client's, seen from the thread that began it.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/call_control.h"
#include "client/call_threads.h"
#include "client/kvstow/client.h"

namespace kvstow::client {

// `Base` is OngoingPut or OngoingGet. Thread-safe.
template <typename Base, typename Result>
class OngoingCall final : public Base {
 public:
  using Work = std::function<Result(CallControl*)>;
  using OnDone = std::function<void(const Result&)>;

  // `keep` lives as long as the call's owner keeps this; `shed` is the result when the threads are
  // too busy to ever begin.
  OngoingCall(std::shared_ptr<void> keep, CallThreads& threads, Work work, OnDone on_done,
              Result shed)
      : keep_(std::move(keep)), work_(std::move(work)), on_done_(std::move(on_done)) {
    if (!threads.Run([this] { End(work_(&control_)); })) End(std::move(shed));
  }
  // The thread must be done with this, and the owner's memory is its own again.
  ~OngoingCall() override { Cancel(); }

  bool done() const override {
    absl::MutexLock lock(&mu_);
    return done_;
  }
  const Result& Wait() override {
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&done_));
    return result_;
  }
  void Cancel() override {
    control_.Cancel();
    Wait();
  }
  // Of OngoingPut.
  void LayerReady(uint32_t layer) { control_.AllowLayer(layer); }

 private:
  void End(Result result) {
    if (on_done_) on_done_(result);
    absl::MutexLock lock(&mu_);
    result_ = std::move(result);
    done_ = true;  // from here on the owner may destroy this, once the lock is free
  }

  const std::shared_ptr<void> keep_;
  const Work work_;
  const OnDone on_done_;
  CallControl control_;
  mutable absl::Mutex mu_;
  Result result_ ABSL_GUARDED_BY(mu_);
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace kvstow::client
