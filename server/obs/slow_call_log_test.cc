#include "server/obs/slow_call_log.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/core/testing/fake_clock.h"

namespace kvstow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class CountingSink : public CallSink {
 public:
  void OnCall(const CallRecord&) override { ++calls; }
  int calls = 0;
};

class SlowCallLogTest : public ::testing::Test {
 protected:
  static CallRecord Slow() {
    CallRecord call = {"Get", "shm", absl::StatusCode::kOk, absl::Milliseconds(2500), 4096};
    call.tenant = TenantId{1};
    call.phases = PhaseTimes{absl::Milliseconds(100), absl::Milliseconds(200),
                             absl::Milliseconds(300), absl::Milliseconds(400), absl::Seconds(1.5)};
    return call;
  }

  FakeClock clock_;
  CountingSink next_;
  std::vector<std::string> lines_;
  SlowCallLog log_{
      {absl::Seconds(2), {"a", "b"}}, &next_, &clock_, [this](const std::string& line) {
        lines_.push_back(line);
      }};
};

TEST_F(SlowCallLogTest, SaysWhereTheTimeWent) {
  log_.OnCall(Slow());
  EXPECT_THAT(lines_, ElementsAre("slow call method=Get path=shm tenant=b code=OK took_ms=2500.0 "
                                  "wire_ms=100.0 admission_ms=200.0 queue_ms=300.0 copy_ms=400.0 "
                                  "codec_ms=1500.0 bytes=4096"));
}

TEST_F(SlowCallLogTest, PassesEveryCallOnAndWritesOfTheSlowAlone) {
  CallRecord fast = Slow();
  fast.took = absl::Milliseconds(1999);
  log_.OnCall(fast);
  log_.OnCall({"Session", "grpc", absl::StatusCode::kOk, absl::Hours(5)});
  EXPECT_THAT(lines_, SizeIs(0));
  log_.OnCall(Slow());
  EXPECT_EQ(next_.calls, 3);
  EXPECT_THAT(lines_, SizeIs(1));
}

TEST_F(SlowCallLogTest, ACallOfNobodyHasNoTenantAndNoPhases) {
  log_.OnCall({"Lookup", "grpc", absl::StatusCode::kUnauthenticated, absl::Seconds(3)});
  EXPECT_THAT(lines_,
              ElementsAre("slow call method=Lookup path=grpc tenant=none code=UNAUTHENTICATED "
                          "took_ms=3000.0"));
}

TEST_F(SlowCallLogTest, BoundsItsLinesAndCountsTheRest) {
  for (int i = 0; i < 25; ++i) log_.OnCall(Slow());
  EXPECT_THAT(lines_, SizeIs(SlowCallLog::kLinesASecond));
  clock_.Advance(absl::Seconds(1));
  log_.OnCall(Slow());
  log_.OnCall(Slow());
  ASSERT_THAT(lines_, SizeIs(SlowCallLog::kLinesASecond + 2));
  EXPECT_THAT(lines_[SlowCallLog::kLinesASecond], HasSubstr(" lines_left_out=15"));
  EXPECT_THAT(lines_.back(), ::testing::Not(HasSubstr("left_out")));
}

}  // namespace
}  // namespace kvstow
