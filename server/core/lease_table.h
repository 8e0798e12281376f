// Which leases there are, whose, and until when. Knows nothing of what a lease does to its blocks:
// that is the store's.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "server/core/block.h"
#include "server/core/ids.h"
#include "server/core/random.h"

namespace kvstow {

struct LeaseEntry {
  LeaseId id = kNoLease;
  TenantId tenant{};
  SessionId owner{};
  std::string request_id{};  // may be empty
  absl::Time granted{};
  absl::Time expiry{};
  std::vector<Block*> blocks{};  // as looked up: parents before children
};

class LeaseTable {
 public:
  explicit LeaseTable(RandomSource* random) : random_(random) {}

  // A fresh id that nobody can guess.
  LeaseId NewId();
  // `lease.id` must be new here; so must (owner, request_id) unless request_id is empty.
  void Add(LeaseEntry lease);
  // Null when there is none. Valid until the lease is taken.
  const LeaseEntry* Find(LeaseId id) const;
  // kNoLease when there is none.
  LeaseId FindRequest(const SessionId& owner, const std::string& request_id) const;
  std::vector<LeaseId> OfOwner(const SessionId& owner) const;
  // REQUIRES that it is there.
  void SetExpiry(LeaseId id, absl::Time expiry);
  // Takes the lease out and hands it over. REQUIRES that it is there.
  LeaseEntry Take(LeaseId id);
  // Takes a lease whose time is up, earliest first.
  std::optional<LeaseEntry> TakeExpired(absl::Time now);

  size_t size() const { return leases_.size(); }
  const absl::flat_hash_map<LeaseId, std::unique_ptr<LeaseEntry>>& leases() const {
    return leases_;
  }

 private:
  RandomSource* const random_;
  absl::flat_hash_map<LeaseId, std::unique_ptr<LeaseEntry>> leases_;
  absl::btree_set<std::pair<absl::Time, LeaseId>> by_expiry_;
  absl::flat_hash_map<std::pair<SessionId, std::string>, LeaseId> by_request_;
  absl::flat_hash_map<SessionId, absl::btree_set<LeaseId>> by_owner_;
};

}  // namespace kvstow
