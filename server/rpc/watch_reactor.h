// The Watch stream: hands a watcher's events on, one write at a time.
#pragma once

#include "grpcpp/support/server_callback.h"
#include "kvstow/v1/kvstow.pb.h"
#include "server/rpc/rpc_context.h"

namespace kvstow {

// Owns itself until the stream is done.
grpc::ServerWriteReactor<v1::WatchEvent>* StartWatch(const RpcContext& rpc,
                                                     grpc::CallbackServerContext* context,
                                                     const v1::WatchRequest* request);

}  // namespace kvstow
