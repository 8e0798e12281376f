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

uint64_t Store::Impl::UsedBytes() const {
  uint64_t used = 0;
  for (const Tier* tier : tiers_) used += tier->usage().used_bytes;
  return used;
}

bool Store::Impl::FitsSomeTier(uint64_t record_bytes) const {
  return std::any_of(tiers_.begin(), tiers_.end(), [&](const Tier* tier) {
    const uint64_t capacity = tier->usage().capacity_bytes;
    // The first comparison keeps PhysicalBytes from overflowing.
    return record_bytes <= capacity && tier->PhysicalBytes(record_bytes) <= capacity;
  });
}

absl::StatusOr<Store::Impl::Placement> Store::Impl::MakeRoom(TenantId tenant,
                                                             uint64_t record_bytes) {
  Refusal refusal = Refusal::kTooLarge;
  if (FitsSomeTier(record_bytes)) {
    refusal = Refusal::kFull;
    ExpireLeases();
    // Nothing is evicted for a record that will not fit even so.
    const uint64_t needed = LargestPhysical(record_bytes);
    const bool possible = FreeBytes() + index_.evictable_bytes() >= needed;
    while (possible) {
      if (auto placement = TryAllocate(record_bytes)) {
        ledger_.tenant(tenant).physical_bytes +=
            tiers_[placement->tier]->PhysicalBytes(record_bytes);
        return *std::move(placement);
      }
      Block* victim = queue_.Victim();
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
    const TierUsage usage = tiers_[i]->usage();
    if (tiers_[i]->PhysicalBytes(record_bytes) > usage.capacity_bytes - usage.used_bytes) continue;
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
    above = Above(options_.high_watermark);
  }
  while (above) {
    absl::MutexLock lock(&mu_);
    above = EvictSome(options_.low_watermark);
  }
}

bool Store::Impl::Above(double fraction) const { return UsedBytes() > fraction * capacity_bytes_; }

bool Store::Impl::EvictSome(double fraction) {
  for (size_t i = 0; i < kEvictionBatch; ++i) {
    Block* victim = queue_.Victim();
    if (victim == nullptr || !Above(fraction)) return false;
    Remove(victim, RemovalReason::kEvicted);
  }
  return true;
}

void Store::Impl::ExpireIncomplete() {
  const absl::Time until = clock_->Now() - options_.incomplete_ttl;
  while (Block* block = waiting_.Oldest(until)) Remove(block, RemovalReason::kIncomplete);
}

}  // namespace kvstow
