// A Put or Get on a thread of the client's, seen from the thread that began it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "client/call_control.h"
#include "client/call_threads.h"
#include "client/deadline.h"
#include "client/kvstow/client.h"

namespace kvstow::client {

// `Base` is OngoingPut or OngoingGet. Thread-safe.
template <typename Base, typename Result>
class OngoingCall : public Base {
 public:
  struct Plan {
    std::shared_ptr<void> keep;  // lives as long as the call's owner keeps it
    CallThreads& threads;
    Deadline deadline;
    std::function<Result(CallControl*)> work;
    std::function<Result(absl::Status)> unmade;  // of a call that never began
    std::function<void(const Result&)> on_done;
  };

  explicit OngoingCall(Plan plan) : plan_(std::move(plan)) {
    ticket_ = plan_.threads.Run([this] { End(plan_.work(&control_)); });
    if (!ticket_) {
      End(plan_.unmade(absl::ResourceExhaustedError("too many calls wait in line in this client")));
    }
  }
  // The thread must be done with this, and the owner's memory is its own again.
  ~OngoingCall() override { Cancel(); }

  bool done() const override {
    absl::MutexLock lock(&mu_);
    return done_;
  }
  const Result& Wait() override {
    if (!AwaitDone(plan_.deadline.remaining())) {
      Withdraw(absl::DeadlineExceededError("no thread was free before the deadline"));
    }
    AwaitDone(absl::InfiniteDuration());
    absl::MutexLock lock(&mu_);
    return result_;
  }
  void Cancel() override {
    control_.Cancel();
    Withdraw(absl::CancelledError("given up before it began"));
    AwaitDone(absl::InfiniteDuration());
  }

 protected:
  CallControl& control() { return control_; }

 private:
  bool AwaitDone(absl::Duration timeout) {
    absl::MutexLock lock(&mu_);
    return mu_.AwaitWithTimeout(absl::Condition(&done_), timeout);
  }
  // What still waits in line ends here: those before it may take their time.
  void Withdraw(absl::Status why) {
    if (ticket_ && plan_.threads.Withdraw(*ticket_)) End(plan_.unmade(std::move(why)));
  }
  void End(Result result) {
    if (plan_.on_done) plan_.on_done(result);
    absl::MutexLock lock(&mu_);
    result_ = std::move(result);
    done_ = true;  // from here on the owner may destroy this, once the lock is free
  }

  const Plan plan_;
  CallControl control_;
  std::optional<CallThreads::Ticket> ticket_;  // set before the owner has this
  mutable absl::Mutex mu_;
  Result result_ ABSL_GUARDED_BY(mu_);
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

class StartedPut final : public OngoingCall<OngoingPut, PutBlocksResult> {
 public:
  using OngoingCall::OngoingCall;
  void LayerReady(uint32_t layer) override { control().AllowLayer(layer); }
};
using StartedGet = OngoingCall<OngoingGet, GetBlocksResult>;

}  // namespace kvstow::client
