// Who is connected and what each has open. A session's end is its client's death: its leases are
// released and its handles stop working.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/core/ids.h"
#include "server/core/random.h"
#include "server/core/space_context.h"
#include "server/core/staging_area.h"

namespace kvstow {

class Session {
 public:
  Session(SessionId id, TenantId tenant, std::string client_name, double prefill_rate)
      : id_(id),
        tenant_(tenant),
        client_name_(std::move(client_name)),
        prefill_rate_(prefill_rate) {}

  const SessionId& id() const { return id_; }
  TenantId tenant() const { return tenant_; }
  const std::string& client_name() const { return client_name_; }
  // Tokens a second that the client prefills; 0 when it did not say.
  double prefill_rate() const { return prefill_rate_; }
  bool ended() const { return ended_.load(std::memory_order_acquire); }

  // The same context gives the same handle. RESOURCE_EXHAUSTED beyond `limit` spaces.
  absl::StatusOr<uint64_t> AddSpace(std::shared_ptr<const SpaceContext> space, size_t limit,
                                    RandomSource* random);
  // FAILED_PRECONDITION for a handle that this session did not open.
  absl::StatusOr<std::shared_ptr<const SpaceContext>> FindSpace(uint64_t handle) const;

  // One area on the host and one on a device. Another takes the place of the one before; calls that
  // borrowed from that one keep it. Returns the region that names it from now on.
  // FAILED_PRECONDITION once the session ended.
  void DropStaging(bool on_device);
  absl::StatusOr<uint32_t> ShareStaging(std::shared_ptr<const StagingArea> area);
  // FAILED_PRECONDITION when the session has no such region any more, INVALID_ARGUMENT for a slot
  // that is too small, leaves it, or is not aligned as its device wants it.
  absl::StatusOr<StagingSlot> Borrow(const SlotClaim& claim) const;

 private:
  friend class Sessions;
  const SessionId id_;
  const TenantId tenant_;
  const std::string client_name_;
  const double prefill_rate_;
  void End() ABSL_LOCKS_EXCLUDED(mu_);
  std::atomic<bool> ended_{false};
  mutable absl::Mutex mu_;
  absl::flat_hash_map<uint64_t, std::shared_ptr<const SpaceContext>> spaces_ ABSL_GUARDED_BY(mu_);
  struct Region {
    uint32_t name = 0;
    std::shared_ptr<const StagingArea> area;
  };
  Region regions_[2] ABSL_GUARDED_BY(mu_);  // on the host, on a device
  uint32_t regions_named_ ABSL_GUARDED_BY(mu_) = 0;
};

class Sessions {
 public:
  // `tenant_sessions` by TenantId; 0, and tenants beyond the list, for no limit of their own.
  Sessions(RandomSource* random, Store* store, uint32_t max_sessions,
           std::vector<uint32_t> tenant_sessions = {})
      : random_(random),
        store_(store),
        max_sessions_(max_sessions),
        tenant_sessions_(std::move(tenant_sessions)),
        counts_(tenant_sessions_.size()) {}

  // RESOURCE_EXHAUSTED beyond max_sessions or the tenant's own limit.
  absl::StatusOr<std::shared_ptr<Session>> Begin(TenantId tenant, std::string client_name,
                                                 double prefill_rate = 0);
  void End(const SessionId& id);
  // FAILED_PRECONDITION for one that ended, never was, or belongs to another tenant: all look
  // alike.
  absl::StatusOr<std::shared_ptr<Session>> Find(TenantId tenant, const SessionId& id) const;
  // The same for whoever knows the id and nothing else: the side channel. FAILED_PRECONDITION.
  absl::StatusOr<std::shared_ptr<Session>> Find(const SessionId& id) const;
  size_t size() const;

 private:
  RandomSource* const random_;
  Store* const store_;
  const uint32_t max_sessions_;
  const std::vector<uint32_t> tenant_sessions_;
  // Null for a tenant without a limit.
  size_t* CountOf(TenantId tenant) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable absl::Mutex mu_;
  absl::flat_hash_map<SessionId, std::shared_ptr<Session>> sessions_ ABSL_GUARDED_BY(mu_);
  std::vector<size_t> counts_ ABSL_GUARDED_BY(mu_);  // open, as tenant_sessions_
};

}  // namespace kvstow
