#include "server/core/tier_queue.h"

#include <memory>
#include <optional>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace kvstow {
namespace {

// Against a search: blocks of two records are used, cool down, come, go and are set aside.
TEST(TierQueue, AgreesWithASearch) {
  for (uint32_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    Space space;
    space.shards = {0, 1};
    std::vector<std::unique_ptr<Block>> blocks;
    for (int i = 0; i < 40; ++i) {
      blocks.push_back(std::make_unique<Block>(&space, BlockKey{}, 0));
      blocks.back()->last_use = i + 1;
    }
    TierQueue queue;
    uint64_t tick = 100;
    for (int step = 0; step < 4000; ++step) {
      Block* block = blocks[random() % blocks.size()].get();
      const TierQueue::Item item{block, static_cast<uint32_t>(random() % 2)};
      const Record& record = block->records()[item.slot];
      switch (random() % 6) {
        case 0:
          if (record.queue_position == kNotQueued) queue.Push(item);
          break;
        case 1:
          queue.Remove(item);
          break;
        case 2:
          block->last_use = ++tick;
          if (random() % 2 == 0) block->is_protected = true;
          break;
        case 3:
          block->is_protected = false;
          for (uint32_t slot : {0, 1}) queue.Cool({block, slot});
          break;
        case 4:
          if (const auto coldest = queue.Coldest()) queue.SetAside(*coldest);
          break;
        case 5:
          if (random() % 10 == 0) queue.BringBack();
      }
      size_t in = 0;
      std::optional<uint64_t> least;
      for (const auto& b : blocks) {
        for (const Record& r : b->records()) {
          in += r.queue_position != kNotQueued;
          if (r.queue_position == kNotQueued || r.set_aside) continue;
          if (!least.has_value() || b->heat() < *least) least = b->heat();
        }
      }
      ASSERT_EQ(queue.size(), in);
      const auto coldest = queue.Coldest();
      ASSERT_EQ(coldest.has_value(), least.has_value());
      if (coldest.has_value()) {
        ASSERT_EQ(coldest->block->heat(), *least);
      }
    }
  }
}

}  // namespace
}  // namespace kvstow
