// Who makes a call, and whether the call is within what its tenant may ask for.
#pragma once

#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"
#include "server/auth/tenants.h"
#include "server/rpc/rpc_context.h"

namespace kvstow {

// UNAUTHENTICATED for nobody's call, RESOURCE_EXHAUSTED above the tenant's rate. The first thing
// that happens to every call.
absl::StatusOr<Caller> Admit(const RpcContext& rpc, const grpc::ServerContextBase& context);

}  // namespace kvstow
