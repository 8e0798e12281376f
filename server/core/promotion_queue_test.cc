#include "server/core/promotion_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvstow {
namespace {

using testing::ElementsAre;

std::vector<uint64_t> Uses(const PromotionQueue& queue, size_t count = 10) {
  std::vector<uint64_t> uses;
  for (const Candidate& candidate : queue.Newest(count)) uses.push_back(candidate.previous_use);
  return uses;
}

TEST(PromotionQueue, NewestFirstEachOnceAndBounded) {
  Space space;
  space.shards = {0};
  Block a(&space, BlockKey{1}, 0), b(&space, BlockKey{2}, 0);
  PromotionQueue queue(3);
  queue.Add({&a, 0, 1});
  queue.Add({&b, 0, 2});
  queue.Add({&a, 1, 3});
  EXPECT_THAT(Uses(queue), ElementsAre(3, 2, 1));
  EXPECT_THAT(Uses(queue, 2), ElementsAre(3, 2));
  queue.Add({&a, 0, 4});
  EXPECT_THAT(Uses(queue), ElementsAre(4, 3, 2)) << "again, and the newest";
  queue.Add({&b, 1, 5});
  EXPECT_THAT(Uses(queue), ElementsAre(5, 4, 3)) << "the oldest is forgotten";
  EXPECT_FALSE(queue.Contains(&b, 0));
  EXPECT_TRUE(queue.Contains(&b, 1));
  queue.Remove(&a, 0);
  queue.Remove(&a, 0);
  EXPECT_THAT(Uses(queue), ElementsAre(5, 3));
  EXPECT_EQ(queue.size(), 2u);
}

}  // namespace
}  // namespace kvstow
