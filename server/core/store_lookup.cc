// Store: look-ups and leases.
#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "server/core/store_impl.h"

namespace kvstow {

LookupMatch Store::Impl::Lookup(SpaceId space_id, std::span<const BlockKey> keys,
                                const SessionId& owner, const std::string& request_id,
                                absl::Duration ttl) {
  LookupMatch match;
  absl::MutexLock lock(&mu_);
  const Space* space = index_.FindSpace(space_id);
  if (space == nullptr) return match;
  std::vector<Block*> blocks;
  index_.FindVisiblePrefix(space, keys, &blocks);
  match.tiers.reserve(blocks.size());
  for (const Block* block : blocks) match.tiers.push_back(tiers_[block->tier]->kind());
  if (ttl <= absl::ZeroDuration()) return match;

  stats_->OnLookup(space->tenant, blocks.size() * space->block_tokens,
                   (keys.size() - blocks.size()) * space->block_tokens);
  const absl::Time now = clock_->Now();
  // From the end, so that of two blocks used together the one that more prompts share is the later.
  for (size_t i = blocks.size(); i-- > 0;) {
    CountLookup(blocks[i]);
    Use(blocks[i], now);
  }
  // A repeated request keeps its lease's id: whichever answer reached the client, it can release.
  LeaseId id = leases_.FindRequest(owner, request_id);
  if (id != kNoLease) EndLease(leases_.Take(id));
  if (blocks.empty()) return match;
  match.lease = Grant(*space, std::move(blocks), owner, request_id, id, ttl);
  match.lease_refused = match.lease == kNoLease;
  return match;
}

LeaseId Store::Impl::Lease(SpaceId space_id, std::span<const BlockKey> keys, const SessionId& owner,
                           absl::Duration ttl) {
  if (ttl <= absl::ZeroDuration()) return kNoLease;
  absl::MutexLock lock(&mu_);
  const Space* space = index_.FindSpace(space_id);
  if (space == nullptr) return kNoLease;
  std::vector<Block*> blocks;
  for (const BlockKey& key : keys) {
    Block* block = index_.Find(space, key);
    if (block != nullptr && block->visible) blocks.push_back(block);
  }
  if (blocks.empty()) return kNoLease;
  return Grant(*space, std::move(blocks), owner, /*request_id=*/"", kNoLease, ttl);
}

absl::Status Store::Impl::Renew(TenantId tenant, LeaseId id, absl::Duration ttl) {
  if (ttl <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("a lease is renewed for a time above 0");
  }
  absl::MutexLock lock(&mu_);
  if (FindLease(tenant, id) == nullptr) return absl::NotFoundError("no such lease");
  leases_.SetExpiry(id, clock_->Now() + std::min(ttl, options_.max_lease_ttl));
  return absl::OkStatus();
}

absl::Status Store::Impl::Release(TenantId tenant, LeaseId id) {
  absl::MutexLock lock(&mu_);
  if (FindLease(tenant, id) == nullptr) return absl::NotFoundError("no such lease");
  EndLease(leases_.Take(id));
  return absl::OkStatus();
}

void Store::Impl::ReleaseAll(const SessionId& owner) {
  absl::MutexLock lock(&mu_);
  for (const LeaseId id : leases_.OfOwner(owner)) EndLease(leases_.Take(id));
}

void Store::Impl::Use(Block* block, absl::Time now) {
  ++block->hits;
  block->last_use_nanos = absl::ToUnixNanos(now);
  queues_.Of(block).Touch(block, ++tick_);
}

LeaseId Store::Impl::Grant(const Space& space, std::vector<Block*> blocks, const SessionId& owner,
                           const std::string& request_id, LeaseId id, absl::Duration ttl) {
  if (!WithinLeaseQuota(space.tenant, blocks)) {
    stats_->OnRefused(space.tenant, Refusal::kLeaseQuota, blocks.size());
    return kNoLease;
  }
  for (Block* block : blocks) HoldForLease(block);
  ++ledger_.tenant(space.tenant).leases;
  if (id == kNoLease) id = leases_.NewId();
  const absl::Time now = clock_->Now();
  leases_.Add({.id = id,
               .tenant = space.tenant,
               .owner = owner,
               .request_id = request_id,
               .granted = now,
               .expiry = now + std::min(ttl, options_.max_lease_ttl),
               .blocks = std::move(blocks)});
  return id;
}

bool Store::Impl::WithinLeaseQuota(TenantId tenant, std::span<Block* const> blocks) {
  uint64_t bytes = ledger_.tenant(tenant).leased_bytes;
  for (const Block* block : blocks) {
    if (block->leases == 0) bytes += block->physical_bytes;
  }
  const auto index = static_cast<size_t>(tenant);
  if (index < options_.quotas.size() && bytes > options_.quotas[index].leased_bytes) return false;
  return bytes <= options_.max_leased_fraction * capacity_bytes_;
}

void Store::Impl::HoldForLease(Block* block) {
  if (block->leases++ > 0) return;
  ledger_.tenant(block->space->tenant).leased_bytes += block->physical_bytes;
  index_.Hold(block);
}

void Store::Impl::EndLease(LeaseEntry lease) {
  --ledger_.tenant(lease.tenant).leases;
  // Children first: a parent is let go when nothing below it is held any more, so that each step
  // ends after one link.
  for (size_t i = lease.blocks.size(); i-- > 0;) {
    Block* block = lease.blocks[i];
    if (--block->leases > 0) continue;
    if (block->retired) {
      DestroyIfUnheld(block);
    } else {
      ledger_.tenant(lease.tenant).leased_bytes -= block->physical_bytes;
      index_.Unhold(block);
    }
  }
}

void Store::Impl::ExpireLeases() {
  const absl::Time now = clock_->Now();
  while (auto lease = leases_.TakeExpired(now)) {
    stats_->OnLeaseExpired(lease->tenant);
    EndLease(*std::move(lease));
  }
}

const LeaseEntry* Store::Impl::FindLease(TenantId tenant, LeaseId id) {
  ExpireLeases();
  const LeaseEntry* lease = leases_.Find(id);
  return lease != nullptr && lease->tenant == tenant ? lease : nullptr;
}

}  // namespace kvstow
