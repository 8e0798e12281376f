// The part of the configuration that says who is told of blocks: streams of KV events.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "server/app/config.h"
#include "server/app/config.pb.h"
#include "server/events/event_publisher.h"

namespace kvstow {

// `known` has the tenants, and whether clear text may leave this host. INVALID_ARGUMENT names the
// field and says what to do.
absl::StatusOr<std::vector<EventStreamOptions>> EventStreams(const config::Config& in,
                                                             const DaemonConfig& known);

}  // namespace kvstow
