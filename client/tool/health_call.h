// The standard gRPC health check as a call.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/tool/connection.h"

namespace kvstow::tool {

// Longest name of a service that can be asked for.
inline constexpr size_t kLongestHealthService = 127;

// Whether a service of the daemon is serving; the empty name is the daemon as a whole. NOT_FOUND
// for a service that it does not have; UNAVAILABLE and the like when there is no answer.
absl::StatusOr<bool> AskHealth(const Connection& connection, const std::string& service);

}  // namespace kvstow::tool
