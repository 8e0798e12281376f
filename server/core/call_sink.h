// How calls went, for whoever counts them. Filled in by the rpc layer.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/core/call_phases.h"
#include "server/core/ids.h"

namespace kvstow {

struct CallRecord {
  absl::string_view method;         // "Put"
  absl::string_view path = "grpc";  // data path
  absl::StatusCode code = absl::StatusCode::kOk;
  absl::Duration took;
  uint64_t bytes = 0;  // KV that travelled: raw bytes in for Put, bytes out for Get
  std::optional<TenantId> tenant = std::nullopt;    // none: it was not admitted
  std::optional<PhaseTimes> phases = std::nullopt;  // of Put and Get: they add up to `took`
};

// Thread-safe, does not block.
class CallSink {
 public:
  virtual ~CallSink() = default;
  virtual void OnCall(const CallRecord& call) = 0;
};

}  // namespace kvstow
