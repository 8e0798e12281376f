// Sends the planes of a Put through a staging slot in device memory: each is gathered into the slot
// on the engine's own stream, and its place travels once that has been done. Planes too large for
// the slot go in chunks.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "client/bulk_stream.h"
#include "client/chunk_writer.h"
#include "client/kvstow/device_kv.h"
#include "client/plane_writer.h"
#include "client/staged_room.h"
#include "kvstow/v1/kvstow.pb.h"

namespace kvstow::client {

class DeviceWriter : public PlaneWriter {
 public:
  // `slot`: device addresses; outlives the writer, and until the call has ended it is the daemon's
  // to read. The others outlive it.
  DeviceWriter(std::span<std::byte> slot, size_t max_chunk_bytes, const PlaneLayout* layout,
               DeviceKv* kv, const BulkStream::Terms* terms, ChunkWriter::Send send,
               StagedRoom::AwaitConsumed await);

  bool Append(const PlaneSpec& plane, uint32_t block, std::span<const std::byte> bytes,
              const v1::PlaneDeclaration* declared = nullptr) override;
  bool Gather(const PlaneSpec& plane, uint32_t block, GatherToHost to_host) override;
  bool Flush() override;
  uint64_t bytes_sent() const override { return staged_bytes_ + chunks_.bytes_sent(); }
  absl::Status problem() const override {
    return problem_.ok() ? PlaneWriter::problem() : problem_;
  }
  absl::Duration waited() const override { return waited_; }

 private:
  // What is gathered at once, and told in one message.
  struct Batch {
    v1::PutRequest message;
    size_t bytes = 0;
    size_t room = 0;  // what they take in the slot
    uint64_t mark = 0;
  };

  // Has the planes at hand gathered.
  bool Launch();
  // Tells of all but so many of what is being gathered; waits for the engine's stream.
  bool SendAllBut(size_t batches);

  const std::span<std::byte> slot_;
  const PlaneLayout& layout_;
  DeviceKv& kv_;
  const BulkStream::Terms& terms_;
  const ChunkWriter::Send send_;
  ChunkWriter chunks_;
  StagedRoom room_;
  const TellingPace pace_;
  Batch batch_;                        // at hand
  std::vector<LeavingPlane> leaving_;  // its planes
  std::deque<Batch> flying_;           // on the engine's stream
  uint64_t staged_bytes_ = 0;
  absl::Status problem_;
  absl::Duration waited_;
};

}  // namespace kvstow::client
