// The blocks of all spaces: a hash table a space, and the forest of parents and children over it.
//
// Keeps count of what holds a block (Block::anchors), so that "could room be made" is one
// comparison, and tells the tenants' EvictionQueues which blocks are evictable leaves: visible,
// without children, without anchors.
//
// Not thread-safe. Owns spaces and blocks; the queues outlive it.
//
// Invariants
// 1. A visible block's parent, if it has one, is visible.
// 2. A block has an anchor exactly when it or a descendant is leased, pinned or not visible.
// 3. first_position grows along every parent link, so there are no cycles.
// 4. Only roots and ghosts have no parent.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "server/core/block.h"
#include "server/core/tenant_queues.h"

namespace kvstow {

class BlockIndex {
 public:
  BlockIndex(uint64_t hash_seed, TenantQueues* queues, size_t tiers = 1);
  ~BlockIndex();
  BlockIndex(const BlockIndex&) = delete;
  BlockIndex& operator=(const BlockIndex&) = delete;

  // The same tenant, fingerprint and shards give the same space. `shards` is sorted, unique, not
  // empty.
  Space* AddSpace(TenantId tenant, const Fingerprint& fingerprint, std::vector<uint32_t> shards,
                  uint32_t block_tokens);
  // Null for an unknown one.
  Space* FindSpace(SpaceId id) const;
  const std::vector<std::unique_ptr<Space>>& spaces() const { return spaces_; }

  // Ghosts are found too. Null when there is none.
  Block* Find(const Space* space, const BlockKey& key) const;
  // As Find for each of `keys`, up to the first that is not visible.
  void FindVisiblePrefix(const Space* space, std::span<const BlockKey> keys,
                         std::vector<Block*>* out) const;

  // A new ghost. REQUIRES that the key is not there.
  Block* Create(Space* space, const BlockKey& key, uint64_t first_position);
  // REQUIRES that the child is a ghost and the positions follow each other.
  void SetParent(Block* child, Block* parent);
  // REQUIRES all records present and the parent visible.
  void MakeVisible(Block* block);

  // A lease, a pin or a move of a visible block begins or ends.
  void Hold(Block* block) { AddAnchor(block); }
  void Unhold(Block* block) { DropAnchor(block); }

  // After a record of a block that is not visible went: forgets what nobody needs. The block may be
  // gone afterwards, and a ghost parent with it.
  void Tidy(Block* block);
  // Takes a visible block out; a ghost takes its children over. It is then the caller's, for
  // Destroy. REQUIRES that no child is visible.
  void Retire(Block* block);
  void Destroy(Block* block);

  // The block and its descendants, parents before children; those of a whole space, without ghosts,
  // which vanish with their children.
  static void CollectSubtree(Block* block, std::vector<Block*>* out);
  static void CollectSpace(const Space* space, std::vector<Block*>* out);

  uint64_t visible_blocks() const { return visible_blocks_; }
  // What evicting all that can be evicted would free.
  uint64_t evictable_bytes() const { return evictable_bytes_; }
  // And of that, in one tier; of one tenant; both.
  uint64_t evictable_bytes_in(size_t tier) const {
    uint64_t bytes = 0;
    for (size_t i = tier; i < evictable_.size(); i += tiers_) bytes += evictable_[i];
    return bytes;
  }
  uint64_t evictable_bytes_of(TenantId tenant) const {
    uint64_t bytes = 0;
    for (size_t i = 0; i < tiers_; ++i) bytes += evictable_bytes_of(tenant, i);
    return bytes;
  }
  uint64_t evictable_bytes_of(TenantId tenant, size_t tier) const {
    return evictable_[static_cast<size_t>(tenant) * tiers_ + tier];
  }

 private:
  // Blocks come from chunks: no allocator header each, and neighbours in time are neighbours in
  // memory, as they are in use.
  union PoolSlot {
    PoolSlot() : next(nullptr) {}
    ~PoolSlot() {}
    PoolSlot* next;
    Block block;
  };
  static constexpr size_t kChunkBlocks = 256;

  Block* NewBlock(Space* space, const BlockKey& key, uint64_t first_position);
  void AddAnchor(Block* block);
  void DropAnchor(Block* block);
  void Link(Block* block, Block* parent);
  void Unlink(Block* block);
  void QueueIfEvictable(Block* block);
  void AddEvictable(const Block& block);
  void SubtractEvictable(const Block& block);

  const uint64_t hash_seed_;
  TenantQueues* const queues_;
  std::vector<std::unique_ptr<Space>> spaces_;
  uint64_t visible_blocks_ = 0;
  uint64_t evictable_bytes_ = 0;
  const size_t tiers_;
  std::vector<uint64_t> evictable_;  // by tenant, then by tier
  std::vector<std::unique_ptr<PoolSlot[]>> chunks_;
  PoolSlot* free_slots_ = nullptr;
};

}  // namespace kvstow
