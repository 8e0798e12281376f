#include "client/raw_stream.h"

#include <google/protobuf/message_lite.h>
#include <grpcpp/impl/rpc_method.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/slice.h>

namespace kvstow::client {

using grpc::internal::RpcMethod;

std::unique_ptr<GetStream> StartGet(grpc::Channel* channel, grpc::ClientContext* context,
                                    const google::protobuf::MessageLite& request) {
  const RpcMethod method("/kvstow.v1.Kvstow/Get", RpcMethod::SERVER_STREAMING);
  return std::unique_ptr<GetStream>(grpc::internal::ClientReaderFactory<grpc::ByteBuffer>::Create(
      channel, method, context, Serialize(request)));
}

grpc::ByteBuffer Serialize(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

bool Parse(grpc::ByteBuffer* buffer, google::protobuf::MessageLite* message) {
  grpc::ProtoBufferReader reader(buffer);
  return reader.status().ok() && message->ParseFromZeroCopyStream(&reader);
}

}  // namespace kvstow::client
