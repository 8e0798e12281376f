// Room in the kernel for what this process sends to a daemon on its host.
#pragma once

#include <string>

namespace kvstow::client {

// Lets the sockets of this process that are connected to the Unix socket at `path` hold half a MiB
// each, as far as the kernel allows (net.core.wmem_max). By default they hold a fifth of a chunk,
// and each time that they are full costs gRPC a poller thread and both sides a wait; a whole chunk
// would leave the near caches on its way. gRPC tells nobody its sockets, so all descriptors of the
// process are looked at; no others are touched.
void WidenSendBuffers(const std::string& path);

}  // namespace kvstow::client
