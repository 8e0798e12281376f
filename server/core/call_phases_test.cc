#include "server/core/call_phases.h"

#include <random>

#include "gtest/gtest.h"
#include "server/core/testing/fake_clock.h"

namespace kvstow {
namespace {

absl::Duration Of(const PhaseTimes& times, CallPhase phase) {
  return times[static_cast<size_t>(phase)];
}

TEST(CallPhases, EachMomentCountsForTheLastPhaseThatAnyPartIsIn) {
  FakeClock clock;
  CallPhases phases(clock);
  clock.Advance(absl::Milliseconds(1));  // nothing: wire
  phases.Enter(CallPhase::kQueue);
  clock.Advance(absl::Milliseconds(2));
  {
    const CallPhases::Scope codec(&phases, CallPhase::kCodec);
    clock.Advance(absl::Milliseconds(4));
    const CallPhases::Scope copy(&phases, CallPhase::kCopy);
    clock.Advance(absl::Milliseconds(8));  // still codec
  }
  phases.Leave(CallPhase::kQueue);
  const CallPhases::Scope admission(&phases, CallPhase::kAdmission);
  clock.Advance(absl::Milliseconds(16));
  const PhaseTimes times = phases.times();
  EXPECT_EQ(Of(times, CallPhase::kWire), absl::Milliseconds(1));
  EXPECT_EQ(Of(times, CallPhase::kQueue), absl::Milliseconds(2));
  EXPECT_EQ(Of(times, CallPhase::kCodec), absl::Milliseconds(12));
  EXPECT_EQ(Of(times, CallPhase::kCopy), absl::ZeroDuration());
  EXPECT_EQ(Of(times, CallPhase::kAdmission), absl::Milliseconds(16));
}

TEST(CallPhases, TheyAddUpToWhatPassed) {
  FakeClock clock;
  CallPhases phases(clock);
  std::mt19937 random(1);
  std::array<int, kCallPhases> parts = {};
  absl::Duration passed;
  for (int i = 0; i < 1000; ++i) {
    const absl::Duration step = absl::Microseconds(random() % 1000);
    clock.Advance(step);
    passed += step;
    const size_t phase = random() % kCallPhases;
    if (parts[phase] > 0 && random() % 2 == 0) {
      --parts[phase];
      phases.Leave(static_cast<CallPhase>(phase));
    } else {
      ++parts[phase];
      phases.Enter(static_cast<CallPhase>(phase));
    }
  }
  absl::Duration sum;
  for (const absl::Duration time : phases.times()) sum += time;
  EXPECT_EQ(sum, passed);
}

TEST(CallPhases, AScopeOfNoCallIsNone) {
  const CallPhases::Scope scope(nullptr, CallPhase::kCodec);
}

}  // namespace
}  // namespace kvstow
