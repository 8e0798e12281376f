// The order in which blocks go: a segmented LRU over evictable leaves.
//
// A visible block is on probation until its first use, then protected. Victims are the least
// recently used leaves on probation, and protected ones only when there are none of those, so that
// a stream of prompts seen once does not wash out what is shared. Protected blocks may take
// `protected_cap` bytes; beyond it the least recently used go back to probation.
//
// Only leaves that nothing holds are queued, but every visible block belongs to one of the
// segments: what is behind a protected leaf counts, and is demoted together with it.
//
// Heaps rather than lists: a block whose last child has gone enters at the place of its own last
// use, in the middle. There is one a segment and tier, so that room can be made where it is needed;
// a leaf is in that of its slowest record, and must not be queued while that changes.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "server/core/block.h"
#include "server/core/indexed_heap.h"

namespace kvstow {

// Least recently used first; keeps each block's place in Block::queue_position.
class LeafHeap {
 public:
  void Push(Block* block) { heap_.Push({block->last_use, block}); }
  void Remove(Block* block) { heap_.RemoveAt(block->queue_position); }
  // After block->last_use changed.
  void Update(Block* block) { heap_.UpdateAt(block->queue_position, {block->last_use, block}); }
  Block* Top() const { return heap_.empty() ? nullptr : heap_.top().block; }
  size_t size() const { return heap_.size(); }

 private:
  struct Entry {
    uint64_t key;
    Block* block;
    uint32_t& place() const { return block->queue_position; }
  };
  IndexedHeap<Entry> heap_;
};

class EvictionQueue {
 public:
  explicit EvictionQueue(uint64_t protected_cap, size_t tiers = 1)
      : protected_cap_(protected_cap), probation_(tiers), protected_(tiers) {}

  // Called for each block that loses its protection. Must not call back.
  void SetOnCooled(std::function<void(Block*)> on_cooled) { on_cooled_ = std::move(on_cooled); }

  // The block has become, or is no longer, an evictable leaf.
  void Insert(Block* block);
  void Remove(Block* block);  // nothing to do when it is not queued
  // A visible block was used, at `tick`. Ticks grow.
  void Touch(Block* block, uint64_t tick);
  // A visible block leaves the store. REQUIRES that it is not queued.
  void Forget(Block* block);

  // A visible block's physical bytes are about to change to `bytes`. REQUIRES that it is not
  // queued.
  void Resize(const Block& block, uint64_t bytes);

  // Null when nothing is queued.
  Block* Victim() const;
  // As Victim, among the leaves whose slowest record is in that tier.
  Block* VictimIn(size_t tier) const;
  size_t size() const;
  uint64_t protected_bytes() const { return protected_bytes_; }

 private:
  using Segment = std::vector<LeafHeap>;  // by tier
  static Block* Coldest(const Segment& segment);
  LeafHeap& HeapOf(const Block* block) {
    return (block->is_protected ? protected_ : probation_)[block->tier];
  }
  void Protect(Block* block);
  void Demote(Block* block);
  void Rebalance();

  const uint64_t protected_cap_;
  uint64_t protected_bytes_ = 0;
  Segment probation_;
  Segment protected_;
  std::function<void(Block*)> on_cooled_;
};

}  // namespace kvstow
