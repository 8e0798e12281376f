// Waiting for a worker's own stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "client/bulk_stream.h"
#include "client/kvstow/device_kv.h"

namespace kvstow::client {

// Until what was enqueued before `mark` has been done. DEADLINE_EXCEEDED, CANCELLED when the call
// is given up; the status of Passed().
absl::Status AwaitMark(DeviceKv& kv, uint64_t mark, const BulkStream::Terms& terms);

// DeviceKv::GatherToHost, which waits no longer than that where the engine's KV has its two halves.
absl::Status GatherToHost(DeviceKv& kv, const PlaneSpec& plane, size_t block,
                          std::span<std::byte> to, const BulkStream::Terms& terms);

}  // namespace kvstow::client
