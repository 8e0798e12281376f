// Store: making room, and what time does to it.
#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/core/store_impl.h"

namespace kvstow {
namespace {

// How many blocks Maintain evicts before it lets others at the store.
constexpr size_t kEvictionBatch = 256;

}  // namespace

uint64_t Store::Impl::LargestPhysical(uint64_t record_bytes) const {
  uint64_t largest = 0;
  for (const Tier* tier : tiers_) largest = std::max(largest, tier->PhysicalBytes(record_bytes));
  return largest;
}

uint64_t Store::Impl::FreeBytes(size_t tier) const {
  if (lost_[tier]) return 0;
  const TierUsage usage = tiers_[tier]->usage();
  return usage.capacity_bytes - usage.used_bytes;
}

uint64_t Store::Impl::RoomBytes() const {
  uint64_t bytes = index_.evictable_bytes();
  for (size_t i = 0; i < tiers_.size(); ++i) bytes += FreeBytes(i);
  return bytes;
}

bool Store::Impl::Fits(size_t tier, uint64_t record_bytes) const {
  if (lost_[tier]) return false;
  const uint64_t capacity = tiers_[tier]->usage().capacity_bytes;
  // The first comparison keeps PhysicalBytes from overflowing.
  return record_bytes <= capacity && tiers_[tier]->PhysicalBytes(record_bytes) <= capacity;
}

bool Store::Impl::FitsSomeTier(uint64_t record_bytes) const {
  for (size_t i = 0; i < tiers_.size(); ++i) {
    if (Fits(i, record_bytes)) return true;
  }
  return false;
}

std::optional<size_t> Store::Impl::FindRoom(TenantId tenant, uint64_t record_bytes) const {
  for (size_t i = tiers_.size(); i-- > 0;) {
    if (!Fits(i, record_bytes)) continue;
    const uint64_t needed = tiers_[i]->PhysicalBytes(record_bytes);
    if (FreeBytes(i) + index_.evictable_bytes_in(i) >= needed &&
        QuotaLeft(tenant, i) + index_.evictable_bytes_of(tenant, i) >= needed) {
      return i;
    }
  }
  return std::nullopt;
}

std::optional<Placement> Store::Impl::MakeRoom(TenantId tenant, uint64_t record_bytes,
                                               Refusal* refusal) {
  *refusal = Refusal::kTooLarge;
  if (FitsSomeTier(record_bytes)) {
    ExpireLeases();
    const uint64_t largest = LargestPhysical(record_bytes);
    *refusal =
        RoomBytes() >= largest && QuotaRoom(tenant) < largest ? Refusal::kQuota : Refusal::kFull;
    // Nothing is evicted for a record that will not fit even so.
    const std::optional<size_t> room = FindRoom(tenant, record_bytes);
    while (room.has_value()) {
      if (auto placement = TryAllocate(tenant, record_bytes)) return placement;
      Block* victim = VictimFor(tenant, *room, tiers_[*room]->PhysicalBytes(record_bytes));
      if (victim == nullptr) break;
      Remove(victim, RemovalReason::kEvicted);
    }
  }
  return std::nullopt;
}

std::optional<Placement> Store::Impl::TryAllocate(TenantId tenant, uint64_t record_bytes) {
  for (size_t i = 0; i < tiers_.size(); ++i) {
    const uint64_t needed = tiers_[i]->PhysicalBytes(record_bytes);
    if (needed > std::min(FreeBytes(i), QuotaLeft(tenant, i))) continue;
    auto allocation = tiers_[i]->Allocate(record_bytes);
    if (!allocation.ok()) continue;
    ledger_.tenant(tenant).tier_bytes[i] += needed;
    return Placement{.tier = i, .allocation = *std::move(allocation), .bytes = record_bytes};
  }
  return std::nullopt;
}

void Store::Impl::Maintain() {
  bool above = false;
  {
    absl::MutexLock lock(&mu_);
    ExpireLeases();
    ExpireIncomplete();
    above = Above(tiers_.size() - 1, options_.high_watermark);
  }
  while (above) {
    absl::MutexLock lock(&mu_);
    above = EvictSome(options_.low_watermark);
  }
  if (mover_ != nullptr) MoveSome();
}

bool Store::Impl::Above(size_t tier, double fraction) const {
  const TierUsage usage = tiers_[tier]->usage();
  return usage.used_bytes > fraction * usage.capacity_bytes;
}

bool Store::Impl::EvictSome(double fraction) {
  const size_t slowest = tiers_.size() - 1;
  for (size_t i = 0; i < kEvictionBatch; ++i) {
    Block* victim = VictimOf(slowest);
    if (victim == nullptr || !Above(slowest, fraction)) return false;
    Remove(victim, RemovalReason::kEvicted);
  }
  return true;
}

void Store::Impl::ExpireIncomplete() {
  const absl::Time until = clock_->Now() - options_.incomplete_ttl;
  while (Block* block = waiting_.Oldest(until)) Remove(block, RemovalReason::kIncomplete);
}

}  // namespace kvstow
