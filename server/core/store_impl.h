// Store's state and rules. store.cc forwards here; the rules are in files after what they are
// about: store_lookup.cc (look-ups, leases), store_put.cc (reservations, commits, visibility),
// store_room.cc (allocation, eviction, maintenance), store_quota.cc (what each tenant may have),
// store_removal.cc (pins, drops, damage), store_demotion.cc, store_promotion.cc and store_move.cc
// (what moves between tiers, and how), store_snapshot.cc.
//
// Thread safety: public methods lock mu_; the others say that they want it held.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "server/core/block_index.h"
#include "server/core/lease_table.h"
#include "server/core/promotion_queue.h"
#include "server/core/record_mover.h"
#include "server/core/store.h"
#include "server/core/store_ledger.h"
#include "server/core/tenant_queues.h"
#include "server/core/tier_queue.h"
#include "server/core/waiting_blocks.h"

namespace kvstow {

// Room for a record.
struct Placement {
  size_t tier = 0;
  Allocation allocation;
  uint64_t bytes = 0;  // of the record
};

// What a Reservation points to.
struct PendingCommit {
  BlockIntent intent;
  Block* block = nullptr;
  uint32_t slot = 0;            // of Block::records()
  uint64_t promised_bytes = 0;  // physical, by the estimate; 0 once there is a placement
  std::optional<Placement> placement = {};
};

class Store::Impl {
 public:
  Impl(const StoreOptions& options, std::vector<Tier*> tiers, const Clock* clock,
       RandomSource* random, StatsSink* stats, RecordMover* mover);
  ~Impl();

  void SetListener(std::function<void(const StoreEvent&)> listener);
  SpaceId AddSpace(TenantId tenant, const Fingerprint& fingerprint,
                   std::vector<uint32_t> expected_shards, uint32_t block_tokens);

  uint64_t Prefetch(SpaceId space, std::span<const BlockKey> keys) ABSL_LOCKS_EXCLUDED(mu_);
  LookupMatch Lookup(SpaceId space, std::span<const BlockKey> keys, const SessionId& owner,
                     const std::string& request_id, absl::Duration ttl);
  LeaseId Lease(SpaceId space, std::span<const BlockKey> keys, const SessionId& owner,
                absl::Duration ttl);
  absl::Status Renew(TenantId tenant, LeaseId lease, absl::Duration ttl);
  absl::Status Release(TenantId tenant, LeaseId lease);
  void ReleaseAll(const SessionId& owner);

  // `store` is what the reservations point back to.
  absl::StatusOr<std::vector<ReserveAnswer>> Reserve(Store* store, SpaceId space, uint32_t shard,
                                                     std::span<const BlockIntent> intents,
                                                     uint64_t record_bytes);
  absl::StatusOr<std::vector<std::span<std::byte>>> TakeRoom(PendingCommit* pending,
                                                             uint64_t record_bytes);
  void Abandon(std::unique_ptr<PendingCommit> pending);
  absl::Status Commit(std::unique_ptr<PendingCommit> pending,
                      std::span<const std::span<const std::byte>> pieces, const RecordMeta& meta);

  // The block pinned and its record's index, or null.
  Block* Acquire(SpaceId space, uint32_t shard, const BlockKey& key, uint32_t* slot);
  Block* Peek(SpaceId space, uint32_t shard, const BlockKey& key, uint32_t* slot);
  void Unpin(Block* block);
  void ReportDamage(Block* block, uint32_t slot);
  uint64_t Drop(SpaceId space, std::span<const BlockKey> keys);
  uint64_t DropSpace(SpaceId space);
  void LoseTier(TierKind kind);

  absl::StatusOr<BlockInfo> Inspect(SpaceId space, const BlockKey& key) const;
  StoreSnapshot Snapshot() const;
  void Maintain();
  void StartDraining();

  Tier* tier(size_t index) const { return tiers_[index]; }

 private:
  // A tier that has a slower one behind it.
  struct FastTier {
    std::vector<TierQueue> queues;  // by tenant
    std::vector<uint64_t> leaving;  // by tenant: physical bytes of its records on their way out
    uint64_t all_leaving = 0;
    bool demoting = false;  // has passed its high watermark, and not come down to the low one since
    bool scanning = false;  // the last plan ended before all that might leave was looked at
  };
  // A record on its way.
  struct MovingRecord {
    Block* block = nullptr;
    uint32_t slot = 0;
    uint8_t from = 0, to = 0;  // tiers
    Allocation source, target;
    uint64_t bytes = 0;
    uint64_t target_bytes = 0;  // physical
    uint64_t previous_use = 0;  // of a promotion's Candidate
  };
  using MoveBatch = std::vector<MovingRecord>;
  // What is being put together to move, under the lock.
  struct MovePlan {
    std::vector<MoveBatch> batches;
    uint64_t batch_bytes = 0;  // of the last of them
    size_t tries = 256;        // demotions to try yet, so that the lock is not held for long
  };
  enum class Attempt {
    kStarted,
    kLater,    // something stands in the way that will go
    kRefused,  // it is not worth what it would cost
  };

