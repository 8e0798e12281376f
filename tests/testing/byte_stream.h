// The limit of the portable data path: a gRPC stream that carries bytes and does nothing else, with
// the same messages, slices and settings as kvstow's own.
#pragma once

#include <cstddef>
#include <string>

namespace kvstow::testing {

// GB/s (1e9 bytes) of chunks over a Unix socket from a server to a client in this process, median
// of streams of 128 MiB.
double BareStreamRate(const std::string& socket, size_t chunk_bytes, double seconds);

}  // namespace kvstow::testing
