#include "client/deadline.h"

#include "client/outcome.h"
#include "gtest/gtest.h"

namespace kvstow::client {
namespace {

using Verdict = Outcome::Verdict;

const Deadline::TimePoint kNow{std::chrono::hours(5)};

TEST(DeadlineTest, CountsDownToZeroAndNoFurther) {
  const Deadline d = Deadline::In(absl::Milliseconds(50), absl::ZeroDuration(), kNow);
  EXPECT_EQ(d.remaining(kNow), absl::Milliseconds(50));
  EXPECT_FALSE(d.expired(kNow + std::chrono::milliseconds(49)));
  EXPECT_TRUE(d.expired(kNow + std::chrono::milliseconds(50)));
  EXPECT_EQ(d.remaining(kNow + std::chrono::seconds(1)), absl::ZeroDuration());
}

TEST(DeadlineTest, ZeroTakesTheDefaultAndNegativeIsSpent) {
  EXPECT_EQ(Deadline::In(absl::ZeroDuration(), absl::Seconds(3), kNow).remaining(kNow),
            absl::Seconds(3));
  EXPECT_TRUE(Deadline::In(-absl::Seconds(1), absl::Seconds(3), kNow).expired(kNow));
}

TEST(DeadlineTest, InfiniteIsCut) {
  EXPECT_EQ(Deadline::In(absl::InfiniteDuration(), absl::ZeroDuration(), kNow).remaining(kNow),
            Deadline::kLongest);
}

TEST(DeadlineTest, EarlierOf) {
  const Deadline a = Deadline::At(kNow), b = Deadline::At(kNow + std::chrono::seconds(1));
  EXPECT_EQ(a.EarlierOf(b).at(), kNow);
  EXPECT_EQ(b.EarlierOf(a).at(), kNow);
}

TEST(OutcomeTest, VerdictsOfStatuses) {
  for (const absl::Status& failed :
       {absl::UnavailableError(""), absl::DeadlineExceededError(""), absl::InternalError(""),
        absl::UnknownError(""), absl::UnimplementedError("")}) {
    EXPECT_EQ(VerdictOf(failed), Verdict::kFailed) << failed;
  }
  for (const absl::Status& alive :
       {absl::OkStatus(), absl::ResourceExhaustedError(""), absl::FailedPreconditionError(""),
        absl::DataLossError(""), absl::PermissionDeniedError("")}) {
    EXPECT_EQ(VerdictOf(alive), Verdict::kAlive) << alive;
  }
  for (const absl::Status& silent : {absl::InvalidArgumentError(""), absl::CancelledError("")}) {
    EXPECT_EQ(VerdictOf(silent), Verdict::kSilent) << silent;
  }
}

TEST(OutcomeTest, SlowCallbacksExcuseALateCallOnly) {
  const absl::Status late = absl::DeadlineExceededError("");
  EXPECT_EQ(Excuse(Judge(late), absl::Seconds(6), absl::Seconds(10)).verdict, Verdict::kSilent);
  EXPECT_EQ(Excuse(Judge(late), absl::Seconds(4), absl::Seconds(10)).verdict, Verdict::kFailed);
  EXPECT_EQ(Excuse(Judge(absl::InternalError("")), absl::Seconds(9), absl::Seconds(10)).verdict,
            Verdict::kFailed);
}

}  // namespace
}  // namespace kvstow::client
