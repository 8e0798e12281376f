// A Put's slot as the side that writes sees it: room for planes, taken until the daemon has said
// that it has read them.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>

#include "absl/functional/function_ref.h"
#include "kvstow/v1/kvstow.pb.h"
#include "space/plane_layout.h"
#include "staging/slot_ring.h"

namespace kvstow::client {

class StagedRoom {
 public:
  // Waits for the daemon to say how many staged segments it has read; nullopt when the stream is
  // broken.
  using AwaitConsumed = std::function<std::optional<uint64_t>()>;

  StagedRoom(size_t slot_bytes, AwaitConsumed await)
      : await_(std::move(await)), ring_(slot_bytes) {}

  bool fits(size_t bytes) const { return ring_.fits(bytes); }

  // Room for the next plane, which is to be the next segment that is told. While there is none it
  // has everything told (`flush`, false: the stream is broken) and waits for the daemon to catch
  // up. nullopt when the stream is broken.
  std::optional<size_t> Take(size_t bytes, absl::FunctionRef<bool()> flush);

 private:
  bool TakeConsumed(uint64_t segments);

  const AwaitConsumed await_;
  SlotRing ring_;
  std::deque<uint64_t> unread_;  // tickets
  uint64_t consumed_ = 0;
};

// Adds a plane that lies whole at `offset` of the slot.
v1::Segment* AddSegment(const PlaneSpec& plane, uint32_t block, size_t bytes, size_t offset,
                        v1::StagedChunk* staged);

}  // namespace kvstow::client
