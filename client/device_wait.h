// Waiting for a worker's own stream.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "client/bulk_stream.h"
#include "client/kvstow/device_kv.h"

namespace kvstow::client {

// Until what was enqueued before `mark` has been done. DEADLINE_EXCEEDED, CANCELLED when the call
// is given up; the status of Passed().
absl::Status AwaitMark(DeviceKv& kv, uint64_t mark, const BulkStream::Terms& terms);

}  // namespace kvstow::client
