// Store: pins, and every way in which a block goes.
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "server/core/store_impl.h"

namespace kvstow {

Block* Store::Impl::Acquire(SpaceId space_id, uint32_t shard, const BlockKey& key, uint32_t* slot) {
  absl::MutexLock lock(&mu_);
  Block* block = PinRecord(space_id, shard, key, slot);
  if (block == nullptr) return nullptr;
  CountGet(block, *slot);
  Use(block, clock_->Now());
  return block;
}

Block* Store::Impl::Peek(SpaceId space_id, uint32_t shard, const BlockKey& key, uint32_t* slot) {
  absl::MutexLock lock(&mu_);
  return PinRecord(space_id, shard, key, slot);
}

Block* Store::Impl::PinRecord(SpaceId space_id, uint32_t shard, const BlockKey& key,
                              uint32_t* slot) {
  const Space* space = index_.FindSpace(space_id);
  if (space == nullptr) return nullptr;
  const size_t found = space->SlotOf(shard);
  Block* block = index_.Find(space, key);
  if (found == space->shards.size() || block == nullptr || !block->visible) return nullptr;
  if (block->pins++ == 0) index_.Hold(block);
  *slot = static_cast<uint32_t>(found);
  return block;
}

void Store::Impl::Unpin(Block* block) {
  absl::MutexLock lock(&mu_);
  if (--block->pins > 0) return;
  if (block->retired) {
    FreeRecordsIfUnused(block);
    DestroyIfUnheld(block);
  } else {
    index_.Unhold(block);
  }
}

void Store::Impl::ReportDamage(Block* block, uint32_t slot) {
  absl::MutexLock lock(&mu_);
  stats_->OnChecksumFailure(tiers_[block->records()[slot].tier]->kind());
  if (block->retired) return;
  std::vector<Block*> blocks;
  BlockIndex::CollectSubtree(block, &blocks);
  RemoveAll(blocks, RemovalReason::kDamaged);
}

uint64_t Store::Impl::Drop(SpaceId space_id, std::span<const BlockKey> keys) {
  absl::MutexLock lock(&mu_);
  const Space* space = index_.FindSpace(space_id);
  if (space == nullptr) return 0;
  uint64_t dropped = 0;
  for (const BlockKey& key : keys) {
    Block* block = index_.Find(space, key);
    if (block == nullptr || block->present == 0) continue;
    std::vector<Block*> blocks;
    BlockIndex::CollectSubtree(block, &blocks);
    dropped += RemoveAll(blocks, RemovalReason::kDropped);
  }
  return dropped;
}

uint64_t Store::Impl::DropSpace(SpaceId space_id) {
  absl::MutexLock lock(&mu_);
  const Space* space = index_.FindSpace(space_id);
  if (space == nullptr) return 0;
  std::vector<Block*> blocks;
  BlockIndex::CollectSpace(space, &blocks);
  return RemoveAll(blocks, RemovalReason::kDropped);
}

void Store::Impl::LoseTier(TierKind kind) {
  absl::MutexLock lock(&mu_);
  for (size_t i = 0; i < tiers_.size(); ++i) {
    if (tiers_[i]->kind() == kind) lost_[i] = true;
  }
  for (const auto& space : index_.spaces()) {
    std::vector<Block*> blocks, gone;
    BlockIndex::CollectSpace(space.get(), &blocks);
    // Parents come before their children.
    absl::flat_hash_set<const Block*> marked;
    for (Block* block : blocks) {
      if (!LiesInLostTier(*block) && !marked.contains(block->parent)) continue;
      marked.insert(block);
      gone.push_back(block);
    }
    RemoveAll(gone, RemovalReason::kDamaged);
  }
}

bool Store::Impl::LiesInLostTier(const Block& block) const {
  for (const Record& record : block.records()) {
    if (record.state == Record::State::kPresent && lost_[record.tier]) return true;
  }
  return false;
}

uint64_t Store::Impl::RemoveAll(std::span<Block* const> blocks, RemovalReason reason) {
  uint64_t removed = 0;
  for (size_t i = blocks.size(); i-- > 0;) {
    if (blocks[i]->present == 0) continue;
    Remove(blocks[i], reason);
    ++removed;
  }
  return removed;
}

void Store::Impl::Remove(Block* block, RemovalReason reason) {
  CountRemoval(*block, reason);
  if (!block->visible) {
    waiting_.Remove(block);
    FreeRecords(block);
    index_.Tidy(block);
    return;
  }
  StoreEvent event = EventOf(*block, StoreEvent::Kind::kRemoved);
  event.reason = reason;
  TenantAccount& account = ledger_.tenant(block->space->tenant);
  --account.visible_blocks;
  if (block->leases > 0) account.leased_bytes -= block->physical_bytes;
  Untrack(block);
  index_.Retire(block);
  FreeRecordsIfUnused(block);
  DestroyIfUnheld(block);
  Emit(event);
}

void Store::Impl::CountRemoval(const Block& block, RemovalReason reason) {
  for (const Record& record : block.records()) {
    if (record.state != Record::State::kPresent) continue;
    ledger_.RemoveRecord(record);
    stats_->OnRemoved(block.space->tenant, tiers_[record.tier]->kind(), reason, 1,
                      record.physical_bytes);
  }
}

void Store::Impl::FreeRecords(Block* block) {
  for (Record& record : block->records()) {
    if (record.state != Record::State::kPresent) continue;
    ledger_.tenant(block->space->tenant).tier_bytes[record.tier] -=
        std::exchange(record.physical_bytes, 0);
    tiers_[record.tier]->Free(record.allocation);
    record.tier = 0;
    record.state = Record::State::kAbsent;
  }
  block->present = 0;
  block->physical_bytes = 0;
  block->tier = 0;
}

void Store::Impl::FreeRecordsIfUnused(Block* block) {
  if (block->pins == 0 && block->moves == 0) FreeRecords(block);
}

void Store::Impl::DestroyIfUnheld(Block* block) {
  if (block->retired && block->pins == 0 && block->leases == 0 && block->moves == 0) {
    index_.Destroy(block);
  }
}

}  // namespace kvstow
