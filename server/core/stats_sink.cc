#include "server/core/stats_sink.h"

namespace kvstow {

absl::string_view Name(RemovalReason reason) {
  switch (reason) {
    case RemovalReason::kEvicted:
      return "evicted";
    case RemovalReason::kDropped:
      return "dropped";
    case RemovalReason::kDamaged:
      return "damaged";
    case RemovalReason::kIncomplete:
      return "incomplete";
  }
  return "unknown";
}

absl::string_view Name(Refusal refusal) {
  switch (refusal) {
    case Refusal::kNoParent:
      return "no_parent";
    case Refusal::kPending:
      return "pending";
    case Refusal::kFull:
      return "full";
    case Refusal::kTooLarge:
      return "too_large";
    case Refusal::kQuota:
      return "quota";
    case Refusal::kLeaseQuota:
      return "lease_quota";
    case Refusal::kBehind:
      return "behind";
    case Refusal::kDraining:
      return "draining";
  }
  return "unknown";
}

absl::string_view Name(PlaneFault fault) {
  switch (fault) {
    case PlaneFault::kChecksum:
      return "checksum";
    case PlaneFault::kStructure:
      return "structure";
    case PlaneFault::kSettings:
      return "settings";
    case PlaneFault::kDeclaration:
      return "declaration";
    case PlaneFault::kBound:
      return "bound";
  }
  return "unknown";
}

}  // namespace kvstow
