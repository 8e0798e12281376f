// The kvstow.v1 service on gRPC's callback API: convert, call core, convert back. Put and Get are
// raw, so that bulk bytes skip protobuf.
#pragma once

#include <functional>
#include <memory>

#include "grpcpp/impl/codegen/service_type.h"
#include "kvstow/v1/kvstow.pb.h"
#include "server/rpc/rpc_context.h"

namespace kvstow {

// Fills in what core does not know: counters since the start. Called for Stats.
using FillStats = std::function<void(v1::StatsResponse*)>;

// `rpc` outlives the service.
std::unique_ptr<grpc::Service> MakeGrpcService(const RpcContext& rpc, FillStats fill_stats);

}  // namespace kvstow
