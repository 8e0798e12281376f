// What two threads can do with the bytes of a Put or a Get through a slot when nothing is in their
// way: one copies into a ring of the slot's size, the other out of it, hand-overs cost a look at an
// atomic. No messages, no sockets, no sleeping.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace kvstow::testing {

enum class SlotSum { kWhenWritten, kWhenRead };  // by whom the CRC32C is computed: as Get, as Put

// Copies `from` to `to`, of the same sizes, once. Each span at most an eighth of the slot.
class SlotPipeline {
 public:
  explicit SlotPipeline(size_t slot_bytes) : slot_(slot_bytes) {}
  void Run(std::span<const std::span<const std::byte>> from,
           std::span<const std::span<std::byte>> to, SlotSum sum);

 private:
  std::vector<std::byte> slot_;
};

}  // namespace kvstow::testing
