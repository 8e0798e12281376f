#include "client/circuit_breaker.h"

#include <utility>

#include "gtest/gtest.h"

namespace kvstow::client {
namespace {

class CircuitBreakerTest : public ::testing::Test {
 protected:
  void Pass(absl::Duration time) { now_ += absl::ToChronoNanoseconds(time); }
  void FailOnce() { breaker_.Admit().Failure(); }
  void Open() {
    for (int i = 0; i < 3; ++i) FailOnce();
  }

  std::chrono::steady_clock::time_point now_{std::chrono::hours(1)};
  CircuitBreaker breaker_{{3, absl::Milliseconds(500), absl::Seconds(2)}, [this] { return now_; }};
};

TEST_F(CircuitBreakerTest, OpensAfterFailuresInARowOnly) {
  FailOnce();
  FailOnce();
  breaker_.Admit().Success();
  FailOnce();
  FailOnce();
  EXPECT_FALSE(breaker_.open());
  FailOnce();
  EXPECT_TRUE(breaker_.open());
  EXPECT_FALSE(breaker_.Admit());
}

TEST_F(CircuitBreakerTest, OneTrialACooldown) {
  Open();
  Pass(absl::Milliseconds(499));
  EXPECT_FALSE(breaker_.Admit());
  Pass(absl::Milliseconds(1));
  CircuitBreaker::Permit trial = breaker_.Admit();
  EXPECT_TRUE(trial);
  EXPECT_FALSE(breaker_.Admit());  // while the trial runs
  trial.Success();
  EXPECT_FALSE(breaker_.open());
  EXPECT_TRUE(breaker_.Admit());
}

TEST_F(CircuitBreakerTest, CooldownDoublesUpToItsBoundAndStartsOverAfterSuccess) {
  Open();
  for (absl::Duration cooldown : {absl::Milliseconds(500), absl::Seconds(1), absl::Seconds(2),
                                  absl::Seconds(2), absl::Seconds(2)}) {
    Pass(cooldown - absl::Milliseconds(1));
    EXPECT_FALSE(breaker_.Admit());
    Pass(absl::Milliseconds(1));
    breaker_.Admit().Failure();
  }
  Pass(absl::Seconds(2));
  breaker_.Admit().Success();
  Open();
  Pass(absl::Milliseconds(500));
  EXPECT_TRUE(breaker_.Admit());
}

TEST_F(CircuitBreakerTest, TrialWithoutWordLeavesTheNextCallerTheTrial) {
  Open();
  Pass(absl::Milliseconds(500));
  { CircuitBreaker::Permit trial = breaker_.Admit(); }
  EXPECT_TRUE(breaker_.open());
  EXPECT_TRUE(breaker_.Admit());
}

TEST_F(CircuitBreakerTest, CallsAdmittedBeforeAChangeHaveNoSayAfterIt) {
  CircuitBreaker::Permit early_good = breaker_.Admit();
  CircuitBreaker::Permit early_bad = breaker_.Admit();
  Open();
  early_good.Success();
  EXPECT_TRUE(breaker_.open());
  breaker_.Reset();
  FailOnce();
  FailOnce();
  early_bad.Failure();
  EXPECT_FALSE(breaker_.open());
}

TEST_F(CircuitBreakerTest, ResetCloses) {
  Open();
  breaker_.Reset();
  EXPECT_TRUE(breaker_.Admit());
}

TEST_F(CircuitBreakerTest, NoFailuresMeansNeverOpen) {
  CircuitBreaker never({0, absl::Seconds(1), absl::Seconds(1)}, [this] { return now_; });
  for (int i = 0; i < 100; ++i) never.Admit().Failure();
  EXPECT_TRUE(never.Admit());
}

}  // namespace
}  // namespace kvstow::client
