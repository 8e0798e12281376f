// Store: looking at it from outside.
#include <algorithm>
#include <numeric>
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
  for (const auto& [tenant, account] : ledger_.tenants()) {
    snapshot.tenants.push_back(
        {.tenant = tenant,
         .blocks = account.visible_blocks,
         .physical_bytes =
             std::accumulate(account.tier_bytes.begin(), account.tier_bytes.end(), uint64_t{0}),
         .tier_bytes = account.tier_bytes,
         .leased_bytes = account.leased_bytes,
         .leases = account.leases});
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
