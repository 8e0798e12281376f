// Store: what leaves a tier for the next slower one, and what goes to make room for it there.
//
// The coldest records go first, by the order in which eviction takes blocks: those never used since
// they were put before those that were, the least recently used first within each.
#include <algorithm>
#include <utility>

#include "server/core/store_impl.h"

namespace kvstow {
namespace {

bool IsColder(const Block* block, uint64_t heat) {
  return block != nullptr && block->heat() < heat;
}

}  // namespace

bool Store::Impl::StaysAbove(size_t tier, double fraction) const {
  const TierUsage usage = tiers_[tier]->usage();
  return usage.used_bytes - fast_[tier].all_leaving > fraction * usage.capacity_bytes;
}

bool Store::Impl::RoomIsOnItsWay(TenantId tenant, size_t tier, uint64_t needed) const {
  if (tier >= fast_.size()) return false;
  const uint64_t leaving = fast_[tier].leaving[static_cast<size_t>(tenant)];
  return FreeBytes(tier) + fast_[tier].all_leaving >= needed &&
         QuotaLeft(tenant, tier) + leaving >= needed;
}

std::optional<TierQueue::Item> Store::Impl::FirstToLeave(size_t tier) {
  FastTier& fast = fast_[tier];
  const auto donor = MostLoaded(tier, [&fast](TenantId t) {
    return fast.queues[static_cast<size_t>(t)].Coldest().has_value();
  });
  return donor ? fast.queues[static_cast<size_t>(*donor)].Coldest() : std::nullopt;
}

void Store::Impl::PlanDemotions(MovePlan* plan) {
  // From the slowest on, so that what leaves one tier makes room for what leaves the one before.
  for (size_t i = fast_.size(); i-- > 0;) {
    if (lost_[i]) continue;
    FastTier& tier = fast_[i];
    if (StaysAbove(i, options_.high_watermark)) tier.demoting = true;
    // Not before it has arrived there: what is leaving may yet stay.
    if (!Above(i, options_.low_watermark)) tier.demoting = false;
    tier.scanning = false;
    while (tier.demoting && StaysAbove(i, options_.low_watermark)) {
      const auto coldest = FirstToLeave(i);
      if (!coldest.has_value()) break;
      tier.scanning = plan->tries == 0;
      if (tier.scanning || !MayMove(coldest->block->records()[coldest->slot].bytes)) break;
      const Attempt result = Demote(*coldest, plan);
      // Nothing of the next tier is colder: this is what goes, if it is a leaf that may.
      if (result == Attempt::kRefused && coldest->block->queue_position != kNotQueued) {
        Remove(coldest->block, RemovalReason::kEvicted);
      } else if (result != Attempt::kStarted) {
        QueueOf(i, coldest->block).SetAside(*coldest);
      }
    }
  }
}

Store::Impl::Attempt Store::Impl::Demote(TierQueue::Item item, MovePlan* plan) {
  --plan->tries;
  Block* block = item.block;
  const Record& record = block->records()[item.slot];
  if (block->pins > 0) return Attempt::kLater;
  const size_t to = record.tier + 1;
  if (!Fits(to, record.bytes)) return Attempt::kRefused;
  const uint64_t needed = tiers_[to]->PhysicalBytes(record.bytes);
  const TenantId tenant = block->space->tenant;
  const bool has_room = std::min(FreeBytes(to), QuotaLeft(tenant, to)) >= needed;
  if (!has_room && RoomIsOnItsWay(tenant, to, needed)) return Attempt::kLater;
  const TenantId donor = DonorFor(tenant, to, needed, HasVictimIn(to));
  if (!has_room && !IsColder(queues_.Of(donor).VictimIn(to), block->heat())) {
    return Attempt::kRefused;
  }
  // Keeps eviction off the block and its prefix; asked only now, what could be evicted without
  // them.
  HoldForMove(block);
  Attempt result = Attempt::kLater;
  // What has been promised to Puts is not for moves to take.
  if (LeavesWhatIsPromised(tenant, needed)) {
    if (!has_room && !EvictColder(tenant, donor, to, needed, block->heat())) {
      result = Attempt::kRefused;
    } else if (StartMove(item, to, /*previous_use=*/0, plan)) {
      return Attempt::kStarted;
    }
  }
  UnholdAfterMove(block);
  return result;
}

bool Store::Impl::EvictColder(TenantId tenant, TenantId donor, size_t tier, uint64_t needed,
                              uint64_t heat) {
  // Victims are taken out of the queue, and their parents looked at as the leaves that they would
  // become, until there is enough: only then do they go, so that none goes in vain.
  std::vector<Block*> victims, leaves;
  EvictionQueue& queue = queues_.Of(donor);
  uint64_t room = FreeBytes(tier);
  // What the donor gives is the tenant's quota again only if they are one.
  const uint64_t quota_left = QuotaLeft(tenant, tier);
  if (donor != tenant && quota_left < needed) return false;
  if (donor == tenant) room = std::min(room, quota_left);
  while (room < needed) {
    Block* victim = queue.VictimIn(tier);
    const auto exposed = std::min_element(leaves.begin(), leaves.end(),
                                          [](Block* a, Block* b) { return a->heat() < b->heat(); });
    if (exposed != leaves.end() && (victim == nullptr || (*exposed)->heat() < victim->heat())) {
      victim = *exposed;
      leaves.erase(exposed);
    }
    if (!IsColder(victim, heat)) break;
    queue.Remove(victim);
    victims.push_back(victim);
    for (const Record& record : victim->records()) {
      if (record.tier == tier) room += record.physical_bytes;
    }
    Block* parent = victim->parent;
    if (parent != nullptr && parent->anchors == 0 && parent->children == 1 &&
        parent->tier == tier) {
      leaves.push_back(parent);
    }
  }
  for (Block* victim : victims) {
    if (room >= needed) {
      Remove(victim, RemovalReason::kEvicted);
    } else if (victim->is_leaf()) {
      queue.Insert(victim);
    }
  }
  return room >= needed;
}

}  // namespace kvstow
