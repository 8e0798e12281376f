// Whether client and daemon can know each other: the files named, what is in them, and a TLS
// handshake of its own that tells what gRPC does not.
#pragma once

#include "absl/time/time.h"
#include "client/tool/connection.h"
#include "client/tool/doctor/checkup.h"
#include "client/tool/doctor/reach.h"

namespace kvstow::tool {

// Adds findings "files", "token", "tls": what Connection::security names, whether it goes together,
// and whether it holds what it should at time `now`.
void CheckSecurityFiles(const Connection& connection, const Address& address, absl::Time now,
                        Checkup* checkup);

// Adds one finding, "handshake". REQUIRES: TCP that accepts connections.
void CheckHandshake(const Connection& connection, const Address& address, Checkup* checkup);

}  // namespace kvstow::tool
