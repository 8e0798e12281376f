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
// use, in the middle.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "server/core/block.h"

namespace kvstow {

// Least recently used first; keeps each block's place in Block::queue_position.
class LeafHeap {
 public:
  void Push(Block* block);
  void Remove(Block* block);
  // After block->last_use grew.
  void Update(Block* block);
  Block* Top() const { return entries_.empty() ? nullptr : entries_.front().block; }
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    uint64_t last_use;
    Block* block;
  };
  void Place(size_t at, Entry entry);
  void SiftUp(size_t at, Entry entry);
  void SiftDown(size_t at, Entry entry);

  std::vector<Entry> entries_;
};

class EvictionQueue {
 public:
  explicit EvictionQueue(uint64_t protected_cap) : protected_cap_(protected_cap) {}

  // The block has become, or is no longer, an evictable leaf.
  void Insert(Block* block);
  void Remove(Block* block);  // nothing to do when it is not queued
  // A visible block was used, at `tick`. Ticks grow.
  void Touch(Block* block, uint64_t tick);
  // A visible block leaves the store. REQUIRES that it is not queued.
  void Forget(Block* block);

  // Null when nothing is queued.
  Block* Victim() const;
  size_t size() const { return probation_.size() + protected_.size(); }
  uint64_t protected_bytes() const { return protected_bytes_; }

 private:
  LeafHeap& HeapOf(const Block* block) { return block->is_protected ? protected_ : probation_; }
  void Protect(Block* block);
  void Demote(Block* block);
  void Rebalance();

  const uint64_t protected_cap_;
  uint64_t protected_bytes_ = 0;
  LeafHeap probation_;
  LeafHeap protected_;
};

}  // namespace kvstow
