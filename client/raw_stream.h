// The Get stream, which carries serialised messages so that bulk bytes pass protobuf by
// (get_message.h). The only place that uses what gRPC's generated stubs use underneath.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/sync_stream.h>

#include <memory>

namespace google::protobuf {
class MessageLite;
}

namespace kvstow::client {

using GetStream = grpc::ClientReader<grpc::ByteBuffer>;

// `context` outlives the stream.
std::unique_ptr<GetStream> StartGet(grpc::Channel* channel, grpc::ClientContext* context,
                                    const google::protobuf::MessageLite& request);

grpc::ByteBuffer Serialize(const google::protobuf::MessageLite& message);
// False when the bytes are no such message. Takes the buffer's contents.
bool Parse(grpc::ByteBuffer* buffer, google::protobuf::MessageLite* message);

}  // namespace kvstow::client
