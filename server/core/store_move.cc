// Store: how records get from one tier to another. What moves is decided in store_demotion.cc and
// store_promotion.cc.
//
// A move takes room in the other tier, is copied by the RecordMover outside the lock, and ends
// under the lock, where the copy becomes the record unless the block has gone or is being read.
// Until then the block cannot be evicted, and if it goes otherwise its memory stays as long as the
// move lasts.
#include <algorithm>
#include <utility>

#include "server/core/store_impl.h"

namespace kvstow {

void Store::Impl::MoveSome() {
  std::vector<MoveBatch> batches;
  {
    absl::MutexLock lock(&mu_);
    for (FastTier& tier : fast_) {
      if (tier.scanning) continue;
      for (TierQueue& queue : tier.queues) queue.BringBack();
    }
    batches = PlanMoves();
  }
  Launch(std::move(batches));
}

std::vector<Store::Impl::MoveBatch> Store::Impl::PlanMoves() {
  MovePlan plan;
  if (draining_) return {};
  PlanDemotions(&plan);
  PlanPromotions(&plan);
  batches_in_flight_ += plan.batches.size();
  return std::move(plan.batches);
}

void Store::Impl::Launch(std::vector<MoveBatch> batches) {
  // The last of them may have ended, and this object gone, when Move returns.
  RecordMover* const mover = mover_;
  for (MoveBatch& batch : batches) {
    std::vector<RecordMove> moves;
    for (MovingRecord& moving : batch) {
      moves.push_back({.source = tiers_[moving.from],
                       .from = moving.source,
                       .destination = tiers_[moving.to],
                       .to = moving.target,
                       // To the end of the last page: what is overwritten here is so there.
                       .bytes = std::min(tiers_[moving.from]->PhysicalBytes(moving.bytes),
                                         moving.target_bytes)});
    }
    mover->Move(std::move(moves),
                [this, batch = std::move(batch)](std::span<const absl::Status> results) mutable {
                  FinishBatch(batch, results);
                });
  }
}

void Store::Impl::FinishBatch(MoveBatch& batch, std::span<const absl::Status> results) {
  std::vector<MoveBatch> next;
  {
    absl::MutexLock lock(&mu_);
    for (size_t i = 0; i < batch.size(); ++i) FinishMove(batch[i], results[i]);
    next = PlanMoves();
    --batches_in_flight_;
  }
  // Without another batch in flight this object may be gone by now.
  if (!next.empty()) Launch(std::move(next));
}

bool Store::Impl::MayMove(uint64_t bytes) const {
  return moving_bytes_ == 0 || moving_bytes_ + bytes <= options_.max_moving_bytes;
}

void Store::Impl::HoldForMove(Block* block) {
  if (block->moves++ == 0) index_.Hold(block);
}

void Store::Impl::UnholdAfterMove(Block* block) {
  if (--block->moves == 0) index_.Unhold(block);
}

bool Store::Impl::StartMove(TierQueue::Item item, size_t to, uint64_t previous_use,
                            MovePlan* plan) {
  Record& record = item.block->records()[item.slot];
  const TenantId tenant = item.block->space->tenant;
  const uint64_t physical = tiers_[to]->PhysicalBytes(record.bytes);
  if (QuotaLeft(tenant, to) < physical) return false;
  auto allocation = tiers_[to]->Allocate(record.bytes);
  if (!allocation.ok()) return false;
  ledger_.tenant(tenant).tier_bytes[to] += physical;
  if (record.tier < fast_.size()) {
    QueueOf(record.tier, item.block).Remove(item);
    fast_[record.tier].all_leaving += record.physical_bytes;
    fast_[record.tier].leaving[static_cast<size_t>(tenant)] += record.physical_bytes;
  }
  record.moving = true;
  moving_bytes_ += record.bytes;
  if (plan->batches.empty() || plan->batch_bytes + record.bytes > options_.move_batch_bytes) {
    plan->batches.emplace_back();
    plan->batch_bytes = 0;
  }
  plan->batch_bytes += record.bytes;
  plan->batches.back().push_back({.block = item.block,
                                  .slot = item.slot,
                                  .from = record.tier,
                                  .to = static_cast<uint8_t>(to),
                                  .source = record.allocation,
                                  .target = *std::move(allocation),
                                  .bytes = record.bytes,
                                  .target_bytes = physical,
                                  .previous_use = previous_use});
  return true;
}

void Store::Impl::FinishMove(const MovingRecord& move, const absl::Status& status) {
  Block* block = move.block;
  Record& record = block->records()[move.slot];
  record.moving = false;
  moving_bytes_ -= move.bytes;
  if (move.from < fast_.size()) {
    fast_[move.from].all_leaving -= record.physical_bytes;
    fast_[move.from].leaving[static_cast<size_t>(block->space->tenant)] -= record.physical_bytes;
  }
  if (!status.ok()) stats_->OnMoveFailed(tiers_[move.from]->kind(), tiers_[move.to]->kind(), 1);
  const bool arrives = status.ok() && !block->retired && block->pins == 0;
  if (arrives) {
    Switch(move);
  } else {
    ledger_.tenant(block->space->tenant).tier_bytes[move.to] -= move.target_bytes;
    tiers_[move.to]->Free(move.target);
  }
  if (block->retired) {
    --block->moves;
    FreeRecordsIfUnused(block);
    DestroyIfUnheld(block);
    return;
  }
  if (record.tier < fast_.size()) {
    TierQueue& queue = QueueOf(record.tier, block);
    queue.Push({block, move.slot});
    if (!arrives) queue.SetAside({block, move.slot});
  }
  // A Get is reading it: that much more it is worth another try.
  if (!arrives && status.ok() && move.to < move.from) {
    promotions_.Add({block, move.slot, move.previous_use});
  }
  UnholdAfterMove(block);
}

void Store::Impl::Switch(const MovingRecord& move) {
  Block* block = move.block;
  Record& record = block->records()[move.slot];
  const uint64_t block_bytes = block->physical_bytes - record.physical_bytes + move.target_bytes;
  TenantAccount& account = ledger_.tenant(block->space->tenant);
  // The target was counted when the move began.
  account.tier_bytes[move.from] -= record.physical_bytes;
  if (block->leases > 0) account.leased_bytes += block_bytes - block->physical_bytes;
  ledger_.RemoveRecord(record);
  tiers_[move.from]->Free(record.allocation);
  record.allocation = move.target;
  record.physical_bytes = move.target_bytes;
  record.tier = move.to;
  // Only a use from now on asks for another move.
  promotions_.Remove(block, move.slot);
  ledger_.AddRecord(record);
  queues_.Of(block).Resize(*block, block_bytes);
  block->physical_bytes = block_bytes;
  const uint8_t tier_before = std::exchange(block->tier, 0);
  for (const Record& r : block->records()) block->tier = std::max(block->tier, r.tier);
  stats_->OnMoved(tiers_[move.from]->kind(), tiers_[move.to]->kind(), 1, move.bytes);
  if (block->tier == tier_before) return;
  StoreEvent event = EventOf(*block, StoreEvent::Kind::kMoved);
  event.from = tiers_[tier_before]->kind();
  Emit(event);
}

void Store::Impl::Track(Block* block) {
  for (uint32_t slot = 0; slot < block->records().size(); ++slot) {
    const uint8_t tier = block->records()[slot].tier;
    if (tier < fast_.size()) QueueOf(tier, block).Push({block, slot});
  }
}

void Store::Impl::Untrack(Block* block) {
  if (fast_.empty()) return;
  for (uint32_t slot = 0; slot < block->records().size(); ++slot) {
    const uint8_t tier = block->records()[slot].tier;
    if (tier < fast_.size()) QueueOf(tier, block).Remove({block, slot});
    if (tier > 0) promotions_.Remove(block, slot);
  }
}

void Store::Impl::OnCooled(Block* block) {
  for (uint32_t slot = 0; slot < block->records().size(); ++slot) {
    const uint8_t tier = block->records()[slot].tier;
    if (tier < fast_.size()) QueueOf(tier, block).Cool({block, slot});
  }
}

}  // namespace kvstow
