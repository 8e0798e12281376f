#include "server/core/block_index.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/base/macros.h"

namespace kvstow {

BlockIndex::BlockIndex(uint64_t hash_seed, TenantQueues* queues, size_t tiers)
    : hash_seed_(hash_seed), queues_(queues), tiers_(tiers) {}

BlockIndex::~BlockIndex() {
  for (const auto& space : spaces_) {
    for (Block* block : space->blocks) Destroy(block);
  }
}

Space* BlockIndex::AddSpace(TenantId tenant, const Fingerprint& fingerprint,
                            std::vector<uint32_t> shards, uint32_t block_tokens) {
  for (const auto& space : spaces_) {
    if (space->tenant == tenant && space->fingerprint == fingerprint && space->shards == shards) {
      return space.get();
    }
  }
  auto space = std::make_unique<Space>();
  space->id = SpaceId{static_cast<uint32_t>(spaces_.size())};
  space->tenant = tenant;
  space->fingerprint = fingerprint;
  space->shards = std::move(shards);
  space->block_tokens = block_tokens;
  space->blocks = BlockTable(0, BlockKeyHash{hash_seed_}, BlockKeyEq{});
  spaces_.push_back(std::move(space));
  queues_->Add(tenant);
  evictable_.resize(queues_->tenants() * tiers_);
  return spaces_.back().get();
}

Space* BlockIndex::FindSpace(SpaceId id) const {
  const auto index = static_cast<size_t>(id);
  return index < spaces_.size() ? spaces_[index].get() : nullptr;
}

Block* BlockIndex::Find(const Space* space, const BlockKey& key) const {
  const auto it = space->blocks.find(key);
  return it == space->blocks.end() ? nullptr : *it;
}

void BlockIndex::FindVisiblePrefix(const Space* space, std::span<const BlockKey> keys,
                                   std::vector<Block*>* out) const {
  // A look-up is two cache misses one after the other, the table's and the block's; several in
  // flight hide them.
  constexpr size_t kAhead = 8;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (i + kAhead < keys.size()) space->blocks.prefetch(keys[i + kAhead]);
    Block* block = Find(space, keys[i]);
    if (block == nullptr || !block->visible) return;
    out->push_back(block);
  }
}

Block* BlockIndex::Create(Space* space, const BlockKey& key, uint64_t first_position) {
  Block* block = NewBlock(space, key, first_position);
  space->blocks.insert(block);
  Link(block, nullptr);
  return block;
}

void BlockIndex::SetParent(Block* child, Block* parent) {
  ABSL_ASSERT(child->parent == nullptr && !child->visible);
  ABSL_ASSERT(parent->first_position < child->first_position);
  Unlink(child);
  Link(child, parent);
}

void BlockIndex::MakeVisible(Block* block) {
  ABSL_ASSERT(!block->visible && block->present == block->records().size());
  ABSL_ASSERT(block->is_root() || block->parent->visible);
  block->visible = true;
  ++visible_blocks_;
  DropAnchor(block);
}

void BlockIndex::Tidy(Block* block) {
  ABSL_ASSERT(!block->visible);
  while (block != nullptr && block->is_ghost()) {
    Block* parent = block->parent;
    Unlink(block);
    if (block->is_leaf()) {
      block->space->blocks.erase(block);
      Destroy(block);
    } else {
      Link(block, nullptr);
    }
    // The parent may have been a ghost for this child's sake.
    block = parent;
  }
}

void BlockIndex::Retire(Block* block) {
  ABSL_ASSERT(block->visible);
  Space* space = block->space;
  // Not visible any more before its children leave it: they must not make it an evictable leaf.
  block->visible = false;
  --visible_blocks_;
  queues_->Of(block).Remove(block);
  queues_->Of(block).Forget(block);
  Unlink(block);
  space->blocks.erase(block);
  if (!block->is_leaf()) {
    Block* ghost = Create(space, block->key, block->first_position);
    while (Block* child = block->first_child) {
      Unlink(child);
      Link(child, ghost);
    }
  }
  if (block->anchors == 0) SubtractEvictable(*block);
  block->retired = true;
}

