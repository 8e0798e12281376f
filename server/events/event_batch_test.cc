#include "server/events/event_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvstow {
namespace {

using testing::ElementsAre;
using Kind = KvEvent::Kind;

BlockKey Key(uint8_t n) { return BlockKey{n}; }

StoreEvent Stored(uint8_t n, uint8_t parent, std::vector<uint32_t> token_ids = {}) {
  StoreEvent event;
  event.key = Key(n);
  event.parent = Key(parent);
  event.first_position = parent == 0 ? 0 : 4;
  event.block_tokens = 4;
  if (!token_ids.empty()) {
    event.token_ids = std::make_shared<const std::vector<uint32_t>>(std::move(token_ids));
  }
  return event;
}

StoreEvent Removed(uint8_t n, TierKind tier = TierKind::kHost) {
  StoreEvent event;
  event.kind = StoreEvent::Kind::kRemoved;
  event.key = Key(n);
  event.tier = tier;
  return event;
}

StoreEvent MovedDown(uint8_t n) {
  StoreEvent event = Stored(n, 0);
  event.kind = StoreEvent::Kind::kMoved;
  event.from = TierKind::kGpu;
  event.tier = TierKind::kHost;
  return event;
}

TEST(EventBatchTest, BlocksOfOnePromptAreToldTogether) {
  EventBatch batch;
  batch.Add(Stored(1, 0, {1, 2, 3, 4}));
  batch.Add(Stored(2, 1, {5, 6, 7, 8}));
  ASSERT_EQ(batch.events().size(), 1u);
  const KvEvent& event = batch.events()[0];
  EXPECT_EQ(event.kind, Kind::kStored);
  EXPECT_THAT(event.blocks, ElementsAre(Key(1), Key(2)));
  EXPECT_FALSE(event.has_parent);
  EXPECT_THAT(event.token_ids, ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
  EXPECT_EQ(event.block_tokens, 4u);
  EXPECT_EQ(event.medium, "CPU");
}

TEST(EventBatchTest, WhatDoesNotContinueIsToldApart) {
  EventBatch batch;
  batch.Add(Stored(1, 0));
  batch.Add(Stored(2, 0));                // another prompt
  batch.Add(Stored(4, 3));                // another parent
  batch.Add(Stored(5, 4, {1, 2, 3, 4}));  // token ids of all, or of none
  StoreEvent longer = Stored(6, 5, {1, 2, 3, 4});
  longer.block_tokens = 8;
  batch.Add(longer);
  StoreEvent elsewhere = Stored(7, 6, {1, 2, 3, 4});
  elsewhere.block_tokens = 8;
  elsewhere.tier = TierKind::kGpu;
  batch.Add(elsewhere);
  ASSERT_EQ(batch.events().size(), 6u);
  EXPECT_TRUE(batch.events()[2].has_parent);
  EXPECT_EQ(batch.events()[2].parent, Key(3));
  EXPECT_EQ(batch.events()[5].medium, "GPU");
}

TEST(EventBatchTest, RemovalsOfOneMediumAreToldTogether) {
  EventBatch batch;
  batch.Add(Removed(1));
  batch.Add(Removed(2));
  batch.Add(Removed(3, TierKind::kGpu));
  ASSERT_EQ(batch.events().size(), 2u);
  EXPECT_THAT(batch.events()[0].blocks, ElementsAre(Key(1), Key(2)));
  EXPECT_EQ(batch.events()[1].medium, "GPU");
  EXPECT_EQ(batch.blocks(), 3u);
}

TEST(EventBatchTest, AMovedBlockIsThereBeforeItIsGone) {
  EventBatch batch;
  batch.Add(MovedDown(1));
  ASSERT_EQ(batch.events().size(), 2u);
  EXPECT_EQ(batch.events()[0].kind, Kind::kStored);
  EXPECT_EQ(batch.events()[0].medium, "CPU");
  EXPECT_TRUE(batch.events()[0].token_ids.empty());
  EXPECT_EQ(batch.events()[1].kind, Kind::kRemoved);
  EXPECT_EQ(batch.events()[1].medium, "GPU");
}

TEST(EventBatchTest, WithOneMediumNothingMoves) {
  EventBatch batch("DISK");
  batch.Add(MovedDown(1));
  EXPECT_TRUE(batch.empty());
  batch.Add(Removed(1, TierKind::kGpu));
  EXPECT_EQ(batch.events()[0].medium, "DISK");
}

TEST(EventBatchTest, IsFullOfBlocksOrTokenIds) {
  EventBatch batch;
  int removed = 0;
  for (; !batch.full(); ++removed) batch.Add(Removed(1));
  EXPECT_EQ(removed, 512);
  batch.Clear();
  EXPECT_FALSE(batch.full());
  int stored = 0;
  for (; !batch.full(); ++stored) batch.Add(Stored(1, 0, std::vector<uint32_t>(512)));
  EXPECT_EQ(stored, 16);
}

}  // namespace
}  // namespace kvstow
