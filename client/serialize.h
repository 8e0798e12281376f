// Messages to and from the bytes that bulk streams and generic calls carry.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>

namespace kvstow::client {

grpc::ByteBuffer Serialize(const google::protobuf::MessageLite& message);
// False when the bytes are no such message. Takes the buffer's contents.
bool Parse(grpc::ByteBuffer* buffer, google::protobuf::MessageLite* message);

}  // namespace kvstow::client
