#include "server/core/block_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvstow {
namespace {

using testing::ElementsAre;
using testing::UnorderedElementsAre;

class BlockIndexTest : public testing::Test {
 protected:
  // A visible block of 10 bytes under `parent`.
  Block* Visible(uint8_t name, Block* parent) {
    Block* block = Pending(name, parent);
    block->reserved = 0;
    block->present = 1;
    block->physical_bytes = 10;
    index_.MakeVisible(block);
    return block;
  }
  Block* Pending(uint8_t name, Block* parent) {
    Block* block = index_.Create(space_, BlockKey{name}, parent ? parent->first_position + 1 : 0);
    if (parent != nullptr) index_.SetParent(block, parent);
    block->reserved = 1;
    return block;
  }
  void Evict(Block* block) {
    index_.Retire(block);
    index_.Destroy(block);
  }

  TenantQueues queues_{{}, 1000, 1};
  BlockIndex index_{1, &queues_};
  EvictionQueue& queue_ = queues_.Of(kDefaultTenant);
  Space* space_ = index_.AddSpace(kDefaultTenant, Fingerprint{}, {0}, 1);
};

TEST_F(BlockIndexTest, OnlyLeavesAreQueued) {
  Block* a = Visible(1, nullptr);
  EXPECT_EQ(queue_.Victim(), a);
  Block* b = Visible(2, a);
  EXPECT_EQ(queue_.Victim(), b);
  EXPECT_EQ(queue_.size(), 1u);
  EXPECT_EQ(index_.evictable_bytes(), 20u);
  Evict(b);
  EXPECT_EQ(queue_.Victim(), a);
  EXPECT_EQ(index_.evictable_bytes(), 10u);
}

TEST_F(BlockIndexTest, AHoldCoversTheAncestorsButNoSiblings) {
  Block* a = Visible(1, nullptr);
  Block* b = Visible(2, a);
  Block* c = Visible(3, a);
  index_.Hold(b);
  EXPECT_EQ(index_.evictable_bytes(), 10u);
  EXPECT_EQ(queue_.Victim(), c);
  Evict(c);
  EXPECT_EQ(queue_.Victim(), nullptr) << "a has a held child";
  index_.Unhold(b);
  EXPECT_EQ(index_.evictable_bytes(), 20u);
  EXPECT_EQ(queue_.Victim(), b);
}

TEST_F(BlockIndexTest, HoldsAlongAPathAddUp) {
  Block* a = Visible(1, nullptr);
  Block* b = Visible(2, a);
  index_.Hold(b);
  index_.Hold(a);
  index_.Hold(b);
  index_.Unhold(b);
  index_.Unhold(a);
  EXPECT_EQ(index_.evictable_bytes(), 0u);
  index_.Unhold(b);
  EXPECT_EQ(index_.evictable_bytes(), 20u);
}

TEST_F(BlockIndexTest, APendingChildHoldsItsParent) {
  Block* a = Visible(1, nullptr);
  Block* b = Pending(2, a);
  EXPECT_EQ(queue_.Victim(), nullptr);
  b->reserved = 0;
  index_.Tidy(b);
  EXPECT_EQ(queue_.Victim(), a);
  EXPECT_EQ(index_.Find(space_, BlockKey{2}), nullptr);
}

TEST_F(BlockIndexTest, RetiredParentLeavesAGhostUntilItsLastChildGoes) {
  Block* a = Visible(1, nullptr);
  Block* b = Pending(2, a);
  Block* c = Pending(3, a);
  Evict(a);
  Block* ghost = index_.Find(space_, BlockKey{1});
  ASSERT_NE(ghost, nullptr);
  EXPECT_TRUE(ghost->is_ghost());
  EXPECT_EQ(b->parent, ghost);
  b->reserved = 0;
  index_.Tidy(b);
  EXPECT_NE(index_.Find(space_, BlockKey{1}), nullptr);
  c->reserved = 0;
  index_.Tidy(c);
  EXPECT_EQ(index_.Find(space_, BlockKey{1}), nullptr);
  EXPECT_TRUE(space_->blocks.empty());
  EXPECT_EQ(index_.evictable_bytes(), 0u);
}

TEST_F(BlockIndexTest, SubtreesComeParentsFirst) {
  Block* a = Visible(1, nullptr);
  Block* b = Visible(2, a);
  Block* c = Visible(3, b);
  Block* d = Visible(4, nullptr);
  std::vector<Block*> blocks;
  BlockIndex::CollectSubtree(a, &blocks);
  EXPECT_THAT(blocks, ElementsAre(a, b, c));
  blocks.clear();
  BlockIndex::CollectSpace(space_, &blocks);
  EXPECT_THAT(blocks, UnorderedElementsAre(a, b, c, d));
}

TEST_F(BlockIndexTest, PrefixEndsAtTheFirstThatIsNotVisible) {
  Block* a = Visible(1, nullptr);
  Block* b = Visible(2, a);
  Pending(3, b);
  std::vector<Block*> blocks;
  const std::vector<BlockKey> keys = {BlockKey{1}, BlockKey{2}, BlockKey{3}};
  index_.FindVisiblePrefix(space_, keys, &blocks);
  EXPECT_THAT(blocks, ElementsAre(a, b));
}

}  // namespace
}  // namespace kvstow
