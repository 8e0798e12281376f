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
  return usage.used_bytes - fast_[tier].leaving > fraction * usage.capacity_bytes;
}

bool Store::Impl::RoomIsOnItsWay(size_t tier, uint64_t needed) const {
  return tier < fast_.size() && FreeBytes(tier) + fast_[tier].leaving >= needed;
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
      const auto coldest = tier.queue.Coldest();
      if (!coldest.has_value()) break;
      tier.scanning = plan->tries == 0;
      if (tier.scanning || !MayMove(coldest->block->records()[coldest->slot].bytes)) break;
      const Attempt result = Demote(*coldest, plan);
      // Nothing of the next tier is colder: this is what goes, if it is a leaf that may.
      if (result == Attempt::kRefused && coldest->block->queue_position != kNotQueued) {
        Remove(coldest->block, RemovalReason::kEvicted);
      } else if (result != Attempt::kStarted) {
        tier.queue.SetAside(*coldest);
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
  const bool has_room = FreeBytes(to) >= needed;
  if (!has_room && RoomIsOnItsWay(to, needed)) return Attempt::kLater;
  if (!has_room && !IsColder(queue_.VictimIn(to), block->heat())) return Attempt::kRefused;
  // Keeps eviction off the block and its prefix; asked only now, what could be evicted without
  // them.
  HoldForMove(block);
  Attempt result = Attempt::kLater;
  // What has been promised to Puts is not for moves to take.
  if (RoomBytes() >= promised_bytes_ + needed) {
    if (!has_room && !EvictColder(to, needed, block->heat())) {
      result = Attempt::kRefused;
    } else if (StartMove(item, to, /*previous_use=*/0, plan)) {
      return Attempt::kStarted;
    }
  }
  UnholdAfterMove(block);
  return result;
}

bool Store::Impl::EvictColder(size_t tier, uint64_t needed, uint64_t heat) {
  // Victims are taken out of the queue, and their parents looked at as the leaves that they would
  // become, until there is enough: only then do they go, so that none goes in vain.
  std::vector<Block*> victims, leaves;
  uint64_t room = FreeBytes(tier);
  while (room < needed) {
    Block* victim = queue_.VictimIn(tier);
    const auto exposed = std::min_element(leaves.begin(), leaves.end(),
                                          [](Block* a, Block* b) { return a->heat() < b->heat(); });
    if (exposed != leaves.end() && (victim == nullptr || (*exposed)->heat() < victim->heat())) {
      victim = *exposed;
      leaves.erase(exposed);
    }
    if (!IsColder(victim, heat)) break;
    queue_.Remove(victim);
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
      queue_.Insert(victim);
    }
  }
  return room >= needed;
}

}  // namespace kvstow
