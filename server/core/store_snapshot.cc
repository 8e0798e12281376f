// Store: looking at it from outside.
#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "server/core/store_impl.h"

namespace kvstow {

absl::StatusOr<BlockInfo> Store::Impl::Inspect(SpaceId space_id, const BlockKey& key) const {
  absl::MutexLock lock(&mu_);
  const Space* space = index_.FindSpace(space_id);
  const Block* block = space != nullptr ? index_.Find(space, key) : nullptr;
  if (block == nullptr || block->present == 0) return absl::NotFoundError("no such block");
  BlockInfo info;
  info.key = key;
  if (block->parent != nullptr) info.parent = block->parent->key;
  info.first_position = block->first_position;
  info.visible = block->visible;
  info.children = block->children;
  info.leases = block->leases;
  info.hits = block->hits;
  if (block->visible) info.idle = clock_->Now() - absl::FromUnixNanos(block->last_use_nanos);
  const std::span<const Record> records = block->records();
  for (size_t i = 0; i < records.size(); ++i) {
    if (records[i].state != Record::State::kPresent) continue;
    info.shards.push_back({.shard = space->shards[i],
                           .tier = tiers_[records[i].tier]->kind(),
                           .record_bytes = records[i].bytes,
                           .physical_bytes = records[i].physical_bytes});
  }
  return info;
}

TenantSnapshot Store::Impl::SnapshotOf(TenantId tenant) const {
  TenantSnapshot out;
  out.tenant = tenant;
  for (size_t i = 0; i < tiers_.size(); ++i) {
    out.tier_bytes.push_back(ledger_.tier_bytes(tenant, i));
    out.quota_bytes.push_back(QuotaOf(tenant, i));
    out.physical_bytes += out.tier_bytes.back();
  }
  const auto account = ledger_.tenants().find(tenant);
  if (account == ledger_.tenants().end()) return out;
  out.blocks = account->second.visible_blocks;
  out.leased_bytes = account->second.leased_bytes;
  out.leases = account->second.leases;
  return out;
}

StoreSnapshot Store::Impl::Snapshot() const {
  absl::MutexLock lock(&mu_);
  StoreSnapshot snapshot;
  for (size_t i = 0; i < tiers_.size(); ++i) {
    const TierAccount& account = ledger_.tier(i);
    snapshot.tiers.push_back({.tier = tiers_[i]->kind(),
                              .usage = tiers_[i]->usage(),
                              .blocks = account.records,
                              .record_bytes = account.record_bytes,
                              .logical_bytes = account.logical_bytes});
  }
  for (size_t t = 0; t < queues_.tenants(); ++t) {
    snapshot.tenants.push_back(SnapshotOf(TenantId(t)));
  }
  snapshot.visible_blocks = index_.visible_blocks();
  snapshot.incomplete_blocks = waiting_.size();
  snapshot.pending_blocks = reservations_;
  snapshot.leases = leases_.size();
  snapshot.moving_bytes = moving_bytes_;
  const absl::Time now = clock_->Now();
  for (const auto& [id, lease] : leases_.leases()) {
    snapshot.oldest_lease_age = std::max(snapshot.oldest_lease_age, now - lease->granted);
  }
  return snapshot;
}

}  // namespace kvstow
