// Whether this process gets through to where the daemon listens, below gRPC: folders, files,
// permissions, names, ports.
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/tool/doctor/checkup.h"
#include "staging/shared_region.h"

namespace kvstow::tool {

struct Address {
  std::string socket;      // path of a Unix socket, or
  std::string host, port;  // of TCP
  bool local() const { return !socket.empty(); }
};
// INVALID_ARGUMENT for targets of gRPC that are neither.
absl::StatusOr<Address> ParseTarget(const std::string& target);

struct Reached {
  OwnedFd connection;  // empty: out of reach, the finding says why
  pid_t daemon = 0;    // process at the other end of a Unix socket; 0 where it cannot be seen
};
// Adds one finding, "socket" or "address".
Reached CheckReach(const Address& address, absl::Duration timeout, Checkup* checkup);

// A connection over TCP. UNAVAILABLE with what the system said.
absl::StatusOr<OwnedFd> DialTcp(const Address& address, absl::Duration timeout);

}  // namespace kvstow::tool
