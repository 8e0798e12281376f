#include "server/core/lease_table.h"

#include <span>

namespace kvstow {

LeaseId LeaseTable::NewId() {
  for (;;) {
    uint64_t id = 0;
    random_->Fill(std::as_writable_bytes(std::span(&id, 1)));
    if (LeaseId{id} != kNoLease && !leases_.contains(LeaseId{id})) return LeaseId{id};
  }
}

void LeaseTable::Add(LeaseEntry lease) {
  by_expiry_.emplace(lease.expiry, lease.id);
  by_owner_[lease.owner].insert(lease.id);
  if (!lease.request_id.empty()) by_request_[{lease.owner, lease.request_id}] = lease.id;
  const LeaseId id = lease.id;
  leases_[id] = std::make_unique<LeaseEntry>(std::move(lease));
}

const LeaseEntry* LeaseTable::Find(LeaseId id) const {
  const auto it = leases_.find(id);
  return it == leases_.end() ? nullptr : it->second.get();
}

LeaseId LeaseTable::FindRequest(const SessionId& owner, const std::string& request_id) const {
  if (request_id.empty()) return kNoLease;
  const auto it = by_request_.find({owner, request_id});
  return it == by_request_.end() ? kNoLease : it->second;
}

std::vector<LeaseId> LeaseTable::OfOwner(const SessionId& owner) const {
  const auto it = by_owner_.find(owner);
  if (it == by_owner_.end()) return {};
  return {it->second.begin(), it->second.end()};
}

void LeaseTable::SetExpiry(LeaseId id, absl::Time expiry) {
  LeaseEntry& lease = *leases_.find(id)->second;
  by_expiry_.erase({lease.expiry, id});
  lease.expiry = expiry;
  by_expiry_.emplace(expiry, id);
}

LeaseEntry LeaseTable::Take(LeaseId id) {
  const auto it = leases_.find(id);
  LeaseEntry lease = std::move(*it->second);
  leases_.erase(it);
  by_expiry_.erase({lease.expiry, id});
  if (!lease.request_id.empty()) by_request_.erase({lease.owner, lease.request_id});
  const auto owned = by_owner_.find(lease.owner);
  owned->second.erase(id);
  if (owned->second.empty()) by_owner_.erase(owned);
  return lease;
}

std::optional<LeaseEntry> LeaseTable::TakeExpired(absl::Time now) {
  if (by_expiry_.empty() || by_expiry_.begin()->first > now) return std::nullopt;
  return Take(by_expiry_.begin()->second);
}

}  // namespace kvstow
