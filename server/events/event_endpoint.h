// Where a stream of KV events may be listened to. A ZeroMQ socket asks nobody who they are: a Unix
// socket is guarded by its file's mode, and TCP beyond this host has to be asked for.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace kvstow {

// INVALID_ARGUMENT, with what to do, for what is neither "ipc:///path" nor "tcp://address:port"
// with a numeric address and, unless `insecure`, an address of this host alone.
absl::Status CheckEventEndpoint(const std::string& endpoint, bool insecure);

// The path of an ipc endpoint; empty for others.
std::string IpcPathOf(const std::string& endpoint);

// Makes way for a socket at `path`: one that nobody listens at is removed. UNAVAILABLE when
// somebody does, INVALID_ARGUMENT when what is there is no socket.
absl::Status ClaimIpcPath(const std::string& path);

}  // namespace kvstow
