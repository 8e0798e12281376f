#include "server/core/waiting_blocks.h"

#include <gtest/gtest.h>

namespace kvstow {
namespace {

const absl::Time kStart = absl::UnixEpoch();

class WaitingBlocksTest : public testing::Test {
 protected:
  WaitingBlocksTest() { space_.shards = {0}; }

  Space space_;
  Block a_{&space_, BlockKey{1}, 0}, b_{&space_, BlockKey{2}, 0};
  WaitingBlocks waiting_;
};

TEST_F(WaitingBlocksTest, OldestFirst) {
  waiting_.Add(&a_, kStart, {});
  waiting_.Add(&b_, kStart, {});
  EXPECT_EQ(waiting_.Oldest(kStart - absl::Nanoseconds(1)), nullptr);
  EXPECT_EQ(waiting_.Oldest(kStart), &a_) << "of two at the same time the first";
  waiting_.Remove(&a_);
  EXPECT_EQ(waiting_.Oldest(kStart), &b_);
  waiting_.Remove(&b_);
  EXPECT_EQ(waiting_.Oldest(absl::InfiniteFuture()), nullptr);
}

TEST_F(WaitingBlocksTest, WaitsSinceItsFirstRecord) {
  waiting_.Add(&a_, kStart, {});
  waiting_.Add(&a_, kStart + absl::Seconds(9), {});
  EXPECT_EQ(waiting_.size(), 1u);
  EXPECT_EQ(waiting_.Oldest(kStart), &a_);
}

TEST_F(WaitingBlocksTest, KeepsTheWorstQualityOfEach) {
  DeclaredQuality low, high;
  low.nmse = low.centred_nmse = 0.1f;
  high.nmse = high.centred_nmse = 0.3f;
  waiting_.Add(&a_, kStart, {low, high});
  waiting_.Add(&a_, kStart, {high, low});
  const BlockNews quality = waiting_.Remove(&a_);
  EXPECT_EQ(quality.k.centred_nmse, 0.3f);
  EXPECT_EQ(quality.v.nmse, 0.3f);
}

TEST_F(WaitingBlocksTest, KeepsTheTokenIdsThatCameFirst) {
  const auto first = std::make_shared<const std::vector<uint32_t>>(2, 1);
  const auto second = std::make_shared<const std::vector<uint32_t>>(2, 2);
  waiting_.Add(&a_, kStart, {});
  waiting_.Add(&a_, kStart, {{}, {}, first});
  waiting_.Add(&a_, kStart, {{}, {}, second});
  EXPECT_EQ(waiting_.Remove(&a_).token_ids, first);
}

}  // namespace
}  // namespace kvstow
