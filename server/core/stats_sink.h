// What happened, for whoever counts it. Core calls these; server/obs turns them into Prometheus
// series; tests record them. Gauges are not here: they are read from snapshots.
//
// All methods are thread-safe, do not block and do not call back into core.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "codec/report.h"
#include "server/core/ids.h"
#include "server/core/tier.h"

namespace kvstow {

// Why a block left the store.
enum class RemovalReason {
  kEvicted,     // to make room
  kDropped,     // a Drop call
  kDamaged,     // failed its checksum
  kIncomplete,  // a shard or the parent never came
};
inline constexpr RemovalReason kAllRemovalReasons[] = {
    RemovalReason::kEvicted, RemovalReason::kDropped, RemovalReason::kDamaged,
    RemovalReason::kIncomplete};
absl::string_view Name(RemovalReason reason);

// Why a block was not taken, or a call refused.
enum class Refusal {
  kNoParent,    // parent neither stored nor pending
  kPending,     // another call is putting this block
  kFull,        // no room that may be made: everything is leased or in use
  kTooLarge,    // larger than the tier
  kQuota,       // the tenant's own limit of bytes
  kLeaseQuota,  // leased bytes are capped
  kBehind,      // too much work in flight
  kDraining,    // shutting down
};
inline constexpr Refusal kAllRefusals[] = {
    Refusal::kNoParent, Refusal::kPending,    Refusal::kFull,   Refusal::kTooLarge,
    Refusal::kQuota,    Refusal::kLeaseQuota, Refusal::kBehind, Refusal::kDraining};
absl::string_view Name(Refusal refusal);

// What was wrong with a plane that a client encoded.
enum class PlaneFault {
  kChecksum,     // not the bytes that the client declared
  kStructure,    // no plane of the space's layout
  kSettings,     // not coded as the space says
  kDeclaration,  // sums of errors that cannot be
  kBound,        // an error above the space's bound
};
inline constexpr PlaneFault kAllPlaneFaults[] = {PlaneFault::kChecksum, PlaneFault::kStructure,
                                                 PlaneFault::kSettings, PlaneFault::kDeclaration,
                                                 PlaneFault::kBound};
absl::string_view Name(PlaneFault fault);

enum class CodecDirection { kEncode, kDecode };

class StatsSink {
 public:
  virtual ~StatsSink() = default;

  virtual void OnLookup(TenantId tenant, uint64_t hit_tokens, uint64_t miss_tokens) = 0;
  // By hits of a client that said how fast it prefills; 0 when it says so.
  virtual void OnPrefillSaved(TenantId tenant, absl::Duration time) = 0;
  // `blocks` records became visible or stopped being there.
  virtual void OnStored(TenantId tenant, TierKind tier, uint64_t blocks, uint64_t bytes) = 0;
  virtual void OnRemoved(TenantId tenant, TierKind tier, RemovalReason reason, uint64_t blocks,
                         uint64_t bytes) = 0;
  virtual void OnRefused(TenantId tenant, Refusal refusal, uint64_t blocks) = 0;
  virtual void OnChecksumFailure(TierKind tier) = 0;
  virtual void OnLeaseExpired(TenantId tenant) = 0;
  // Events of a tenant's blocks that were published to routers; and those that never will be.
  virtual void OnEventsPublished(TenantId tenant, uint64_t events) = 0;
  virtual void OnEventsLost(TenantId tenant, uint64_t events) = 0;
  // Records moved between tiers: `bytes` is what was copied.
  virtual void OnMoved(TierKind from, TierKind to, uint64_t records, uint64_t bytes) = 0;
  // Copies that failed; the records stayed in `from`.
  virtual void OnMoveFailed(TierKind from, TierKind to, uint64_t records) = 0;

  virtual void OnCodec(CodecDirection direction, absl::string_view device, uint64_t raw_bytes,
                       absl::Duration busy) = 0;
  // A device gave up a batch of codec work; the CPU does it instead. `permanent`: and all to come.
  virtual void OnCodecFailure(absl::string_view device, bool permanent) = 0;
  // Planes that a client encoded or is to decode itself; raw bytes. Encoded ones were found good.
  virtual void OnClientCoded(TenantId tenant, CodecDirection direction, uint64_t raw_bytes) = 0;
  // A plane that a client encoded was not taken, nor anything of its call.
  virtual void OnPlaneFault(TenantId tenant, PlaneFault fault) = 0;
  // Of each record committed: what its K-like and V planes cost.
  virtual void OnEncoded(TenantId tenant, uint64_t record_bytes, uint64_t entries,
                         const QualityReport& k, const QualityReport& v) = 0;
};

}  // namespace kvstow
