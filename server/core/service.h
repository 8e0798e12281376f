// kvstow's semantics, free of any transport: sessions, spaces, lookups, leases, puts, gets,
// watching, statistics. The rpc layer converts, calls this, and converts back.
//
// Every method takes the caller's tenant, which comes from its authenticated identity; what belongs
// to another tenant looks exactly like what does not exist. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/core/call_context.h"
#include "server/core/get_call.h"
#include "server/core/put_call.h"
#include "server/core/sessions.h"
#include "server/core/watch_hub.h"

namespace kvstow {

struct ServiceLimits {
  uint32_t max_keys_per_lookup = 8192;
  uint32_t max_blocks_per_put = 256;
  uint32_t max_blocks_per_get = 1024;
  uint32_t max_sessions = 10000;
  std::vector<uint32_t> tenant_sessions = {};  // by TenantId; 0, and beyond the list: no limit
  uint32_t max_spaces_per_session = 64;
  uint32_t max_spaces = 4096;  // distinct ones over the daemon's life: the store remembers each
  uint64_t max_inflight_bytes = uint64_t{256} << 20;
  uint64_t max_staged_bytes = uint64_t{512} << 20;
  size_t watch_queue = 4096;
  absl::Duration max_lease_ttl = absl::Minutes(10);  // told to clients; StoreOptions enforces it
};

struct OpenedSpace {
  uint64_t handle = 0;
  std::shared_ptr<const SpaceContext> space;
};

// A record as Inspect finds it, read and checked just now.
struct RecordInspection {
  BlockInfo::ShardInfo where;
  absl::Status health;  // DATA_LOSS says what is wrong
  std::optional<RecordIndex> record;
};
struct BlockInspection {
  BlockInfo info;
  std::vector<RecordInspection> records;
};

struct ServiceSnapshot {
  StoreSnapshot store;
  uint64_t sessions = 0;
  uint64_t queue_depth = 0;
  uint64_t inflight_bytes = 0;
  uint64_t staged_bytes = 0;
};

class Service {
 public:
  struct Parts {
    Store* store;
    PlaneCodec* codec;
    Executor* executor;
    const Clock* clock;
    RandomSource* random;
    StatsSink* stats;
    DeviceReads* device_reads = nullptr;    // null without staging on a device
    DeviceWrites* device_writes = nullptr;  // the same
  };
  // All parts outlive the Service; executor work that it scheduled must have run before it goes.
  Service(ServiceLimits limits, Parts parts);
  ~Service();
  Service(const Service&) = delete;

  const ServiceLimits& limits() const { return limits_; }
  const PlaneCodec& codec() const { return context_.codec; }

  // `prefill_rate`: how many tokens a second the client prefills; 0 when it is not known.
  absl::StatusOr<std::shared_ptr<Session>> BeginSession(TenantId tenant, std::string client_name,
                                                        double prefill_rate = 0);
  void EndSession(const SessionId& id) { sessions_.End(id); }
  // As Sessions::Find.
  absl::StatusOr<std::shared_ptr<Session>> FindSession(const SessionId& id) const {
    return sessions_.Find(id);
  }

  // INVALID_ARGUMENT names the field; FAILED_PRECONDITION for the session, as in all below.
  absl::StatusOr<OpenedSpace> OpenSpace(TenantId tenant, const SessionId& session, SpaceSpec spec,
                                        Shard shard);

  absl::StatusOr<LookupMatch> Lookup(TenantId tenant, const SessionId& session, uint64_t space,
                                     std::span<const BlockKey> keys, const std::string& request_id,
                                     absl::Duration ttl);
  absl::StatusOr<uint64_t> Prefetch(TenantId tenant, const SessionId& session, uint64_t space,
                                    std::span<const BlockKey> keys);
  absl::StatusOr<uint32_t> Release(TenantId tenant, const SessionId& session,
                                   std::span<const LeaseId> leases);
  absl::StatusOr<std::vector<bool>> Renew(TenantId tenant, const SessionId& session,
                                          std::span<const LeaseId> leases, absl::Duration ttl);
  absl::StatusOr<uint64_t> Drop(TenantId tenant, const SessionId& session, uint64_t space,
                                std::span<const BlockKey> keys);
  absl::StatusOr<uint64_t> DropAll(TenantId tenant, const SessionId& session, uint64_t space);

