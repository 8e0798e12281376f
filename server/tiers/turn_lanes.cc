#include "server/tiers/turn_lanes.h"

#include <utility>

namespace kvstow {

void TurnLanes::Schedule(absl::AnyInvocable<void()> turn) {
  {
    absl::MutexLock lock(&mu_);
    waiting_.push_back(std::move(turn));
    if (running_ == lanes_) return;
    ++running_;
    ++coming_;
  }
  executor_.Schedule(priority_, [this] { RunNext(); });
}

void TurnLanes::RunNext() {
  absl::AnyInvocable<void()> turn;
  {
    absl::MutexLock lock(&mu_);
    --coming_;
    turn = std::move(waiting_.front());
    waiting_.pop_front();
  }
  turn();
  turn = nullptr;  // before the lane is free: it may hold the last reference to its call
  {
    absl::MutexLock lock(&mu_);
    // Each that is coming has its turn.
    if (waiting_.size() == coming_) {
      --running_;
      return;
    }
    ++coming_;
  }
  executor_.Schedule(priority_, [this] { RunNext(); });
}

}  // namespace kvstow
