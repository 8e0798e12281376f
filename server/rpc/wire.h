// Bulk messages without a copy: a PutRequest's chunk read out of gRPC's slices, a GetResponse's
// chunk written as a small header slice followed by slices that borrow the planes. On the wire both
// are plain protobuf.
//
// Pure functions, thread-safe.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/slice.h"
#include "kvstow/v1/kvstow.pb.h"
#include "server/core/put_call.h"

namespace kvstow {

// A PutRequest as it came. For a chunk `request` is empty, and `segments` and `data` say what it
// holds; the data stays in `slices`.
struct IncomingPut {
  bool is_chunk = false;
  v1::PutRequest request;
  std::vector<PlaneSegment> segments;
  std::vector<std::span<const std::byte>> data;
  std::vector<grpc::Slice> slices;
};
// INVALID_ARGUMENT for bytes that are no PutRequest.
absl::StatusOr<std::unique_ptr<IncomingPut>> ParsePutRequest(const grpc::ByteBuffer& message);
// Overwrites a chunk's bytes where gRPC received them, as other scratch (codec/scratch.h). REQUIRES
// a message that came over a connection: its memory is nobody else's.
void OverwriteChunk(IncomingPut& chunk);

// A piece of a plane on its way out; `owner` is let go when gRPC no longer refers to the bytes,
// which may be after the write is done.
struct OutgoingPiece {
  PlaneSegment segment;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};
grpc::ByteBuffer ChunkResponse(std::span<const OutgoingPiece> pieces);

// Any other message.
grpc::ByteBuffer Serialize(const google::protobuf::MessageLite& message);
bool Parse(const grpc::ByteBuffer& buffer, google::protobuf::MessageLite* message);

}  // namespace kvstow