  // `slot` of Put and Get: the part of the session's staging that the call borrows.
  absl::StatusOr<std::shared_ptr<PutCall>> Put(TenantId tenant, const SessionId& session,
                                               uint64_t space, std::vector<BlockIntent> intents,
                                               absl::Duration ttl,
                                               const std::optional<SlotClaim>& slot = {},
                                               PlaneForm form = PlaneForm::kDecoded);
  absl::StatusOr<std::shared_ptr<GetCall>> Get(TenantId tenant, const SessionId& session,
                                               uint64_t space, std::span<const BlockKey> keys,
                                               std::span<const uint32_t> layers, PlaneForm form,
                                               const std::optional<SlotClaim>& slot = {});

  struct Watching {
    SpaceId space{};
    std::shared_ptr<WatchHub::Watcher> watcher;
  };
  absl::StatusOr<Watching> Watch(TenantId tenant, const SessionId& session, uint64_t space);
  void Unwatch(const Watching& watching) { hub_.Unwatch(watching.space, watching.watcher); }

  // As WatchHub::Follow: for the daemon itself, which knows whom it tells.
  std::shared_ptr<WatchHub::Watcher> Follow(TenantId tenant, std::string model,
                                            size_t queue_limit) {
    return hub_.Follow(tenant, std::move(model), queue_limit);
  }
  void Unfollow(const std::shared_ptr<WatchHub::Watcher>& follower) { hub_.Unfollow(follower); }

  // NOT_FOUND for an unknown key. With `drop_damaged` a block that is found damaged leaves the
  // store.
  absl::StatusOr<BlockInspection> Inspect(TenantId tenant, const SessionId& session, uint64_t space,
                                          const BlockKey& key, bool drop_damaged = false);

  // Calls `resume` when received bytes may be added again (ByteBudget::WhenBelowLimit).
  void WhenBelowInflightLimit(absl::AnyInvocable<void()> resume) {
    inflight_.WhenBelowLimit(std::move(resume));
  }

  // On an executor thread, for streams that were woken where they must not linger.
  void RunSoon(WorkPriority priority, absl::AnyInvocable<void()> work) {
    context_.executor.Schedule(priority, std::move(work));
  }

  // Housekeeping, every 100 ms or so.
  void Maintain() { context_.store.Maintain(); }
  void StartDraining() { context_.store.StartDraining(); }

  ServiceSnapshot Snapshot() const;

 private:
  // Whom a Put or Get is for.
  struct Caller {
    std::shared_ptr<Session> session;
    std::shared_ptr<const SpaceContext> space;
    StagingSlot slot;
  };
  absl::StatusOr<Caller> FindCaller(TenantId tenant, const SessionId& session, uint64_t space,
                                    const std::optional<SlotClaim>& slot) const;
  // Takes those away that nobody would be told. INVALID_ARGUMENT when a block has not as many as
  // tokens.
  absl::Status CheckTokenIds(const SpaceContext& space, std::vector<BlockIntent>& intents) const;
  absl::StatusOr<std::shared_ptr<const SpaceContext>> FindSpace(TenantId tenant,
                                                                const SessionId& session,
                                                                uint64_t handle) const;
  absl::StatusOr<std::shared_ptr<const SpaceContext>> SharedContext(TenantId tenant, SpaceSpec spec,
                                                                    Shard shard);

  const ServiceLimits limits_;
  RandomSource* const random_;
  ByteBudget inflight_;
  ByteBudget staged_;
  CallContext context_;
  WatchHub hub_;
  Sessions sessions_;

  absl::Mutex mu_;
  // Live contexts by tenant and fingerprint, so that sessions share rotary tables.
  absl::flat_hash_map<std::pair<TenantId, Fingerprint>,
                      std::vector<std::weak_ptr<const SpaceContext>>>
      contexts_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<SpaceId> spaces_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
