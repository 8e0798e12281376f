#include "server/core/eviction_queue.h"

#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace kvstow {
namespace {

class EvictionQueueTest : public testing::Test {
 protected:
  EvictionQueueTest() { space_.shards = {0}; }

  // A visible leaf of 10 bytes, used last at `tick`; the queue does not know it yet.
  Block* Make(uint64_t tick) {
    blocks_.push_back(std::make_unique<Block>(&space_, BlockKey{}, 0));
    Block* block = blocks_.back().get();
    block->physical_bytes = 10;
    block->last_use = tick;
    return block;
  }
  Block* Queued(EvictionQueue& queue, uint64_t tick) {
    Block* block = Make(tick);
    queue.Insert(block);
    return block;
  }
  static void Evict(EvictionQueue& queue, Block* block) {
    queue.Remove(block);
    queue.Forget(block);
  }

  Space space_;
  std::vector<std::unique_ptr<Block>> blocks_;
};

TEST_F(EvictionQueueTest, EmptyHasNoVictim) {
  EvictionQueue queue(100);
  EXPECT_EQ(queue.Victim(), nullptr);
}

TEST_F(EvictionQueueTest, LeastRecentlyUsedGoesFirst) {
  EvictionQueue queue(100);
  Block* late = Queued(queue, 30);
  Block* early = Queued(queue, 10);
  Block* middle = Queued(queue, 20);
  for (Block* expected : {early, middle, late}) {
    EXPECT_EQ(queue.Victim(), expected);
    Evict(queue, expected);
  }
}

TEST_F(EvictionQueueTest, UsedBlocksOutliveNewcomers) {
  EvictionQueue queue(100);
  Block* used = Queued(queue, 1);
  queue.Touch(used, 2);
  Block* newcomer = Queued(queue, 3);
  EXPECT_EQ(queue.Victim(), newcomer);
  Evict(queue, newcomer);
  EXPECT_EQ(queue.Victim(), used);
}

TEST_F(EvictionQueueTest, TouchRenewsWithinTheSegment) {
  EvictionQueue queue(100);
  Block* a = Queued(queue, 1);
  Block* b = Queued(queue, 2);
  queue.Touch(a, 3);
  queue.Touch(b, 4);
  queue.Touch(a, 5);
  EXPECT_EQ(queue.Victim(), b);
}

TEST_F(EvictionQueueTest, OverflowOfTheProtectedIsDemoted) {
  EvictionQueue queue(20);
  Block* a = Queued(queue, 1);
  Block* b = Queued(queue, 2);
  Block* c = Queued(queue, 3);
  queue.Touch(a, 4);
  queue.Touch(b, 5);
  queue.Touch(c, 6);
  EXPECT_FALSE(a->is_protected);
  EXPECT_EQ(queue.protected_bytes(), 20u);
  Block* newcomer = Queued(queue, 7);
  EXPECT_EQ(queue.Victim(), a);
  Evict(queue, a);
  EXPECT_EQ(queue.Victim(), newcomer);
}

// A chain counts with all its blocks, though only its end is queued, and is demoted from its end.
TEST_F(EvictionQueueTest, ChainIsDemotedFromItsEnd) {
  EvictionQueue queue(25);
  Block* root = Make(1);
  Block* leaf = Queued(queue, 2);
  leaf->parent = root;
  root->children = 1;
  queue.Touch(root, 3);
  queue.Touch(leaf, 4);
  Block* hot = Queued(queue, 5);
  queue.Touch(hot, 6);
  EXPECT_FALSE(leaf->is_protected);
  EXPECT_TRUE(root->is_protected) << "20 bytes are within the cap";
  EXPECT_TRUE(hot->is_protected);
  Block* hotter = Queued(queue, 7);
  queue.Touch(hotter, 8);
  EXPECT_EQ(queue.protected_bytes(), 20u);
  EXPECT_FALSE(hot->is_protected) << "its turn, as the chain's end is demoted already";
}

TEST_F(EvictionQueueTest, DemotionGoesUpAsFarAsNeeded) {
  EvictionQueue queue(10);
  Block* root = Make(1);
  Block* leaf = Queued(queue, 2);
  leaf->parent = root;
  root->children = 1;
  queue.Touch(root, 3);
  Block* hot = Make(5);  // leased, say: not queued
  queue.Touch(hot, 6);
  EXPECT_TRUE(root->is_protected) << "nothing queued leads to it";
  queue.Touch(leaf, 7);
  EXPECT_FALSE(leaf->is_protected);
  EXPECT_FALSE(root->is_protected);
  EXPECT_EQ(queue.protected_bytes(), 10u);
}

TEST_F(EvictionQueueTest, DemotionStopsAtASharedPrefix) {
  EvictionQueue queue(15);
  Block* root = Make(1);
  Block* leaf = Queued(queue, 2);
  leaf->parent = root;
  root->children = 2;
  queue.Touch(root, 3);
  queue.Touch(leaf, 4);
  EXPECT_TRUE(root->is_protected);
  EXPECT_FALSE(leaf->is_protected);
}

TEST_F(EvictionQueueTest, ForgetGivesProtectedBytesBack) {
  EvictionQueue queue(100);
  Block* a = Queued(queue, 1);
  queue.Touch(a, 2);
  EXPECT_EQ(queue.protected_bytes(), 10u);
  Evict(queue, a);
  EXPECT_EQ(queue.protected_bytes(), 0u);
  EXPECT_EQ(queue.size(), 0u);
}

TEST_F(EvictionQueueTest, HeapAgreesWithASearch) {
  for (uint32_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    LeafHeap heap;
    std::vector<Block*> in;
    uint64_t tick = 1000;
    for (int step = 0; step < 2000; ++step) {
      const uint32_t what = random() % 3;
      if (what == 0 || in.empty()) {
        // Unique, and anywhere in the past.
        in.push_back(Make((random() % 1000) * 100000 + step));
        heap.Push(in.back());
      } else if (what == 1) {
        std::swap(in[random() % in.size()], in.back());
        heap.Remove(in.back());
        in.pop_back();
      } else {
        Block* block = in[random() % in.size()];
        block->last_use = 100000000 + ++tick;
        heap.Update(block);
      }
      Block* oldest = nullptr;
      for (Block* block : in) {
        if (oldest == nullptr || block->last_use < oldest->last_use) oldest = block;
      }
      ASSERT_EQ(heap.Top(), oldest);
      ASSERT_EQ(heap.size(), in.size());
    }
  }
}

}  // namespace
}  // namespace kvstow
