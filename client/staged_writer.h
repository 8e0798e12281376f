// Sends the planes of a Put through a staging slot: each is copied into the slot, and only its
// place travels. Planes too large for the slot go in chunks.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>

#include "client/chunk_writer.h"
#include "kvstow/v1/kvstow.pb.h"
#include "staging/slot_ring.h"

namespace kvstow::client {

class StagedWriter : public PlaneWriter {
 public:
  using Send = ChunkWriter::Send;
  // Waits for the daemon to say how many staged segments it has read; nullopt when the stream is
  // broken.
  using AwaitConsumed = std::function<std::optional<uint64_t>()>;

  // `slot` outlives the writer, and until the call has ended it is the daemon's to read.
  StagedWriter(std::span<std::byte> slot, size_t max_chunk_bytes, Send send, AwaitConsumed await);

  bool Append(const PlaneSpec& plane, uint32_t block, std::span<const std::byte> bytes,
              const v1::PlaneDeclaration* declared = nullptr) override;
  bool Fill(const PlaneSpec& plane, uint32_t block, FillPlane fill) override;
  bool Flush() override;
  uint64_t bytes_sent() const override { return staged_bytes_ + chunks_.bytes_sent(); }

 private:
  // As Fill(), of a plane that takes `bytes`, at most what the ring fits.
  bool Stage(const PlaneSpec& plane, uint32_t block, size_t bytes,
             const v1::PlaneDeclaration* declared, FillPlane fill);
  // Room for a plane; waits for the daemon to catch up. nullopt when the stream is broken.
  std::optional<SlotRing::Piece> Room(size_t bytes);
  bool TakeConsumed(uint64_t segments);

  const std::span<std::byte> slot_;
  const Send send_;
  const AwaitConsumed await_;
  ChunkWriter chunks_;
  SlotRing ring_;
  std::deque<uint64_t> unread_;  // tickets
  uint64_t consumed_ = 0;
  v1::PutRequest message_;
  size_t message_bytes_ = 0;
  size_t message_room_ = 0;  // what they take in the slot
  uint64_t staged_bytes_ = 0;
};

}  // namespace kvstow::client
