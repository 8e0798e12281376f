// How a call to the daemon ended, and what that says about the daemon.
#pragma once

#include <grpcpp/support/status.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvstow::client {

struct Outcome {
  enum class Verdict {
    kAlive,   // it answered, be it with a refusal
    kFailed,  // no answer, a late one or a wrong one: counts for the circuit breaker
    kSilent,  // ended by the caller: says nothing
  };
  absl::Status status;
  Verdict verdict = Verdict::kAlive;
};

absl::Status FromGrpc(const grpc::Status& status);

// The verdict that a status from the transport or the daemon speaks. INVALID_ARGUMENT is the
// caller's own doing; CANCELLED too, a daemon that goes away makes UNAVAILABLE.
Outcome::Verdict VerdictOf(const absl::Status& status);

inline Outcome Judge(absl::Status status) {
  const Outcome::Verdict verdict = VerdictOf(status);
  return {std::move(status), verdict};
}
inline Outcome Judge(const grpc::Status& status) { return Judge(FromGrpc(status)); }

// A call that was not made says nothing of the daemon.
inline Outcome Unmade(absl::Status status) {
  return {std::move(status), Outcome::Verdict::kSilent};
}

// A late call whose time went mostly into the caller's own callbacks is not the daemon's failure.
Outcome Excuse(Outcome outcome, absl::Duration in_callbacks, absl::Duration in_all);

}  // namespace kvstow::client
