// What every handler and stream needs. One a server; plain pointers, all thread-safe and
// longer-lived.
#pragma once

#include "absl/strings/string_view.h"
#include "server/auth/request_rate.h"
#include "server/auth/tenants.h"
#include "server/core/call_sink.h"
#include "server/core/clock.h"
#include "server/core/service.h"
#include "server/rpc/call_registry.h"

namespace kvstow {

struct RpcContext {
  Service* service = nullptr;
  CallRegistry* calls = nullptr;
  const Clock* clock = nullptr;
  CallSink* sink = nullptr;
  const Tenants* tenants = nullptr;
  RequestRate* rate = nullptr;
  std::string server_version;
  std::string instance_id;  // another one after each start
  std::vector<std::string> data_paths;
};

inline constexpr uint32_t kMaxChunkBytes = 1u << 20;

}  // namespace kvstow
