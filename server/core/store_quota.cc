// Store: what each tenant may have of each tier, and whose blocks make room.
//
// Two bounds. A quota is hard: no byte goes beyond it, and whoever is at it makes room out of its
// own blocks or is refused. A share matters only when a tier is full: it is the tier's size in
// proportion to the tenants' quotas. A tenant at or above its share makes room out of its own
// blocks first; one below it takes from whoever has the most for its share.
#include <algorithm>

#include "server/core/store_impl.h"

namespace kvstow {

uint64_t Store::Impl::QuotaOf(TenantId tenant, size_t tier) const {
  const uint64_t capacity = tiers_[tier]->usage().capacity_bytes;
  const auto index = static_cast<size_t>(tenant);
  if (index >= options_.quotas.size()) return capacity;
  const TenantQuota& quota = options_.quotas[index];
  return std::min(capacity,
                  tiers_[tier]->kind() == TierKind::kGpu ? quota.gpu_bytes : quota.host_bytes);
}

uint64_t Store::Impl::QuotaLeft(TenantId tenant, size_t tier) const {
  const uint64_t used = ledger_.tier_bytes(tenant, tier);
  return QuotaOf(tenant, tier) - std::min(used, QuotaOf(tenant, tier));
}

uint64_t Store::Impl::QuotaRoom(TenantId tenant) const {
  uint64_t room = index_.evictable_bytes_of(tenant);
  for (size_t i = 0; i < tiers_.size(); ++i) room += QuotaLeft(tenant, i);
  return room;
}

bool Store::Impl::LeavesWhatIsPromised(TenantId tenant, uint64_t bytes) const {
  return RoomBytes() >= promised_bytes_ + bytes &&
         QuotaRoom(tenant) >= ledger_.promised_bytes(tenant) + bytes;
}

double Store::Impl::LoadOf(TenantId tenant, size_t tier) const {
  const double quota = static_cast<double>(std::max<uint64_t>(QuotaOf(tenant, tier), 1));
  return static_cast<double>(ledger_.tier_bytes(tenant, tier)) / quota;
}

bool Store::Impl::HasItsShare(TenantId tenant, size_t tier) const {
  double quotas = 0;
  for (size_t t = 0; t < queues_.tenants(); ++t) {
    quotas += static_cast<double>(QuotaOf(TenantId(t), tier));
  }
  const auto capacity = static_cast<double>(tiers_[tier]->usage().capacity_bytes);
  return LoadOf(tenant, tier) * quotas >= capacity;
}

TenantId Store::Impl::DonorFor(TenantId tenant, size_t tier, uint64_t needed,
                               absl::FunctionRef<bool(TenantId)> has_any) const {
  if (QuotaLeft(tenant, tier) < needed) return tenant;
  if (HasItsShare(tenant, tier) && has_any(tenant)) return tenant;
  return MostLoaded(tier, has_any).value_or(tenant);
}

std::optional<TenantId> Store::Impl::MostLoaded(size_t tier,
                                                absl::FunctionRef<bool(TenantId)> has_any) const {
  std::optional<TenantId> most;
  for (size_t t = 0; t < queues_.tenants(); ++t) {
    const auto tenant = TenantId(t);
    if (!has_any(tenant)) continue;
    if (!most || LoadOf(tenant, tier) > LoadOf(*most, tier)) most = tenant;
  }
  return most;
}

Block* Store::Impl::VictimFor(TenantId tenant, size_t tier, uint64_t needed) const {
  const TenantId donor = DonorFor(tenant, tier, needed, HasVictimIn(tier));
  if (Block* victim = queues_.Of(donor).VictimIn(tier)) return victim;
  // What is evictable there lies behind leaves in other tiers.
  const TenantId other = DonorFor(tenant, tier, needed, [&](TenantId t) {
    mu_.AssertHeld();
    return queues_.Of(t).Victim() != nullptr;
  });
  return queues_.Of(other).Victim();
}

Block* Store::Impl::VictimOf(size_t tier) const {
  const auto donor = MostLoaded(tier, HasVictimIn(tier));
  return donor ? queues_.Of(*donor).VictimIn(tier) : nullptr;
}

}  // namespace kvstow
