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

std::optional<size_t> Store::Impl::FindRoom(uint64_t record_bytes) const {
  for (size_t i = tiers_.size(); i-- > 0;) {
    if (!Fits(i, record_bytes)) continue;
    if (FreeBytes(i) + index_.evictable_bytes_in(i) >= tiers_[i]->PhysicalBytes(record_bytes)) {
      return i;
    }
  }
  return std::nullopt;
}

absl::StatusOr<Store::Impl::Placement> Store::Impl::MakeRoom(TenantId tenant,
                                                             uint64_t record_bytes) {
  Refusal refusal = Refusal::kTooLarge;
  if (FitsSomeTier(record_bytes)) {
    refusal = Refusal::kFull;
    ExpireLeases();
    // Nothing is evicted for a record that will not fit even so.
    const std::optional<size_t> room = FindRoom(record_bytes);
    while (room.has_value()) {
      if (auto placement = TryAllocate(record_bytes)) {
        ledger_.tenant(tenant).physical_bytes +=
            tiers_[placement->tier]->PhysicalBytes(record_bytes);
        return *std::move(placement);
      }
      Block* victim = queue_.VictimIn(*room);
      // What is evictable there lies behind leaves in other tiers.
      if (victim == nullptr) victim = queue_.Victim();
      if (victim == nullptr) break;
      Remove(victim, RemovalReason::kEvicted);
    }
  }
  stats_->OnRefused(tenant, refusal, 1);
  return absl::ResourceExhaustedError(
      absl::StrCat("no room for a record of ", record_bytes, " bytes: ", Name(refusal)));
}

std::optional<Store::Impl::Placement> Store::Impl::TryAllocate(uint64_t record_bytes) {
  for (size_t i = 0; i < tiers_.size(); ++i) {
    if (tiers_[i]->PhysicalBytes(record_bytes) > FreeBytes(i)) continue;
    auto allocation = tiers_[i]->Allocate(record_bytes);
    if (allocation.ok()) return Placement{.tier = i, .allocation = *std::move(allocation)};
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
    Block* victim = queue_.VictimIn(slowest);
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
