// Eviction, drops, damage, pins.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/core/testing/store_fixture.h"

namespace kvstow {
namespace {

using Kind = Store::ReserveAnswer::Kind;
using testing::Each;
using testing::IsEmpty;
using testing::SizeIs;

class StoreRemovalTest : public testing::Test {
 protected:
  StoreWorld w_{10};
};

TEST_F(StoreRemovalTest, EvictsLeavesFirst) {
  w_.Put(TestChain('a', 10));
  w_.Put(TestChain('b', 3));
  EXPECT_EQ(w_.Peek(TestChain('a', 10)), 7u);
  EXPECT_EQ(w_.Peek(TestChain('b', 3)), 3u);
  EXPECT_EQ(w_.stats.removed(RemovalReason::kEvicted), 3u);
  EXPECT_EQ(w_.stats.totals().removed_bytes[RemovalReason::kEvicted], 3u * kTestPage);
}

TEST_F(StoreRemovalTest, EvictsTheLeastRecentlyStoredFirst) {
  w_.Put(TestChain('a', 5));
  w_.Put(TestChain('b', 5));
  w_.Put(TestChain('c', 4));
  EXPECT_EQ(w_.Peek(TestChain('a', 5)), 1u);
  EXPECT_EQ(w_.Peek(TestChain('b', 5)), 5u);
}

TEST_F(StoreRemovalTest, ReusedBlocksOutliveNewcomers) {
  w_.Put(TestChain('a', 5));
  w_.Use(TestChain('a', 5));
  for (char chain = 'b'; chain < 'j'; ++chain) w_.Put(TestChain(chain, 5));
  EXPECT_EQ(w_.Peek(TestChain('a', 5)), 5u);
}

TEST_F(StoreRemovalTest, ReusedBlocksKeepNoMoreThanTheirShare) {
  StoreWorld w(10, {.protected_fraction = 0.4});
  w.Put(TestChain('a', 8));
  w.Use(TestChain('a', 8));
  w.Put(TestChain('b', 4));
  w.Put(TestChain('c', 4));
  EXPECT_GE(w.Peek(TestChain('a', 8)), 4u);
  EXPECT_LT(w.Peek(TestChain('a', 8)), 8u);
  EXPECT_EQ(w.Peek(TestChain('c', 4)), 4u);
}

TEST_F(StoreRemovalTest, PendingChildKeepsItsParent) {
  w_.Put(TestChain('a', 2));
  auto answers = w_.Reserve(TestIntents(TestChain('a', 3), 2));
  EXPECT_EQ(w_.Put(TestChain('b', 1), 8), 0u) << "what is left is promised";
  w_.Put(TestChain('b', 1), 7);
  w_.Put(TestChain('c', 1), 7);
  EXPECT_EQ(w_.Peek(TestChain('b', 1)), 0u);
  EXPECT_TRUE(w_.Commit(std::move(answers[0].reservation)).ok());
  EXPECT_EQ(w_.Peek(TestChain('a', 3)), 3u);
}

TEST_F(StoreRemovalTest, MaintainEvictsToTheLowWatermark) {
  StoreWorld w(1000, {.high_watermark = 0.9, .low_watermark = 0.5});
  w.Put(TestChain('a', 900));
  w.store.Maintain();
  EXPECT_EQ(w.used_pages(), 900u) << "not above the high one";
  w.Put(TestChain('b', 1));
  w.store.Maintain();
  EXPECT_EQ(w.used_pages(), 500u);
}

TEST_F(StoreRemovalTest, DropTakesTheSubtree) {
  w_.Put(TestChain('a', 4));
  w_.Put({TestKey('a', 0), TestKey('a', 1), TestKey('b', 2)});
  w_.events.clear();
  EXPECT_EQ(w_.store.Drop(w_.space, std::vector{TestKey('a', 1)}), 4u);
  EXPECT_EQ(w_.Peek(TestChain('a', 4)), 1u);
  EXPECT_EQ(w_.used_pages(), 1u);
  EXPECT_EQ(w_.stats.removed(RemovalReason::kDropped), 4u);
  ASSERT_THAT(w_.events, SizeIs(4));
  EXPECT_EQ(w_.events.back().key, TestKey('a', 1)) << "children first";
  EXPECT_EQ(w_.events.back().parent, TestKey('a', 0));
  EXPECT_EQ(w_.events.back().kind, StoreEvent::Kind::kRemoved);
  EXPECT_EQ(w_.events.back().reason, RemovalReason::kDropped);
  EXPECT_EQ(w_.store.Drop(w_.space, std::vector{TestKey('a', 1), TestKey('q', 1)}), 0u);
}

TEST_F(StoreRemovalTest, DropSpaceTakesAllOfOneSpace) {
  SpaceId other = w_.store.AddSpace(kDefaultTenant, Fingerprint{2}, {}, kTestTokens);
  w_.Put(TestChain('a', 3));
  w_.Put(TestChain('b', 2));
  auto pending = w_.Reserve(TestIntents(TestChain('a', 5), 3));
  ASSERT_TRUE(w_.Commit(std::move(pending[1].reservation)).ok());
  std::swap(w_.space, other);
  w_.Put(TestChain('a', 2));
  std::swap(w_.space, other);
  EXPECT_EQ(w_.store.DropSpace(w_.space), 6u) << "the incomplete one too";
  EXPECT_EQ(w_.Peek(TestChain('a', 3)), 0u);
  EXPECT_EQ(w_.used_pages(), 2u);
  EXPECT_EQ(w_.store.DropSpace(w_.space), 0u);
  pending.clear();
  EXPECT_EQ(w_.Put(TestChain('a', 3)), 3u);
}

TEST_F(StoreRemovalTest, LeasesOnDroppedBlocksLapse) {
  w_.Put(TestChain('a', 3));
  const LeaseId lease = w_.Lookup(TestChain('a', 3)).lease;
  EXPECT_EQ(w_.store.Drop(w_.space, TestChain('a', 1)), 3u);
  EXPECT_EQ(w_.used_pages(), 0u);
  EXPECT_EQ(w_.store.Snapshot().tenants[0].leased_bytes, 0u);
  w_.Put(TestChain('a', 3));
  EXPECT_EQ(w_.store.Inspect(w_.space, TestKey('a', 0))->leases, 0u);
  EXPECT_TRUE(w_.store.Release(kDefaultTenant, lease).ok());
  EXPECT_EQ(w_.Peek(TestChain('a', 3)), 3u);
}

TEST_F(StoreRemovalTest, PinKeepsBytesOfADroppedBlock) {
  w_.Put(TestChain('a', 2));
  Store::Pin pin = w_.store.Acquire(w_.space, 0, TestKey('a', 1));
  EXPECT_EQ(w_.store.Drop(w_.space, TestChain('a', 1)), 2u);
  EXPECT_EQ(w_.Peek(TestChain('a', 2)), 0u);
  EXPECT_EQ(w_.used_pages(), 1u);
  EXPECT_EQ(w_.store.Snapshot().tiers[0].blocks, 0u);
  EXPECT_EQ(w_.Put(TestChain('a', 2)), 2u) << "its name is free at once";
  std::vector<std::byte> bytes(kTestPage);
  EXPECT_TRUE(pin.Read(0, bytes).ok());
  EXPECT_THAT(bytes, Each(std::byte{1}));
  pin = Store::Pin();
  EXPECT_EQ(w_.used_pages(), 2u);
  EXPECT_EQ(w_.Peek(TestChain('a', 2)), 2u);
}

TEST_F(StoreRemovalTest, PinnedAndLeasedBlockGoesWithTheLastHold) {
  w_.Put(TestChain('a', 1));
  const LeaseId lease = w_.Lookup(TestChain('a', 1)).lease;
  {
    const Store::Pin pin = w_.store.Acquire(w_.space, 0, TestKey('a', 0));
    w_.store.Drop(w_.space, TestChain('a', 1));
    EXPECT_EQ(w_.used_pages(), 1u);
  }
  EXPECT_EQ(w_.used_pages(), 0u);
  EXPECT_TRUE(w_.store.Release(kDefaultTenant, lease).ok());
}

TEST_F(StoreRemovalTest, PinnedBlocksAreNotEvicted) {
  w_.Put(TestChain('a', 3));
  const Store::Pin pin = w_.store.Acquire(w_.space, 0, TestKey('a', 1));
  const Store::Pin again = w_.store.Acquire(w_.space, 0, TestKey('a', 1));
  w_.Put(TestChain('b', 1), 8);
  EXPECT_EQ(w_.Peek(TestChain('a', 3)), 2u);
}

TEST_F(StoreRemovalTest, PinsMove) {
  w_.Put(TestChain('a', 1));
  Store::Pin a = w_.store.Acquire(w_.space, 0, TestKey('a', 0));
  Store::Pin b = std::move(a);
  EXPECT_FALSE(a);
  EXPECT_TRUE(b);
  a = std::move(b);
  EXPECT_TRUE(a);
  a = Store::Pin();
  EXPECT_EQ(w_.Put(TestChain('b', 1), 10), 1u) << "nothing is pinned any more";
}

TEST_F(StoreRemovalTest, DamageRemovesTheBlockWithItsDescendants) {
  w_.Put(TestChain('a', 4));
  const Store::Pin pin = w_.store.Acquire(w_.space, 0, TestKey('a', 1));
  w_.store.ReportDamage(pin);
  EXPECT_EQ(w_.Peek(TestChain('a', 4)), 1u);
  EXPECT_EQ(w_.stats.totals().checksum_failures, 1u);
  EXPECT_EQ(w_.stats.removed(RemovalReason::kDamaged), 3u);
  w_.Put(TestChain('a', 4));
  w_.store.ReportDamage(pin);
  EXPECT_EQ(w_.Peek(TestChain('a', 4)), 4u) << "the new record is another one";
}

TEST_F(StoreRemovalTest, AcquireCountsAsUse) {
  w_.Put(TestChain('a', 1));
  w_.clock.Advance(absl::Seconds(5));
  EXPECT_TRUE(w_.store.Acquire(w_.space, 0, TestKey('a', 0)));
  EXPECT_EQ(w_.store.Inspect(w_.space, TestKey('a', 0))->hits, 1u);
  EXPECT_EQ(w_.store.Inspect(w_.space, TestKey('a', 0))->idle, absl::ZeroDuration());
}

// A child announced under a visible parent that is dropped and put again finds its new parent.
TEST_F(StoreRemovalTest, PendingChildSurvivesItsParentsReplacement) {
  w_.Put(TestChain('a', 1));
  auto answers = w_.Reserve(TestIntents(TestChain('a', 2), 1));
  const Store::Pin pin = w_.store.Acquire(w_.space, 0, TestKey('a', 0));
  w_.store.Drop(w_.space, TestChain('a', 1));
  w_.Put(TestChain('a', 1));
  EXPECT_TRUE(w_.Commit(std::move(answers[0].reservation)).ok());
  EXPECT_EQ(w_.Peek(TestChain('a', 2)), 2u);
}

TEST_F(StoreRemovalTest, SnapshotSaysWhatThereIs) {
  w_.Put(TestChain('a', 3), 2);
  w_.Lookup(TestChain('a', 2));
  const StoreSnapshot s = w_.store.Snapshot();
  ASSERT_THAT(s.tiers, SizeIs(1));
  EXPECT_EQ(s.tiers[0].usage.capacity_bytes, 10u * kTestPage);
  EXPECT_EQ(s.tiers[0].usage.used_bytes, 6u * kTestPage);
  EXPECT_EQ(s.tiers[0].blocks, 3u);
  EXPECT_EQ(s.tiers[0].record_bytes, 6u * kTestPage);
  EXPECT_EQ(s.tiers[0].logical_bytes, 3000u);
  ASSERT_THAT(s.tenants, SizeIs(1));
  EXPECT_EQ(s.tenants[0].blocks, 3u);
  EXPECT_EQ(s.tenants[0].physical_bytes, 6u * kTestPage);
  EXPECT_EQ(s.tenants[0].leased_bytes, 4u * kTestPage);
  EXPECT_EQ(s.tenants[0].leases, 1u);
  EXPECT_EQ(s.visible_blocks, 3u);
  EXPECT_EQ(s.leases, 1u);
}

TEST(StorePeek, PinsAndIsNoUse) {
  StoreWorld w(10);
  w.Put(TestChain('a', 1));
  w.clock.Advance(absl::Seconds(5));
  {
    const Store::Pin pin = w.store.Peek(w.space, 0, TestKey('a', 0));
    ASSERT_TRUE(pin);
    w.store.Drop(w.space, TestChain('a', 1));
    EXPECT_EQ(w.used_pages(), 1u) << "pinned";
  }
  EXPECT_EQ(w.used_pages(), 0u);
  w.Put(TestChain('b', 1));
  w.clock.Advance(absl::Seconds(5));
  (void)w.store.Peek(w.space, 0, TestKey('b', 0));
  const auto info = w.store.Inspect(w.space, TestKey('b', 0));
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->hits, 0u);
  EXPECT_EQ(info->idle, absl::Seconds(5));
  EXPECT_FALSE(w.store.Peek(w.space, 0, TestKey('x', 0)));
  EXPECT_FALSE(w.store.Peek(w.space, 7, TestKey('b', 0)));
}

// A record goes to the fastest tier with room; what the store holds is bounded by both.
TEST(StoreTiers, FastestWithRoomFirst) {
  FakeClock clock;
  FakeRandom random;
  RecordingStats stats;
  MemoryTier gpu(2, kTestPage, 1024, TierKind::kGpu), host(3, kTestPage, 1024);
  Store store({}, {&gpu, &host}, &clock, &random, &stats);
  const SpaceId space = store.AddSpace(kDefaultTenant, Fingerprint{1}, {}, kTestTokens);
  const std::vector<BlockKey> keys = TestChain('a', 4);
  const std::vector<std::byte> bytes(kTestPage);
  const std::span<const std::byte> pieces[] = {bytes};
  const std::vector<BlockIntent> intents = TestIntents(keys);
  auto answers = store.Reserve(space, 0, intents, kTestPage);
  ASSERT_TRUE(answers.ok());
  for (auto& answer : *answers) {
    ASSERT_TRUE(store.Commit(std::move(answer.reservation), pieces, {}).ok());
  }
  const LookupMatch match = store.Lookup(space, keys, {}, "", absl::ZeroDuration());
  EXPECT_THAT(match.tiers, testing::ElementsAre(TierKind::kGpu, TierKind::kGpu, TierKind::kHost,
                                                TierKind::kHost));
  EXPECT_EQ(store.Snapshot().tiers[0].blocks, 2u);
}

TEST(StoreLifetime, GivesItsMemoryBack) {
  MemoryTier tier(10, kTestPage, 1024);
  FakeClock clock;
  FakeRandom random;
  RecordingStats stats;
  {
    Store store({}, {&tier}, &clock, &random, &stats);
    const SpaceId space = store.AddSpace(kDefaultTenant, Fingerprint{1}, {}, kTestTokens);
    const std::vector<std::byte> bytes(kTestPage);
    const std::span<const std::byte> pieces[] = {bytes};
    auto answers = store.Reserve(space, 0, TestIntents(TestChain('a', 3)), kTestPage);
    ASSERT_TRUE(answers.ok());
    for (auto& answer : *answers) {
      ASSERT_TRUE(store.Commit(std::move(answer.reservation), pieces, {}).ok());
    }
    store.Lookup(space, TestChain('a', 3), {}, "r", absl::Seconds(10));
    EXPECT_GT(tier.usage().used_bytes, 0u);
  }
  EXPECT_EQ(tier.usage().used_bytes, 0u);
}

TEST(StoreNames, AreStable) {
  for (const RemovalReason reason : kAllRemovalReasons) EXPECT_NE(Name(reason), "unknown");
  for (const Refusal refusal : kAllRefusals) EXPECT_NE(Name(refusal), "unknown");
  EXPECT_EQ(Name(TierKind::kGpu), "gpu");
  EXPECT_EQ(Name(TierKind::kHost), "host");
}

}  // namespace
}  // namespace kvstow
