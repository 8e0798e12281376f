#include "server/core/eviction_queue.h"

#include "absl/base/macros.h"

namespace kvstow {

void EvictionQueue::Insert(Block* block) {
  HeapOf(block).Push(block);
  if (block->is_protected) Rebalance();
}

void EvictionQueue::Remove(Block* block) {
  if (block->queue_position != kNotQueued) HeapOf(block).Remove(block);
}

void EvictionQueue::Touch(Block* block, uint64_t tick) {
  block->last_use = tick;
  if (block->is_protected) {
    if (block->queue_position != kNotQueued) HeapOf(block).Update(block);
    return;
  }
  Protect(block);
  Rebalance();
}

void EvictionQueue::Forget(Block* block) {
  ABSL_ASSERT(block->queue_position == kNotQueued);
  if (block->is_protected) protected_bytes_ -= block->physical_bytes;
  block->is_protected = false;
}

void EvictionQueue::Resize(const Block& block, uint64_t bytes) {
  ABSL_ASSERT(block.queue_position == kNotQueued);
  if (block.is_protected) protected_bytes_ += bytes - block.physical_bytes;
}

Block* EvictionQueue::Victim() const {
  Block* victim = Coldest(probation_);
  return victim != nullptr ? victim : Coldest(protected_);
}

Block* EvictionQueue::VictimIn(size_t tier) const {
  Block* victim = probation_[tier].Top();
  return victim != nullptr ? victim : protected_[tier].Top();
}

size_t EvictionQueue::size() const {
  size_t size = 0;
  for (const LeafHeap& heap : probation_) size += heap.size();
  for (const LeafHeap& heap : protected_) size += heap.size();
  return size;
}

Block* EvictionQueue::Coldest(const Segment& segment) {
  Block* coldest = nullptr;
  for (const LeafHeap& heap : segment) {
    Block* top = heap.Top();
    if (top != nullptr && (coldest == nullptr || top->last_use < coldest->last_use)) coldest = top;
  }
  return coldest;
}

void EvictionQueue::Protect(Block* block) {
  const bool queued = block->queue_position != kNotQueued;
  if (queued) HeapOf(block).Remove(block);
  block->is_protected = true;
  protected_bytes_ += block->physical_bytes;
  if (queued) HeapOf(block).Push(block);
}

void EvictionQueue::Demote(Block* block) {
  const bool queued = block->queue_position != kNotQueued;
  if (queued) HeapOf(block).Remove(block);
  block->is_protected = false;
  protected_bytes_ -= block->physical_bytes;
  if (queued) HeapOf(block).Push(block);
  if (on_cooled_ != nullptr) on_cooled_(block);
}

void EvictionQueue::Rebalance() {
  while (protected_bytes_ > protected_cap_) {
    Block* leaf = Coldest(protected_);
    if (leaf == nullptr) return;
    Demote(leaf);
    // What only this leaf is reached through is as cold as it is. Without this the many blocks
    // behind a few leaves would keep the segment over its cap and every leaf out of it.
    for (Block* up = leaf->parent; up != nullptr && up->is_protected && up->children == 1 &&
                                   protected_bytes_ > protected_cap_;
         up = up->parent) {
      Demote(up);
    }
  }
}

}  // namespace kvstow
