#include "server/auth/request_rate.h"

#include "gtest/gtest.h"

namespace kvstow {
namespace {

constexpr TenantId kSlow{0}, kFree{1}, kUnlisted{7};

class RequestRateTest : public ::testing::Test {
 protected:
  int TakeAll(TenantId tenant, absl::Time now) {
    int taken = 0;
    while (taken < 1000 && rate_.Take(tenant, now)) ++taken;
    return taken;
  }
  const absl::Time start_ = absl::UnixEpoch();
  RequestRate rate_{{10, 0}, start_};
};

TEST_F(RequestRateTest, ABurstOfASecondThenTheRate) {
  EXPECT_EQ(TakeAll(kSlow, start_), 10);
  EXPECT_EQ(TakeAll(kSlow, start_ + absl::Milliseconds(99)), 0);
  EXPECT_EQ(TakeAll(kSlow, start_ + absl::Milliseconds(350)), 3);
  EXPECT_EQ(TakeAll(kSlow, start_ + absl::Hours(5)), 10) << "what was not used is not saved up";
}

TEST_F(RequestRateTest, NoLimitForWhoHasNone) {
  EXPECT_EQ(TakeAll(kFree, start_), 1000);
  EXPECT_EQ(TakeAll(kUnlisted, start_), 1000);
}

TEST(RequestRate, LessThanOneASecond) {
  RequestRate rate({0.5}, absl::UnixEpoch());
  EXPECT_TRUE(rate.Take(kSlow, absl::UnixEpoch()));
  EXPECT_FALSE(rate.Take(kSlow, absl::UnixEpoch() + absl::Seconds(1)));
  EXPECT_TRUE(rate.Take(kSlow, absl::UnixEpoch() + absl::Seconds(2)));
}

}  // namespace
}  // namespace kvstow
