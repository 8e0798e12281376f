// The time budget of one call: fixed when the call starts, shared by everything done for it.
// Counted on the monotonic clock, so that a stepped wall clock neither kills calls nor prolongs
// them.
//
// A value; thread-safe as such.
#pragma once

#include <grpc/support/time.h>
#include <grpcpp/client_context.h>

#include <algorithm>
#include <chrono>

#include "absl/time/time.h"

namespace kvstow::client {

class Deadline {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // Longer budgets are cut to this; nobody waits a week for a cache.
  static constexpr absl::Duration kLongest = absl::Hours(24);

  // `budget` from now; `otherwise` when the budget is zero. A negative budget is already spent.
  static Deadline In(absl::Duration budget, absl::Duration otherwise = absl::ZeroDuration(),
                     TimePoint now = std::chrono::steady_clock::now()) {
    if (budget == absl::ZeroDuration()) budget = otherwise;
    budget = std::clamp(budget, absl::ZeroDuration(), kLongest);
    return Deadline(now + absl::ToChronoNanoseconds(budget));
  }
  static Deadline At(TimePoint at) { return Deadline(at); }

  TimePoint at() const { return at_; }
  // Never negative.
  absl::Duration remaining(TimePoint now = std::chrono::steady_clock::now()) const {
    return std::max(absl::FromChrono(at_ - now), absl::ZeroDuration());
  }
  bool expired(TimePoint now = std::chrono::steady_clock::now()) const { return now >= at_; }
  Deadline EarlierOf(const Deadline& other) const { return Deadline(std::min(at_, other.at_)); }

  // As gRPC tells time.
  gpr_timespec AsTimespec() const {
    const gpr_timespec left =
        gpr_time_from_nanos(absl::ToInt64Nanoseconds(remaining()), GPR_TIMESPAN);
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), left);
  }
  // Makes the call end, and whatever waits for it return, at this deadline.
  void ApplyTo(grpc::ClientContext* context) const { context->set_deadline(AsTimespec()); }

 private:
  explicit Deadline(TimePoint at) : at_(at) {}

  TimePoint at_;
};

}  // namespace kvstow::client
