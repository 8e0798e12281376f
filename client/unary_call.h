// One request, one response. Returns by the deadline, or some milliseconds later, whether gRPC is
// done with the call or not; gRPC's blocking stubs wait for the request's bytes to leave the
// process first, which with a stopped daemon and a full socket may be never.
//
// Thread-safe.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>

#include "client/deadline.h"

namespace kvstow::client {

// `method` is the name in service kvstow.v1.Kvstow, "Lookup" say. INTERNAL when the response is
// none of its kind.
grpc::Status CallUnary(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                       const google::protobuf::MessageLite& request, const Deadline& deadline,
                       google::protobuf::MessageLite* response);

}  // namespace kvstow::client
