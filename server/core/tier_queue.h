// The records that could leave a tier for the next slower one, coldest first (Block::heat).
//
// A use costs nothing here: an entry keeps the heat that its block had when it was queued, and is
// put right when it comes to the top. Heat that falls has to be told (Cool).
//
// Only tiers that are not the slowest have one: 16 bytes a record in them.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "server/core/block.h"
#include "server/core/indexed_heap.h"

namespace kvstow {

class TierQueue {
 public:
  struct Item {
    Block* block = nullptr;
    uint32_t slot = 0;  // of the block's records
  };

  // REQUIRES that it is not in.
  void Push(Item item);
  // Nothing to do when it is not in.
  void Remove(Item item);
  // block->heat() fell. Nothing to do when it is not in.
  void Cool(Item item);
  // The coldest that is not set aside. Stays.
  std::optional<Item> Coldest();

  // Passes over one that cannot leave now, until BringBack. REQUIRES that it is in.
  void SetAside(Item item);
  void BringBack();

  size_t size() const { return waiting_.size() + aside_.size(); }

 private:
  struct Entry {
    // The block's heat in fewer bits, and below it the slot: a block's records count to 2^16, and
    // ticks of a store's life to less than 2^47.
    uint64_t key;
    Block* block;
    Item item() const { return {block, static_cast<uint32_t>(key & 0xffff)}; }
    uint32_t& place() const { return block->records()[item().slot].queue_position; }
  };
  static Entry EntryOf(Item item) {
    const Block& block = *item.block;
    return {uint64_t{block.is_protected} << 63 | block.last_use << 16 | item.slot, item.block};
  }

  IndexedHeap<Entry> waiting_;
  IndexedHeap<Entry> aside_;  // those with Record::set_aside
};

}  // namespace kvstow
