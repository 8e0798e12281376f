// Store: what moves to a faster tier because it is used.
//
// A use asks for promotion from the second one in a record's life on, so that a prompt that comes
// back once does not push out what comes back often. A Get after a Lookup of the same block is the
// same use. What asks moves to the fastest tier that can hold it when that stays below its high
// watermark; or takes the place of records there that are colder, which are demoted first.
//
// What has been moved is not moved back before it is used again: only a use asks. And a record that
// is in use gives way only to one that has been used twice since its own last use, so that a
// working set larger than the tier does not turn over in it.
#include <algorithm>
#include <limits>
#include <utility>

#include "server/core/store_impl.h"

namespace kvstow {
namespace {

// Candidates looked at in one go, under the lock.
constexpr size_t kCandidates = 512;
constexpr uint8_t kUsesToAsk = 2;

bool GivesWay(const Block& block, const Candidate& candidate) {
  if (&block == candidate.block || block.heat() >= candidate.block->heat()) return false;
  return !block.is_protected || block.last_use < candidate.previous_use;
}

}  // namespace

void Store::Impl::CountUse(Block* block, uint32_t slot) {
  Record& record = block->records()[slot];
  if (record.uses < std::numeric_limits<uint8_t>::max()) ++record.uses;
  if (record.tier > 0 && record.uses >= kUsesToAsk) {
    promotions_.Add({block, slot, /*previous_use=*/block->last_use});
  }
}

void Store::Impl::CountLookup(Block* block) {
  if (fast_.empty()) return;
  for (uint32_t slot = 0; slot < block->records().size(); ++slot) {
    CountUse(block, slot);
    block->records()[slot].awaited = true;
  }
}

void Store::Impl::CountGet(Block* block, uint32_t slot) {
  if (fast_.empty()) return;
  Record& record = block->records()[slot];
  if (!record.awaited) CountUse(block, slot);
  record.awaited = false;
}

uint64_t Store::Impl::Prefetch(SpaceId space_id, std::span<const BlockKey> keys) {
  uint64_t asked = 0;
  std::vector<MoveBatch> batches;
  {
    absl::MutexLock lock(&mu_);
    const Space* space = index_.FindSpace(space_id);
    if (space == nullptr || fast_.empty()) return 0;
    std::vector<Block*> blocks;
    index_.FindVisiblePrefix(space, keys, &blocks);
    // From the end: what is used first is the newest to ask, and goes first.
    for (size_t i = blocks.size(); i-- > 0;) asked += AskForPromotion(blocks[i]);
    batches = PlanMoves();
  }
  Launch(std::move(batches));
  return asked;
}

uint64_t Store::Impl::AskForPromotion(Block* block) {
  // After a Lookup it is the same use, whose tick must not pass for the one before.
  const bool looked_up = std::any_of(block->records().begin(), block->records().end(),
                                     [](const Record& record) { return record.awaited; });
  const uint64_t previous_use = looked_up ? 0 : block->last_use;
  if (!looked_up) Use(block, clock_->Now());
  uint64_t asked = 0;
  for (uint32_t slot = 0; slot < block->records().size(); ++slot) {
    if (block->records()[slot].tier == 0) continue;
    if (!promotions_.Contains(block, slot)) promotions_.Add({block, slot, previous_use});
    ++asked;
  }
  return asked;
}

void Store::Impl::PlanPromotions(MovePlan* plan) {
  // Of each tier, what has been found for candidates that wait for it to become free.
  std::vector<uint64_t> awaited(fast_.size(), 0);
  for (const Candidate& candidate : promotions_.Newest(kCandidates)) {
    // Room made for one before it may have cost it its block.
    if (!promotions_.Contains(candidate.block, candidate.slot)) continue;
    if (!MayMove(candidate.block->records()[candidate.slot].bytes)) return;
    if (Promote(candidate, &awaited, plan) != Attempt::kLater) {
      promotions_.Remove(candidate.block, candidate.slot);
    }
  }
}

Store::Impl::Attempt Store::Impl::Promote(const Candidate& candidate,
                                          std::vector<uint64_t>* awaited, MovePlan* plan) {
  Block* block = candidate.block;
  const Record& record = block->records()[candidate.slot];
  if (block->pins > 0 || record.moving) return Attempt::kLater;
  const std::optional<size_t> to = PromotionTier(record, block->space->tenant);
  if (!to.has_value()) return Attempt::kRefused;
  const uint64_t needed = tiers_[*to]->PhysicalBytes(record.bytes) + (*awaited)[*to];
  const Attempt room = MakeRoomByDemotion(*to, needed, candidate, plan);
  if (room != Attempt::kStarted) return room;
  if (TakesMore(block->space->tenant, *to, needed, Leaving::kStill)) {
    HoldForMove(block);
    if (LeavesWhatIsPromised(block->space->tenant, needed) &&
        StartMove({block, candidate.slot}, *to, candidate.previous_use, plan)) {
      return Attempt::kStarted;
    }
    UnholdAfterMove(block);
    return Attempt::kLater;
  }
  (*awaited)[*to] = needed;
  return Attempt::kLater;
}

std::optional<size_t> Store::Impl::PromotionTier(const Record& record, TenantId tenant) const {
  for (size_t i = 0; i < record.tier; ++i) {
    const double high = options_.high_watermark * tiers_[i]->usage().capacity_bytes;
    const uint64_t physical = Fits(i, record.bytes) ? tiers_[i]->PhysicalBytes(record.bytes) : 0;
    if (physical > 0 && physical <= high && physical <= QuotaOf(tenant, i)) return i;
  }
  return std::nullopt;
}

bool Store::Impl::TakesMore(TenantId tenant, size_t tier, uint64_t more, Leaving leaving) const {
  const FastTier& fast = fast_[tier];
  const bool gone = leaving == Leaving::kGone;
  const TierUsage usage = tiers_[tier]->usage();
  const uint64_t used = usage.used_bytes - (gone ? fast.all_leaving : 0);
  const uint64_t own =
      ledger_.tier_bytes(tenant, tier) - (gone ? fast.leaving[static_cast<size_t>(tenant)] : 0);
  return used + more <= options_.high_watermark * usage.capacity_bytes &&
         own + more <= QuotaOf(tenant, tier);
}

Store::Impl::Attempt Store::Impl::MakeRoomByDemotion(size_t tier, uint64_t needed,
                                                     const Candidate& candidate, MovePlan* plan) {
  FastTier& fast = fast_[tier];
  const TenantId tenant = candidate.block->space->tenant;
  const auto queue_of = [&](TenantId t) -> TierQueue& {
    return fast.queues[static_cast<size_t>(t)];
  };
  while (!TakesMore(tenant, tier, needed, Leaving::kGone)) {
    const TenantId donor = DonorFor(tenant, tier, needed,
                                    [&](TenantId t) { return queue_of(t).Coldest().has_value(); });
    const auto coldest = queue_of(donor).Coldest();
    if (!coldest.has_value() || !GivesWay(*coldest->block, candidate)) return Attempt::kRefused;
    if (plan->tries == 0 || !MayMove(coldest->block->records()[coldest->slot].bytes)) {
      return Attempt::kLater;
    }
    if (Demote(*coldest, plan) != Attempt::kStarted) queue_of(donor).SetAside(*coldest);
  }
  return Attempt::kStarted;
}

}  // namespace kvstow
