// Where the time of one Put or Get goes. Its planes are at many stages at once, so each moment
// counts for one phase only, the last of these that any part of the call is in: the phases then add
// up to no more than the call took, and the largest is what to look at.
//
// Thread-safe.
#pragma once

#include <array>
#include <cstddef>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/core/clock.h"

namespace kvstow {

// In ascending order of what a moment counts for.
enum class CallPhase {
  kWire,       // whatever none of the others is: the client's turn to send or read, gRPC
  kAdmission,  // who calls, room in the store, room for bytes in flight
  kQueue,      // work was given out and no thread or device has begun it
  kCopy,       // bytes on their way between wire, staging, records and tiers; their checksums
  kCodec,      // encoding or decoding
};
inline constexpr size_t kCallPhases = 5;
inline constexpr CallPhase kAllCallPhases[kCallPhases] = {CallPhase::kWire, CallPhase::kAdmission,
                                                          CallPhase::kQueue, CallPhase::kCopy,
                                                          CallPhase::kCodec};
absl::string_view Name(CallPhase phase);

using PhaseTimes = std::array<absl::Duration, kCallPhases>;  // by CallPhase

class CallPhases {
 public:
  explicit CallPhases(const Clock& clock) : clock_(clock), since_(clock.Now()) {}

  // Parts of a call enter and leave on their own; each Enter has its Leave.
  void Enter(CallPhase phase) { Add(phase, 1); }
  void Leave(CallPhase phase) { Add(phase, -1); }
  // Up to now.
  PhaseTimes times() const;

  // In a phase as long as it lives. Null: of no call.
  class Scope {
   public:
    Scope(CallPhases* phases, CallPhase phase) : phases_(phases), phase_(phase) {
      if (phases_ != nullptr) phases_->Enter(phase_);
    }
    ~Scope() {
      if (phases_ != nullptr) phases_->Leave(phase_);
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    CallPhases* const phases_;
    const CallPhase phase_;
  };

 private:
  void Add(CallPhase phase, int change);
  // What this moment counts for.
  CallPhase Current() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Clock& clock_;
  mutable absl::Mutex mu_;
  absl::Time since_ ABSL_GUARDED_BY(mu_);  // the last change
  std::array<int, kCallPhases> parts_ ABSL_GUARDED_BY(mu_) = {};
  PhaseTimes times_ ABSL_GUARDED_BY(mu_) = {};
};

}  // namespace kvstow
