// What a worker has of the daemon behind a target: does it serve, is it of this version, who is
// this client to it, by which paths does KV travel, does it come back as it went.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "client/tool/connection.h"
#include "client/tool/doctor/checkup.h"
#include "client/tool/doctor/machine.h"
#include "kvstow/v1/kvstow.pb.h"

namespace kvstow::tool {

// Adds one finding, "health"; false when there is no use in asking for more.
bool CheckHealth(const Connection& connection, Checkup* checkup);

// Adds findings "session" and "version". False when the daemon opens no session.
bool CheckSession(const Connection& connection, Checkup* checkup);

// What the daemon tells of itself; adds one finding, "store".
DaemonNeeds CheckStore(const Connection& connection, Checkup* checkup);

// A way for KV to travel, and why not, where it cannot be taken.
struct PathStatus {
  DataPath path;
  absl::Status status;
};
// Each there is, fastest first.
std::vector<PathStatus> PathsOf(const Client::Health& health);

// Adds for each path one finding, "path NAME": why not, or that a block put and got through it came
// back bit for bit, and how fast; and one "lookup".
void CheckPaths(const Connection& connection, bool local, Checkup* checkup);

}  // namespace kvstow::tool
