// The Session stream: its life is the session's.
#pragma once

#include "grpcpp/support/server_callback.h"
#include "kvstow/v1/kvstow.pb.h"
#include "server/rpc/rpc_context.h"

namespace kvstow {

// Owns itself until the stream is done.
grpc::ServerWriteReactor<v1::SessionEvent>* StartSession(const RpcContext& rpc,
                                                         grpc::CallbackServerContext* context,
                                                         const v1::SessionRequest* request);

}  // namespace kvstow
