// What every handler and stream needs. One a server; plain pointers, all thread-safe and
// longer-lived.
#pragma once

#include "absl/strings/string_view.h"
#include "grpcpp/server_context.h"
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
  std::string server_version;
  std::string instance_id;  // another one after each start
  std::vector<std::string> data_paths;
};

// The caller's tenant, from its identity on the connection. There is one tenant so far; a request
// says nothing about it.
inline TenantId TenantOf(const grpc::ServerContextBase&) { return kDefaultTenant; }

inline constexpr uint32_t kMaxChunkBytes = 1u << 20;

}  // namespace kvstow
