// Reads one GetResponse off the wire into a GetAssembly: plane bytes go from the transport's
// buffers to their destination in one copy, without a protobuf message in between.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "client/get_assembly.h"

namespace kvstow::client {

// Of the planes that were read out of a slot.
struct StagedCount {
  uint64_t segments = 0;
  uint64_t room = 0;  // what they took in the slot
};

// Takes the message apart as a protobuf parser would, except that a chunk's segments must come
// before its data. Staged planes are read out of `slot` and counted in
// `staged`. INTERNAL
// when the bytes are no such message or speak of places outside the slot, else as GetAssembly.
absl::Status TakeGetResponse(grpc::ByteBuffer* message, std::span<const std::byte> slot,
                             GetAssembly* assembly, StagedCount* staged);

}  // namespace kvstow::client