void BlockIndex::Destroy(Block* block) {
  block->~Block();
  auto* slot = reinterpret_cast<PoolSlot*>(block);
  slot->next = free_slots_;
  free_slots_ = slot;
}

void BlockIndex::CollectSubtree(Block* block, std::vector<Block*>* out) {
  const size_t first = out->size();
  out->push_back(block);
  for (size_t i = first; i < out->size(); ++i) {
    for (Block* child = (*out)[i]->first_child; child != nullptr; child = child->next_sibling) {
      out->push_back(child);
    }
  }
}

void BlockIndex::CollectSpace(const Space* space, std::vector<Block*>* out) {
  for (Block* block = space->top; block != nullptr; block = block->next_sibling) {
    CollectSubtree(block, out);
  }
  std::erase_if(*out, [](const Block* block) { return block->is_ghost(); });
}

Block* BlockIndex::NewBlock(Space* space, const BlockKey& key, uint64_t first_position) {
  if (free_slots_ == nullptr) {
    chunks_.push_back(std::make_unique<PoolSlot[]>(kChunkBlocks));
    for (size_t i = kChunkBlocks; i-- > 0;) {
      chunks_.back()[i].next = free_slots_;
      free_slots_ = &chunks_.back()[i];
    }
  }
  PoolSlot* slot = std::exchange(free_slots_, free_slots_->next);
  return new (&slot->block) Block(space, key, first_position);
}

void BlockIndex::AddAnchor(Block* block) {
  // An ancestor that has an anchor already counts this path.
  for (; block != nullptr && block->anchors++ == 0; block = block->parent) {
    queues_->Of(block).Remove(block);
    SubtractEvictable(*block);
  }
}

void BlockIndex::DropAnchor(Block* block) {
  for (; block != nullptr && --block->anchors == 0; block = block->parent) {
    AddEvictable(*block);
    QueueIfEvictable(block);
  }
}

void BlockIndex::Link(Block* block, Block* parent) {
  Block*& head = parent != nullptr ? parent->first_child : block->space->top;
  block->parent = parent;
  block->previous_sibling = nullptr;
  block->next_sibling = head;
  if (head != nullptr) head->previous_sibling = block;
  head = block;
  if (parent == nullptr) return;
  queues_->Of(parent).Remove(parent);
  ++parent->children;
  if (block->anchors > 0) AddAnchor(parent);
}

void BlockIndex::Unlink(Block* block) {
  Block* parent = block->parent;
  Block*& head = parent != nullptr ? parent->first_child : block->space->top;
  if (block->previous_sibling != nullptr) {
    block->previous_sibling->next_sibling = block->next_sibling;
  } else {
    head = block->next_sibling;
  }
  if (block->next_sibling != nullptr)
    block->next_sibling->previous_sibling = block->previous_sibling;
  block->parent = block->next_sibling = block->previous_sibling = nullptr;
  if (parent == nullptr) return;
  --parent->children;
  if (block->anchors > 0) {
    DropAnchor(parent);  // queues it, when this was the last
  } else {
    QueueIfEvictable(parent);
  }
}

void BlockIndex::QueueIfEvictable(Block* block) {
  if (block->visible && block->anchors == 0 && block->is_leaf() &&
      block->queue_position == kNotQueued) {
    queues_->Of(block).Insert(block);
  }
}

void BlockIndex::AddEvictable(const Block& block) {
  evictable_bytes_ += block.physical_bytes;
  uint64_t* const by_tier = &evictable_[static_cast<size_t>(block.space->tenant) * tiers_];
  for (const Record& record : block.records()) by_tier[record.tier] += record.physical_bytes;
}

void BlockIndex::SubtractEvictable(const Block& block) {
  evictable_bytes_ -= block.physical_bytes;
  uint64_t* const by_tier = &evictable_[static_cast<size_t>(block.space->tenant) * tiers_];
  for (const Record& record : block.records()) by_tier[record.tier] -= record.physical_bytes;
}

}  // namespace kvstow
