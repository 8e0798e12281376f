// The store: which blocks are there, where their records lie, who holds them, and what goes when
// room is needed. One mutex; records are written and read outside it.
//
// Invariants
// 1. A block is visible when all expected shards of its space have committed a record for it and
//    its parent is visible (or it is a root block, first_position 0).
// 2. A visible block's ancestors are visible: eviction takes leaves first, Drop takes whole
// subtrees.
// 3. A leased or pinned block, or one with a child still being put, is never evicted, nor are its
//    ancestors. A dropped block's memory goes when its last pin does.
// 4. Physical bytes in a tier never exceed its budget, nor a tenant's bytes in it its quota.
// 5. A record that moves between tiers is whole in one of them at any time, and counts in both
// while
//    it is copied. What is pinned does not move.
//
// Thread safety: all methods are thread-safe. Pins and Reservations may outlive a call and be moved
// between threads; they must not outlive the Store.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "codec/record.h"
#include "server/core/clock.h"
#include "server/core/ids.h"
#include "server/core/random.h"
#include "server/core/stats_sink.h"
#include "server/core/tier.h"
#include "space/fingerprint.h"

namespace kvstow {

struct Block;
struct PendingCommit;
class RecordMover;

// What one tenant may have at most, in physical bytes. The tiers' part is also the tenant's weight
// when tenants compete for a full tier.
struct TenantQuota {
  uint64_t gpu_bytes = UINT64_MAX;
  uint64_t host_bytes = UINT64_MAX;
  uint64_t leased_bytes = UINT64_MAX;
};

struct StoreOptions {
  // Of each tier's budget. Once usage passes `high`, Maintain() brings it down to `low`: of the
  // slowest tier by eviction, so that Commit seldom has to; of others by moving records on.
  double high_watermark = 0.95;
  double low_watermark = 0.90;
  // Share of the budget that blocks with at least one hit may keep from newcomers (segmented LRU).
  double protected_fraction = 0.80;
  // A block that has waited this long for a shard or its parent is given up.
  absl::Duration incomplete_ttl = absl::Seconds(30);
  absl::Duration max_lease_ttl = absl::Minutes(10);
  // Of the tiers' budgets together, per tenant.
  double max_leased_fraction = 0.80;
  // By TenantId; tenants beyond the list have the default.
  std::vector<TenantQuota> quotas = {};
  // Overwrite what of a record's last page it does not fill, so that nothing of the record that lay
  // there before, another tenant's maybe, stays within reach of this one's.
  bool overwrite_slack = true;
  // Of records on their way between tiers. One larger than that moves alone.
  uint64_t max_moving_bytes = uint64_t{64} << 20;
  // Of the records handed to the mover at a time.
  uint64_t move_batch_bytes = uint64_t{8} << 20;
  // Records remembered as asking for a faster tier.
  size_t max_promotions = 8192;
};

// The tokens of a block: prompt content, so held only by what passes them on. Null: none were sent.
using TokenIds = std::shared_ptr<const std::vector<uint32_t>>;

// A block as a Put announces it.
struct BlockIntent {
  BlockKey key{};
  BlockKey parent{};            // ignored for a root block
  uint64_t first_position = 0;  // 0 makes it a root block
  TokenIds token_ids = {};      // for the event of the block, and gone with it
};

struct StoreEvent {
  enum class Kind {
    kStored,
    kRemoved,
    kMoved,  // to another tier
  } kind = Kind::kStored;
  SpaceId space{};
  BlockKey key{};
  BlockKey parent{};
  uint64_t first_position = 0;
  uint32_t block_tokens = 0;
  TierKind tier = TierKind::kHost;                 // the slowest of its records'
  TierKind from = TierKind::kHost;                 // of kMoved: and before
  RemovalReason reason = RemovalReason::kEvicted;  // of kRemoved
  DeclaredQuality k, v;                            // of kStored: worst shard's
  TokenIds token_ids = {};                         // of kStored
};

struct TierSnapshot {
  TierKind tier = TierKind::kHost;
  TierUsage usage;
  uint64_t blocks = 0;         // records (a block of one shard) in the tier
  uint64_t record_bytes = 0;   // physical payload: what the records themselves take
  uint64_t logical_bytes = 0;  // what their blocks take raw
};

// By tier: as StoreSnapshot::tiers.
struct TenantSnapshot {
  TenantId tenant{};
  uint64_t blocks = 0;
  uint64_t physical_bytes = 0;
  std::vector<uint64_t> tier_bytes;   // and of that, by tier
  std::vector<uint64_t> quota_bytes;  // by tier: what it may have, at most the tier
  uint64_t leased_bytes = 0;
  uint64_t leases = 0;
};

struct StoreSnapshot {
  std::vector<TierSnapshot> tiers;
  std::vector<TenantSnapshot> tenants;
  uint64_t visible_blocks = 0;
  uint64_t incomplete_blocks = 0;  // committed by some shard, not visible yet
  uint64_t pending_blocks = 0;     // reserved by a Put in progress
  uint64_t leases = 0;
  uint64_t moving_bytes = 0;  // of records on their way between tiers
  absl::Duration oldest_lease_age;
};

struct LookupMatch {
  std::vector<TierKind> tiers;  // one a matched block; its size is the length of the prefix
  LeaseId lease = kNoLease;     // kNoLease when nothing matched, ttl was 0 or the quota is full
  bool lease_refused = false;   // by the quota
};

struct BlockInfo {
  BlockKey key{};
  BlockKey parent{};
  uint64_t first_position = 0;
  bool visible = false;
  uint32_t children = 0;
  uint32_t leases = 0;
  uint64_t hits = 0;
  absl::Duration idle;  // since last use
  struct ShardInfo {
    uint32_t shard = 0;
    TierKind tier = TierKind::kHost;
    uint64_t record_bytes = 0;
    uint64_t physical_bytes = 0;
  };
  std::vector<ShardInfo> shards;
};

class Store {
 public:
  // One record held in place; while it lives its bytes neither move nor go. Move-only.
  class Pin {
   public:
    Pin() = default;
    Pin(Pin&& o) noexcept;
    Pin& operator=(Pin&& o) noexcept;
    ~Pin();

