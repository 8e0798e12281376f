// How much there is, by tier and by tenant: the numbers behind snapshots and quotas.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/btree_map.h"
#include "server/core/block.h"
#include "server/core/ids.h"

namespace kvstow {

struct TierAccount {
  uint64_t records = 0;
  uint64_t record_bytes = 0;
  uint64_t logical_bytes = 0;
};

struct TenantAccount {
  uint64_t visible_blocks = 0;
  // Allocated, by tier: also what is being written, and what only pins keep.
  std::vector<uint64_t> tier_bytes;
  // By estimate, of the Puts that have a reservation.
  uint64_t promised_bytes = 0;
  // Of blocks with at least one lease, each counted once.
  uint64_t leased_bytes = 0;
  uint64_t leases = 0;
};

class StoreLedger {
 public:
  explicit StoreLedger(size_t tiers) : tiers_(tiers) {}

  // A record entered or left the index.
  void AddRecord(const Record& record) {
    TierAccount& account = tiers_[record.tier];
    ++account.records;
    account.record_bytes += record.bytes;
    account.logical_bytes += record.raw_bytes;
  }
  void RemoveRecord(const Record& record) {
    TierAccount& account = tiers_[record.tier];
    --account.records;
    account.record_bytes -= record.bytes;
    account.logical_bytes -= record.raw_bytes;
  }

  const TierAccount& tier(size_t index) const { return tiers_[index]; }
  TenantAccount& tenant(TenantId id) {
    TenantAccount& account = tenants_[id];
    if (account.tier_bytes.empty()) account.tier_bytes.resize(tiers_.size());
    return account;
  }
  uint64_t promised_bytes(TenantId id) const {
    const auto account = tenants_.find(id);
    return account == tenants_.end() ? 0 : account->second.promised_bytes;
  }
  uint64_t tier_bytes(TenantId id, size_t tier) const {
    const auto account = tenants_.find(id);
    return account == tenants_.end() ? 0 : account->second.tier_bytes[tier];
  }
  const absl::btree_map<TenantId, TenantAccount>& tenants() const { return tenants_; }

 private:
  std::vector<TierAccount> tiers_;
  absl::btree_map<TenantId, TenantAccount> tenants_;
};

}  // namespace kvstow
