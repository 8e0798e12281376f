// The Get stream: drives a GetCall.
#pragma once

#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/rpc/rpc_context.h"

namespace kvstow {

// Owns itself until the stream is done.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartGet(
    const RpcContext& rpc, grpc::CallbackServerContext* context);

}  // namespace kvstow
