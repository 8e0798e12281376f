#include "client/outcome.h"

namespace kvstow::client {

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

Outcome::Verdict VerdictOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kUnimplemented:
      return Outcome::Verdict::kFailed;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kCancelled:
      return Outcome::Verdict::kSilent;
    default:
      return Outcome::Verdict::kAlive;
  }
}

Outcome Excuse(Outcome outcome, absl::Duration in_callbacks, absl::Duration in_all) {
  if (absl::IsDeadlineExceeded(outcome.status) && in_callbacks * 2 > in_all) {
    outcome.verdict = Outcome::Verdict::kSilent;
  }
  return outcome;
}

}  // namespace kvstow::client
