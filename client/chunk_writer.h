// Cuts the planes of a Put into chunks (message Chunk of the wire contract): many small planes
// share one, a large plane spans several. Builds the wire form by hand, a small header followed by
// the data where it was gathered, so that each byte is copied once between the engine and the
// transport; protobuf would copy it twice more.
//
// Not thread-safe.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <span>

#include "client/plane_writer.h"
#include "kvstow/v1/kvstow.pb.h"

namespace kvstow::client {

// Chunk memory, used again once the transport has let go of it, which may be after the call and on
// any thread. Thread-safe.
class ChunkPool;

class ChunkWriter : public PlaneWriter {
 public:
  // Sends one PutRequest; false when the stream is broken.
  using Send = std::function<bool(const grpc::ByteBuffer& put_request)>;

  // REQUIRES: 0 < max_chunk_bytes.
  ChunkWriter(size_t max_chunk_bytes, Send send);
  ~ChunkWriter() override;

  // Copies one whole plane, sending chunks as they fill. False once the stream is broken.
  bool Append(const PlaneSpec& plane, uint32_t block, std::span<const std::byte> bytes,
              const v1::PlaneDeclaration* declared = nullptr) override;
  // Straight into the chunk, where the plane fits into one.
  bool Fill(const PlaneSpec& plane, uint32_t block, FillPlane fill) override;
  bool Flush() override;

  uint64_t bytes_sent() const override { return bytes_sent_; }

 private:
  bool EnsureBuffer();
  // The next `length` bytes of the chunk are the plane's.
  v1::Segment* AddSegment(const PlaneSpec& plane, uint32_t block, size_t length);

  const size_t max_chunk_bytes_;
  const Send send_;
  std::shared_ptr<ChunkPool> pool_;
  v1::Chunk header_;  // segments only
  std::unique_ptr<std::byte[]> data_;
  size_t used_ = 0;
  uint64_t bytes_sent_ = 0;
};

}  // namespace kvstow::client