    explicit operator bool() const { return store_ != nullptr; }
    uint64_t record_bytes() const;
    TierKind tier() const;
    uint64_t first_position() const;
    // As Tier::Read and Tier::View.
    absl::Status Read(uint64_t offset, std::span<std::byte> out) const;
    std::span<const std::byte> View(uint64_t offset, uint64_t size) const;
    // As Tier::Head.
    std::span<const std::byte> Head(uint64_t bytes) const;
    // As Tier::Locate, of the whole record.
    RecordPlace Locate() const;

   private:
    friend class Store;
    Store* store_ = nullptr;
    Block* block_ = nullptr;
    uint32_t slot_ = 0;  // of the block's records
  };

  // The right to commit one block of one shard. Given back when destroyed. Move-only.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& o) noexcept;
    Reservation& operator=(Reservation&& o) noexcept;
    ~Reservation();

    explicit operator bool() const { return store_ != nullptr; }
    const BlockIntent& intent() const;

   private:
    friend class Store;
    Store* store_ = nullptr;
    PendingCommit* pending_ = nullptr;  // owned
  };

  struct ReserveAnswer {
    enum class Kind { kSend, kExists, kDeclined } kind = Kind::kDeclined;
    Refusal refusal = Refusal::kNoParent;  // of kDeclined
    Reservation reservation;               // of kSend
  };

  // `tiers` fastest first; at least one. Without a mover records stay where they were put. All
  // pointers outlive the Store.
  Store(StoreOptions options, std::vector<Tier*> tiers, const Clock* clock, RandomSource* random,
        StatsSink* stats, RecordMover* mover = nullptr);
  // Waits for moves in flight: what runs them must still do so.
  ~Store();
  Store(const Store&) = delete;

  // Called under the store's lock, in order, for every block that becomes visible, changes its tier
  // or goes. Must be quick and not call back. Set before use.
  void SetListener(std::function<void(const StoreEvent&)> listener);

  // The same arguments give the same id. An empty `expected_shards` means {0}. `block_tokens` is
  // how far apart the positions of a block and its parent are, and what a hit counts.
  SpaceId AddSpace(TenantId tenant, const Fingerprint& fingerprint,
                   std::vector<uint32_t> expected_shards, uint32_t block_tokens);

