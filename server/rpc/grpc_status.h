// The one place where absl::Status becomes grpc::Status.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace kvstow {

// The codes are the same numbers. Messages are cut at 1 KiB: they travel as a header.
grpc::Status ToGrpc(const absl::Status& status);

}  // namespace kvstow
