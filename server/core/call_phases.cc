#include "server/core/call_phases.h"

namespace kvstow {

absl::string_view Name(CallPhase phase) {
  switch (phase) {
    case CallPhase::kWire:
      return "wire";
    case CallPhase::kAdmission:
      return "admission";
    case CallPhase::kQueue:
      return "queue";
    case CallPhase::kCopy:
      return "copy";
    case CallPhase::kCodec:
      return "codec";
  }
  return "unknown";
}

CallPhase CallPhases::Current() const {
  for (size_t i = kCallPhases - 1; i > 0; --i) {
    if (parts_[i] > 0) return static_cast<CallPhase>(i);
  }
  return CallPhase::kWire;
}

void CallPhases::Add(CallPhase phase, int change) {
  absl::MutexLock lock(&mu_);
  // Under the lock, so that no moment counts twice.
  const absl::Time now = clock_.Now();
  times_[static_cast<size_t>(Current())] += now - since_;
  since_ = now;
  parts_[static_cast<size_t>(phase)] += change;
}

PhaseTimes CallPhases::times() const {
  absl::MutexLock lock(&mu_);
  PhaseTimes times = times_;
  times[static_cast<size_t>(Current())] += clock_.Now() - since_;
  return times;
}

}  // namespace kvstow
