#include "server/core/eviction_queue.h"

#include "absl/base/macros.h"

namespace kvstow {

void LeafHeap::Push(Block* block) {
  entries_.emplace_back();
  SiftUp(entries_.size() - 1, {block->last_use, block});
}

void LeafHeap::Remove(Block* block) {
  const size_t at = block->queue_position;
  ABSL_ASSERT(at < entries_.size() && entries_[at].block == block);
  const Entry last = entries_.back();
  entries_.pop_back();
  block->queue_position = Block::kNotQueued;
  if (at == entries_.size()) return;
  if (at > 0 && last.last_use < entries_[(at - 1) / 2].last_use) {
    SiftUp(at, last);
  } else {
    SiftDown(at, last);
  }
}

void LeafHeap::Update(Block* block) { SiftDown(block->queue_position, {block->last_use, block}); }

void LeafHeap::Place(size_t at, Entry entry) {
  entries_[at] = entry;
  entry.block->queue_position = static_cast<uint32_t>(at);
}

void LeafHeap::SiftUp(size_t at, Entry entry) {
  while (at > 0) {
    const size_t above = (at - 1) / 2;
    if (entries_[above].last_use <= entry.last_use) break;
    Place(at, entries_[above]);
    at = above;
  }
  Place(at, entry);
}

void LeafHeap::SiftDown(size_t at, Entry entry) {
  for (;;) {
    size_t below = 2 * at + 1;
    if (below >= entries_.size()) break;
    if (below + 1 < entries_.size() && entries_[below + 1].last_use < entries_[below].last_use) {
      ++below;
    }
    if (entry.last_use <= entries_[below].last_use) break;
    Place(at, entries_[below]);
    at = below;
  }
  Place(at, entry);
}

void EvictionQueue::Insert(Block* block) {
  HeapOf(block).Push(block);
  if (block->is_protected) Rebalance();
}

void EvictionQueue::Remove(Block* block) {
  if (block->queue_position != Block::kNotQueued) HeapOf(block).Remove(block);
}

void EvictionQueue::Touch(Block* block, uint64_t tick) {
  block->last_use = tick;
  if (block->is_protected) {
    if (block->queue_position != Block::kNotQueued) protected_.Update(block);
    return;
  }
  Protect(block);
  Rebalance();
}

void EvictionQueue::Forget(Block* block) {
  ABSL_ASSERT(block->queue_position == Block::kNotQueued);
  if (block->is_protected) protected_bytes_ -= block->physical_bytes;
  block->is_protected = false;
}

Block* EvictionQueue::Victim() const {
  Block* victim = probation_.Top();
  return victim != nullptr ? victim : protected_.Top();
}

void EvictionQueue::Protect(Block* block) {
  const bool queued = block->queue_position != Block::kNotQueued;
  if (queued) probation_.Remove(block);
  block->is_protected = true;
  protected_bytes_ += block->physical_bytes;
  if (queued) protected_.Push(block);
}

void EvictionQueue::Demote(Block* block) {
  const bool queued = block->queue_position != Block::kNotQueued;
  if (queued) protected_.Remove(block);
  block->is_protected = false;
  protected_bytes_ -= block->physical_bytes;
  if (queued) probation_.Push(block);
}

void EvictionQueue::Rebalance() {
  while (protected_bytes_ > protected_cap_) {
    Block* leaf = protected_.Top();
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
