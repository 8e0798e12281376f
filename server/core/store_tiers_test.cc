// Where records are put, and where room is made, when there are two tiers.
#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "server/core/testing/store_fixture.h"

namespace kvstow {
namespace {

// Without a mover: what is put stays where it went.
struct TwoTiers {
  TwoTiers(uint32_t fast_pages, uint32_t slow_pages)
      : gpu(fast_pages, kTestPage, 1024, TierKind::kGpu), host(slow_pages, kTestPage, 1024) {}

  bool Put(const std::vector<BlockKey>& keys, uint32_t pages) {
    auto answers = *store.Reserve(space, 0, TestIntents(keys), pages * kTestPage);
    const std::vector<std::byte> bytes(pages * kTestPage);
    const std::span<const std::byte> pieces[] = {bytes};
    return std::all_of(answers.begin(), answers.end(), [&](auto& answer) {
      return answer.kind == Store::ReserveAnswer::Kind::kSend &&
             store.Commit(std::move(answer.reservation), pieces, {}).ok();
    });
  }
  bool Has(char chain) {
    return !store.Lookup(space, TestChain(chain, 1), {}, "", absl::ZeroDuration()).tiers.empty();
  }

  FakeClock clock;
  FakeRandom random;
  RecordingStats stats;
  MemoryTier gpu, host;
  Store store{{}, {&gpu, &host}, &clock, &random, &stats};
  SpaceId space = store.AddSpace(kDefaultTenant, Fingerprint{1}, {}, kTestTokens);
};

TEST(StoreTiers, RoomIsMadeInTheSlowestTier) {
  TwoTiers w(2, 3);
  ASSERT_TRUE(w.Put(TestChain('a', 1), 2));  // fills the fast tier, and is the oldest
  ASSERT_TRUE(w.Put(TestChain('b', 1), 3));
  ASSERT_TRUE(w.Put(TestChain('c', 1), 1));
  EXPECT_TRUE(w.Has('a'));
  EXPECT_FALSE(w.Has('b'));
  EXPECT_TRUE(w.Has('c'));
}

TEST(StoreTiers, WhatIsTooLargeForTheFastTierGoesToTheSlowOne) {
  TwoTiers w(2, 3);
  ASSERT_TRUE(w.Put(TestChain('a', 1), 3));
  EXPECT_EQ(w.gpu.usage().used_bytes, 0u);
  EXPECT_EQ(w.host.usage().used_bytes, 3u * kTestPage);
  EXPECT_FALSE(w.Put(TestChain('b', 1), 4)) << "no tier holds it, both together would";
}

TEST(StoreTiers, ARecordIsNotPromisedRoomInPieces) {
  TwoTiers w(2, 3);
  ASSERT_TRUE(w.Put(TestChain('a', 1), 3));
  w.store.Lease(w.space, TestChain('a', 1), {}, absl::Seconds(10));
  EXPECT_FALSE(w.Put(TestChain('b', 1), 3)) << "the slow tier is held, the fast one too small";
  EXPECT_TRUE(w.Put(TestChain('c', 1), 2));
}

// The only evictable record of the slow tier lies behind a leaf in the fast one.
TEST(StoreTiers, RoomBehindALeafInAnotherTier) {
  TwoTiers w(1, 3);
  ASSERT_TRUE(w.Put(TestChain('a', 1), 3));
  ASSERT_TRUE(w.Put(TestChain('b', 1), 1));
  const std::vector<BlockKey> extended = {TestKey('a', 0), TestKey('x', 1)};
  w.store.Drop(w.space, TestChain('b', 1));
  auto answers = *w.store.Reserve(w.space, 0, TestIntents(extended, 1), kTestPage);
  const std::vector<std::byte> bytes(kTestPage);
  const std::span<const std::byte> pieces[] = {bytes};
  ASSERT_TRUE(w.store.Commit(std::move(answers[0].reservation), pieces, {}).ok());
  ASSERT_EQ(w.gpu.usage().used_bytes, 1u * kTestPage);
  EXPECT_TRUE(w.Put(TestChain('c', 1), 2));
  EXPECT_FALSE(w.Has('a'));
}

TEST(StoreTiers, OnlyTheSlowestIsEvictedByItsWatermark) {
  TwoTiers w(2, 10);
  ASSERT_TRUE(w.Put(TestChain('a', 1), 2));
  ASSERT_TRUE(w.Put(TestChain('b', 5), 1));
  w.store.Maintain();
  EXPECT_EQ(w.store.Snapshot().visible_blocks, 6u) << "half of the slow tier is free";
  ASSERT_TRUE(w.Put(TestChain('c', 5), 1));
  w.store.Maintain();
  EXPECT_EQ(w.gpu.usage().used_bytes, 2u * kTestPage);
  EXPECT_EQ(w.host.usage().used_bytes, 9u * kTestPage);
}

TEST(StoreTiers, BlocksOfALostTierGoWithWhatHangsOnThem) {
  TwoTiers w(2, 8);
  ASSERT_TRUE(w.Put(TestChain('a', 1), 3));  // too large for the fast tier
  ASSERT_TRUE(w.Put(TestChain('b', 3), 2));  // the first of them in the fast tier
  EXPECT_EQ(w.gpu.usage().used_bytes, 2u * kTestPage);
  w.store.LoseTier(TierKind::kGpu);
  EXPECT_TRUE(w.Has('a'));
  EXPECT_FALSE(w.Has('b'));
  EXPECT_EQ(w.gpu.usage().used_bytes, 0u);
  EXPECT_EQ(w.host.usage().used_bytes, 3u * kTestPage) << "the children went, too";
  EXPECT_EQ(w.stats.removed(RemovalReason::kDamaged), 3u);
}

TEST(StoreTiers, NothingIsPutInALostTier) {
  TwoTiers w(4, 4);
  w.store.LoseTier(TierKind::kGpu);
  ASSERT_TRUE(w.Put(TestChain('a', 1), 3));
  EXPECT_EQ(w.gpu.usage().used_bytes, 0u);
  w.store.Lease(w.space, TestChain('a', 1), {}, absl::Seconds(10));
  EXPECT_FALSE(w.Put(TestChain('b', 1), 2)) << "its room does not count";
}

TEST(StoreTiers, ARecordThatCouldNotBeWrittenIsNotThere) {
  TwoTiers w(4, 4);
  w.gpu.set_failing(true);
  EXPECT_FALSE(w.Put(TestChain('a', 1), 2));
  EXPECT_FALSE(w.Has('a'));
  EXPECT_EQ(w.gpu.usage().used_bytes, 0u);
  EXPECT_EQ(w.store.Snapshot().tenants.at(0).physical_bytes, 0u);
  EXPECT_EQ(w.store.Snapshot().pending_blocks, 0u);
  w.gpu.set_failing(false);
  EXPECT_TRUE(w.Put(TestChain('a', 1), 2));
}

}  // namespace
}  // namespace kvstow
