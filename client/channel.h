// A connection to the daemon: over a Unix socket, or over TCP with TLS or in clear.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "client/kvstow/client.h"

namespace kvstow::client {

// Whether what `security` names can be used now: INVALID_ARGUMENT says which file cannot be read or
// what goes against what.
absl::Status CheckSecurity(const std::string& target, const ClientSecurity& security);

// Connects lazily and shares nothing with other channels of the process. Files that cannot be read
// yet are tried again.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& target,
                                           const ClientSecurity& security = {});

}  // namespace kvstow::client