  // ---- Lookup and leases ----
  // Longest prefix of `keys` that is visible. A ttl above 0 leases the matched blocks for
  // min(ttl, max_lease_ttl) in the name of `owner`; the same (owner, request_id), not empty,
  // replaces its earlier lease. A ttl of 0 peeks: no lease, no counting as use.
  LookupMatch Lookup(SpaceId space, std::span<const BlockKey> keys, const SessionId& owner,
                     const std::string& request_id, absl::Duration ttl);
  // The visible prefix of `keys` will be used soon: its records in slower tiers are moved up now,
  // as if they had been used often enough to ask, each if what would have to make room is colder.
  // Counts as use. Returns how many records asked.
  uint64_t Prefetch(SpaceId space, std::span<const BlockKey> keys);
  // Leases visible blocks by name, as Put does after its commit; others are passed over.
  LeaseId Lease(SpaceId space, std::span<const BlockKey> keys, const SessionId& owner,
                absl::Duration ttl);
  // NOT_FOUND for a lease that ended or belongs to another tenant: the two look the same.
  absl::Status Renew(TenantId tenant, LeaseId lease, absl::Duration ttl);
  absl::Status Release(TenantId tenant, LeaseId lease);
  // Ends every lease of a session.
  void ReleaseAll(const SessionId& owner);

  // ---- Put ----
  // One answer an intent, in order; an intent may name an earlier one of the same call as parent.
  // `record_bytes` is an estimate for deciding whether room can be made. INVALID_ARGUMENT for an
  // intent whose first_position does not follow its stored parent's by the space's block length, or
  // that appears twice.
  absl::StatusOr<std::vector<ReserveAnswer>> Reserve(SpaceId space, uint32_t shard,
                                                     std::span<const BlockIntent> intents,
                                                     uint64_t record_bytes);
  struct RecordMeta {
    uint64_t raw_bytes = 0;
    DeclaredQuality k{}, v{};
    // Of the whole record, where it was written in place: at most its room, of which the rest is
    // given back. 0: as large as its room, or, without one, as its pieces.
    uint64_t record_bytes = 0;
  };
  // Takes the record's room before its bytes are there, evicting as Commit does. Returns where to
  // write them, in order; Commit then has that much of the record still to write as it is given
  // pieces, from the first byte on, and the rest must have been written in place. A record that
  // turns out larger is given to Commit whole, pieces in the room included. Empty, and
  // nothing taken, where the host cannot write the tier in place: Commit takes the room then. The
  // same with RESOURCE_EXHAUSTED, when none can be made. The room is the caller's to write until
  // the reservation is committed or given back. FAILED_PRECONDITION when some was taken before.
  absl::StatusOr<std::vector<std::span<std::byte>>> TakeRoom(const Reservation& reservation,
                                                             uint64_t record_bytes);
  // Writes the record (its pieces one after the other) and makes the block visible when it is
  // whole. Evicts to make room. RESOURCE_EXHAUSTED when no room can be made (counted as a refusal);
  // the reservation is consumed either way.
  absl::Status Commit(Reservation reservation, std::span<const std::span<const std::byte>> pieces,
                      const RecordMeta& meta);

  // ---- Get ----
  // A pin on a visible block's record, or none. Counts as use.
  Pin Acquire(SpaceId space, uint32_t shard, const BlockKey& key);
  // As Acquire, but no use: whoever looks at the store changes nothing in it.
  Pin Peek(SpaceId space, uint32_t shard, const BlockKey& key);
  // The record failed its checksum: counts, and removes its block with all descendants.
  void ReportDamage(const Pin& pin);

  // ---- Drop, inspection ----
  // Blocks dropped, descendants included. Leases on them lapse, pins keep the bytes.
  uint64_t Drop(SpaceId space, std::span<const BlockKey> keys);
  uint64_t DropSpace(SpaceId space);
  // NOT_FOUND when it is neither visible nor incomplete.
  absl::StatusOr<BlockInfo> Inspect(SpaceId space, const BlockKey& key) const;

  // A tier's memory is gone: blocks with a record in it leave the store, descendants included, as
  // damaged, and nothing is put or moved there any more.
  void LoseTier(TierKind kind);

  // Ends leases, gives up incomplete blocks, evicts to the low watermark, starts moves between
  // tiers (which go on by themselves as long as there is something to move). Call every 100 ms or
  // so.
  void Maintain();
  // After this Reserve declines with kDraining, and no move begins.
  void StartDraining();

  StoreSnapshot Snapshot() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvstow
