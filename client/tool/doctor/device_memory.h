// Device memory shared with the daemon: tried for real, as a worker of this container would.
#pragma once

#include <string>

#include "client/tool/connection.h"
#include "client/tool/doctor/checkup.h"

namespace kvstow::tool {

// Adds the finding "path cuda". `plugin`: the GPU plugin's path, empty to look for it as kvstowd
// does. Only with a daemon on this host.
void CheckDeviceMemory(const Connection& connection, const std::string& plugin, Checkup* checkup);

}  // namespace kvstow::tool