  // ---- store_lookup.cc ----
  void Use(Block* block, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // kNoLease, counted as a refusal, when the tenant's quota is full.
  LeaseId Grant(const Space& space, std::vector<Block*> blocks, const SessionId& owner,
                const std::string& request_id, LeaseId id, absl::Duration ttl)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool WithinLeaseQuota(TenantId tenant, std::span<Block* const> blocks)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void HoldForLease(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndLease(LeaseEntry lease) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ExpireLeases() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Null for one that ended or is another tenant's.
  const LeaseEntry* FindLease(TenantId tenant, LeaseId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // ---- store_put.cc ----
  absl::Status CheckIntents(const Space& space, std::span<const BlockIntent> intents) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static ReserveAnswer Declined(Refusal refusal);
  // What there is against taking the block before it is even linked; kSend for nothing.
  ReserveAnswer Judge(const Space& space, uint32_t slot, const BlockIntent& intent) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Null when no room can be promised; says why.
  std::unique_ptr<PendingCommit> MakePending(Space* space, uint32_t slot, const BlockIntent& intent,
                                             uint64_t record_bytes, uint64_t promised,
                                             Refusal* refusal) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status WritePieces(const Placement& placement,
                           std::span<const std::span<const std::byte>> pieces) const;
  absl::Status OverwriteSlack(const Placement& placement) const;
  // Gives the pending block its placement, and the promise up; the refusal when there is no room.
  std::optional<Refusal> Place(PendingCommit* pending, uint64_t record_bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void GiveRoomBack(TenantId tenant, const Placement& placement) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Gives the pages back that the record does not need.
  void Trim(TenantId tenant, uint64_t record_bytes, Placement* placement)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Forget(const PendingCommit& pending) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // REQUIRES a placement.
  void Publish(const PendingCommit& pending, const RecordMeta& meta)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Makes the block visible if it can be, and then those below it that waited for it.
  void Reveal(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RevealOne(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // ---- store_room.cc ----
  uint64_t LargestPhysical(uint64_t record_bytes) const;
  uint64_t FreeBytes(size_t tier) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // What is free or could be made so, in all tiers together.
  uint64_t RoomBytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Fits(size_t tier, uint64_t record_bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool FitsSomeTier(uint64_t record_bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The slowest tier that has, or by eviction could be made to have, room for such a record of the
  // tenant's.
  std::optional<size_t> FindRoom(TenantId tenant, uint64_t record_bytes) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // None, and why, when no room can be made.
  std::optional<Placement> MakeRoom(TenantId tenant, uint64_t record_bytes, Refusal* refusal)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<Placement> TryAllocate(TenantId tenant, uint64_t record_bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Above(size_t tier, double fraction) const;
  // A bounded number of evictions while the slowest tier is above that fraction. Whether it is
  // worth going on.
  bool EvictSome(double fraction) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ExpireIncomplete() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // ---- store_quota.cc ----
  // Of a tier, at most the tier.
  uint64_t QuotaOf(TenantId tenant, size_t tier) const;
  uint64_t QuotaLeft(TenantId tenant, size_t tier) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // What is left of its quotas or could be made so, in all tiers together.
  uint64_t QuotaRoom(TenantId tenant) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether so many bytes more leave enough room for the Puts that were promised some.
  bool LeavesWhatIsPromised(TenantId tenant, uint64_t bytes) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // What it has of a tier, as a part of its quota there.
  double LoadOf(TenantId tenant, size_t tier) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool HasItsShare(TenantId tenant, size_t tier) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whose blocks are to make room for so many bytes of the tenant's, of those who have any to give.
  TenantId DonorFor(TenantId tenant, size_t tier, uint64_t needed,
                    absl::FunctionRef<bool(TenantId)> has_any) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // None when nobody has any.
  std::optional<TenantId> MostLoaded(size_t tier, absl::FunctionRef<bool(TenantId)> has_any) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Their question, whether a tenant has anything to give in that tier. Asks under the lock, which
  // Clang does not see.
  auto HasVictimIn(size_t tier) const {
    return [this, tier](TenantId tenant) {
      mu_.AssertHeld();
      return queues_.Of(tenant).VictimIn(tier) != nullptr;
    };
  }
  // What to evict for it; null when there is nothing.
  Block* VictimFor(TenantId tenant, size_t tier, uint64_t needed) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The same when the tier as a whole is too full.
  Block* VictimOf(size_t tier) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // ---- store_removal.cc ----
  Block* PinRecord(SpaceId space, uint32_t shard, const BlockKey& key, uint32_t* slot)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Takes the block's records out of the store and forgets it, unless a Put still needs it. Its
  // visible children must have gone before.
  void Remove(Block* block, RemovalReason reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool LiesInLostTier(const Block& block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The blocks as BlockIndex::CollectSubtree gives them. How many had records.
  uint64_t RemoveAll(std::span<Block* const> blocks, RemovalReason reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CountRemoval(const Block& block, RemovalReason reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FreeRecords(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Of a block that is out of the index: when nobody reads or copies them.
  void FreeRecordsIfUnused(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void DestroyIfUnheld(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // ---- store_demotion.cc ----
  // Whether the tier is above that fraction even without what is leaving it.
  bool StaysAbove(size_t tier, double fraction) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether it will have as much free for the tenant when what is leaving it has left.
  bool RoomIsOnItsWay(TenantId tenant, size_t tier, uint64_t needed) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The coldest record of whoever has the most of the tier for its share.
  std::optional<TierQueue::Item> FirstToLeave(size_t tier) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void PlanDemotions(MovePlan* plan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // kRefused when nothing that could make room in the next tier is colder.
  Attempt Demote(TierQueue::Item item, MovePlan* plan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Evicts the donor's blocks colder than `heat` until the tier has `needed` bytes for the tenant;
  // none when they would not do.
  bool EvictColder(TenantId tenant, TenantId donor, size_t tier, uint64_t needed, uint64_t heat)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // ---- store_promotion.cc ----
  // Returns how many of its records ask.
  uint64_t AskForPromotion(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CountLookup(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CountGet(Block* block, uint32_t slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CountUse(Block* block, uint32_t slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void PlanPromotions(MovePlan* plan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // kRefused when it is where it should be, or what is there does not give way to it. `awaited`, by
  // tier: bytes that become free, and are meant for candidates before this one.
  Attempt Promote(const Candidate& candidate, std::vector<uint64_t>* awaited, MovePlan* plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The fastest tier, faster than its own, that could hold it.
  std::optional<size_t> PromotionTier(const Record& record, TenantId tenant) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether the tier stays below its high watermark, and the tenant within its quota, with so many
  // bytes more; with or without those that are leaving it.
  enum class Leaving { kStill, kGone };
  bool TakesMore(TenantId tenant, size_t tier, uint64_t more, Leaving leaving) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // kStarted when the room is there or on its way.
  Attempt MakeRoomByDemotion(size_t tier, uint64_t needed, const Candidate& candidate,
                             MovePlan* plan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // ---- store_move.cc ----
  void MoveSome();
  // What may start now. Counted as in flight.
  std::vector<MoveBatch> PlanMoves() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Launch(std::vector<MoveBatch> batches);
  void FinishBatch(MoveBatch& batch, std::span<const absl::Status> results);
  // Whether so many bytes more may be in flight.
  bool MayMove(uint64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // A moving block is anchored.
  void HoldForMove(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void UnholdAfterMove(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // False when the tier has no room. REQUIRES HoldForMove.
  bool StartMove(TierQueue::Item item, size_t to, uint64_t previous_use, MovePlan* plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FinishMove(const MovingRecord& move, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The copy becomes the record.
  void Switch(const MovingRecord& move) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool NothingMoves() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return batches_in_flight_ == 0; }
  // REQUIRES a fast tier.
  TierQueue& QueueOf(size_t tier, const Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return fast_[tier].queues[static_cast<size_t>(block->space->tenant)];
  }
  // A block becomes visible, or goes.
  void Track(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Untrack(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnCooled(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // ---- store_snapshot.cc ----
  TenantSnapshot SnapshotOf(TenantId tenant) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // ---- store_impl.cc ----
  // As TenantQueues takes them.
  std::vector<uint64_t> ProtectedCaps() const;
  StoreEvent EventOf(const Block& block, StoreEvent::Kind kind) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Emit(const StoreEvent& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Constant after construction.
  const StoreOptions options_;
  const std::vector<Tier*> tiers_;
  const Clock* const clock_;
  StatsSink* const stats_;
  RecordMover* const mover_;
  const uint64_t capacity_bytes_;  // of all tiers

  mutable absl::Mutex mu_;
  std::function<void(const StoreEvent&)> listener_ ABSL_GUARDED_BY(mu_);
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<bool> lost_ ABSL_GUARDED_BY(mu_);  // one a tier: its memory is gone
  uint64_t tick_ ABSL_GUARDED_BY(mu_) = 0;
  TenantQueues queues_ ABSL_GUARDED_BY(mu_);
  BlockIndex index_ ABSL_GUARDED_BY(mu_);
  LeaseTable leases_ ABSL_GUARDED_BY(mu_);
  WaitingBlocks waiting_ ABSL_GUARDED_BY(mu_);
  StoreLedger ledger_ ABSL_GUARDED_BY(mu_);
  uint64_t reservations_ ABSL_GUARDED_BY(mu_) = 0;
  // Sum of the reservations' estimates: room that must not be promised twice.
  uint64_t promised_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  // All tiers but the slowest; empty when nothing moves.
  std::vector<FastTier> fast_ ABSL_GUARDED_BY(mu_);
  PromotionQueue promotions_ ABSL_GUARDED_BY(mu_);
  uint64_t moving_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  size_t batches_in_flight_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace kvstow
