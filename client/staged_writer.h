// Sends the planes of a Put through a staging slot: each is copied into the slot, and only its
// place travels. Planes too large for the slot go in chunks.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <span>

#include "client/chunk_writer.h"
#include "client/staged_room.h"
#include "kvstow/v1/kvstow.pb.h"
#include "staging/slot_ring.h"

namespace kvstow::client {

// What the daemon does with the planes.
enum class SlotReader {
  kStores,   // copies them to where they stay: the faster if it finds them in the cache
  kEncodes,  // which takes far longer than any copy: better that the worker keeps its cache
};

class StagedWriter : public PlaneWriter {
 public:
  using Send = ChunkWriter::Send;
  using AwaitConsumed = StagedRoom::AwaitConsumed;

  // `slot` outlives the writer, and until the call has ended it is the daemon's to read.
  StagedWriter(std::span<std::byte> slot, SlotReader reader, size_t max_chunk_bytes, Send send,
               AwaitConsumed await);

  bool Append(const PlaneSpec& plane, uint32_t block, std::span<const std::byte> bytes,
              const v1::PlaneDeclaration* declared = nullptr) override;
  bool Fill(const PlaneSpec& plane, uint32_t block, FillPlane fill) override;
  bool Flush() override;
  uint64_t bytes_sent() const override { return staged_bytes_ + chunks_.bytes_sent(); }

 private:
  // As Fill(), of a plane that takes `bytes`, at most what the room fits.
  bool Stage(const PlaneSpec& plane, uint32_t block, size_t bytes,
             const v1::PlaneDeclaration* declared, FillPlane fill);

  const std::span<std::byte> slot_;
  const SlotReader reader_;
  const Send send_;
  ChunkWriter chunks_;
  StagedRoom room_;
  v1::PutRequest message_;
  size_t message_bytes_ = 0;
  size_t message_room_ = 0;  // what they take in the slot
  TellingPace pace_;
  uint64_t staged_bytes_ = 0;
};

}  // namespace kvstow::client
