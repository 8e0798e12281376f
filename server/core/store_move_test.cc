// Records moving between tiers: what moves when, and what happens to a record meanwhile.
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/core/testing/store_fixture.h"

namespace kvstow {
namespace {

using testing::ElementsAre;

constexpr auto kDown = std::make_pair(TierKind::kGpu, TierKind::kHost);
constexpr auto kUp = std::make_pair(TierKind::kHost, TierKind::kGpu);

// A fast tier of 10 pages that empties from above 8 down to 5, and a slow one.
class StoreMoveTest : public testing::Test {
 protected:
  static StoreOptions Options() { return {.high_watermark = 0.8, .low_watermark = 0.5}; }

  static std::vector<BlockKey> One(char chain) { return {TestKey(chain, 0)}; }
  // Blocks of one page each, in chains of their own, oldest first.
  void PutEach(const std::string& chains, uint32_t pages = 1) {
    for (const char chain : chains) ASSERT_EQ(w_.Put(One(chain), pages), 1u) << chain;
  }
  void UseEach(const std::string& chains) {
    for (const char chain : chains) w_.Use(One(chain));
  }
  // Of `chains`, those that lie in a tier.
  std::string In(TierKind tier, const std::string& chains) {
    std::string in;
    for (const char chain : chains) {
      const auto info = w_.store.Inspect(w_.space, TestKey(chain, 0));
      if (info.ok() && info->shards[0].tier == tier) in += chain;
    }
    return in;
  }
  std::string Fast(const std::string& chains) { return In(TierKind::kGpu, chains); }
  std::string Slow(const std::string& chains) { return In(TierKind::kHost, chains); }
  Store::Pin Get(char chain) { return w_.store.Acquire(w_.space, 0, TestKey(chain, 0)); }
  uint64_t moved(const std::pair<TierKind, TierKind>& way) const {
    auto moved = w_.stats.totals().moved;
    return moved[way];
  }
  // What every account says is what the tiers say.
  void ExpectBalanced() {
    const StoreSnapshot s = w_.store.Snapshot();
    EXPECT_EQ(s.tenants[0].physical_bytes, w_.used_pages() * kTestPage);
    EXPECT_EQ(s.moving_bytes, 0u);
    for (const TierSnapshot& tier : s.tiers) EXPECT_EQ(tier.record_bytes, tier.usage.used_bytes);
  }

  StoreWorld w_{30, Options(), 10};
};

TEST_F(StoreMoveTest, WhoListensHearsOfMoves) {
  PutEach("abcdefghij");
  w_.events.clear();
  w_.Settle();
  ASSERT_EQ(w_.events.size(), moved(kDown));
  for (const StoreEvent& event : w_.events) {
    EXPECT_EQ(event.kind, StoreEvent::Kind::kMoved);
    EXPECT_EQ(event.from, TierKind::kGpu);
    EXPECT_EQ(event.tier, TierKind::kHost);
    EXPECT_EQ(event.block_tokens, kTestTokens);
  }
}

TEST_F(StoreMoveTest, ColdestLeaveUntilTheLowWatermark) {
  PutEach("abcdefghij");
  ASSERT_EQ(w_.fast_pages(), 10u);
  UseEach("a");
  w_.Settle();
  EXPECT_EQ(Fast("abcdefghij"), "aghij");
  EXPECT_EQ(Slow("abcdefghij"), "bcdef");
  EXPECT_EQ(moved(kDown), 5u);
  EXPECT_EQ(w_.stats.totals().moved_bytes[kDown], 5u * kTestPage);
  EXPECT_EQ(w_.store.Snapshot().tiers[0].blocks, 5u);
  EXPECT_EQ(w_.store.Snapshot().tiers[1].blocks, 5u);
  EXPECT_EQ(w_.store.Snapshot().tiers[1].logical_bytes, 5000u);
  ExpectBalanced();
}

TEST_F(StoreMoveTest, TheBytesMoveAlong) {
  // Found by its second byte: block 3 of a chain, each byte 3.
  w_.Put(TestChain('a', 4), 2);
  UseEach("a");
  PutEach("bc");
  w_.Settle();
  const Store::Pin pin = w_.store.Acquire(w_.space, 0, TestKey('a', 3));
  ASSERT_TRUE(pin);
  EXPECT_EQ(pin.tier(), TierKind::kHost);
  std::vector<std::byte> bytes(pin.record_bytes());
  EXPECT_TRUE(pin.Read(0, bytes).ok());
  EXPECT_EQ(bytes, std::vector<std::byte>(2 * kTestPage, std::byte{3}));
}

TEST_F(StoreMoveTest, NothingLeavesATierBelowItsHighWatermark) {
  PutEach("abcdefgh");
  w_.store.Maintain();
  EXPECT_EQ(w_.executor.queue_depth(), 0u);
}

TEST_F(StoreMoveTest, ARecordIsWhereItWasUntilItsCopyEnds) {
  PutEach("abcdefghi");
  w_.store.Maintain();
  EXPECT_EQ(Fast("abcdefghi"), "abcdefghi");
  EXPECT_EQ(w_.used_pages(), 13u) << "four in both tiers";
  const StoreSnapshot s = w_.store.Snapshot();
  EXPECT_EQ(s.moving_bytes, 4u * kTestPage);
  EXPECT_EQ(s.tenants[0].physical_bytes, 13u * kTestPage);
  w_.store.Maintain();
  EXPECT_EQ(w_.store.Snapshot().moving_bytes, s.moving_bytes) << "what leaves counts as gone";
  w_.executor.RunAll();
  EXPECT_EQ(Slow("abcdefghi"), "abcd");
  ExpectBalanced();
}

TEST_F(StoreMoveTest, BytesInFlightAreBounded) {
  StoreOptions options = Options();
  options.max_moving_bytes = 3 * kTestPage;
  options.move_batch_bytes = 2 * kTestPage;
  StoreWorld w(30, options, 10);
  for (const char chain : std::string("abcdefghij")) w.Put(One(chain));
  w.store.Maintain();
  int steps = 0;
  do {
    EXPECT_LE(w.store.Snapshot().moving_bytes, 3u * kTestPage);
    ++steps;
  } while (w.executor.RunOne());
  EXPECT_GT(steps, 5);
  EXPECT_EQ(w.fast_pages(), 5u) << "it went on by itself";
}

TEST_F(StoreMoveTest, ALargeRecordMovesAlone) {
  StoreOptions options = Options();
  options.max_moving_bytes = 2 * kTestPage;
  StoreWorld w(30, options, 10);
  for (const char chain : std::string("abc")) w.Put(One(chain), 3);
  w.store.Maintain();
  EXPECT_EQ(w.store.Snapshot().moving_bytes, 3u * kTestPage);
  w.executor.RunAll();
  EXPECT_EQ(w.fast_pages(), 3u);
}

TEST_F(StoreMoveTest, APinTakenDuringTheCopyKeepsTheRecordWhereItIs) {
  PutEach("abcdefghij");
  w_.store.Maintain();
  Store::Pin pin = Get('a');
  const std::span<const std::byte> view = pin.View(0, 10);
  w_.executor.RunAll();
  EXPECT_EQ(pin.tier(), TierKind::kGpu);
  EXPECT_EQ(pin.View(0, 10).data(), view.data());
  EXPECT_EQ(Slow("abcdef"), "bcdef") << "the next coldest went instead";
  ExpectBalanced();
  EXPECT_TRUE(w_.stats.totals().moves_failed.empty());
}

TEST_F(StoreMoveTest, WhatIsPinnedIsPassedOverUntilItIsNot) {
  PutEach("abcdefghij");
  Store::Pin pin = w_.store.Peek(w_.space, 0, TestKey('a', 0));
  w_.Settle();
  EXPECT_EQ(Slow("abcdefghij"), "bcdef");
  pin = {};
  PutEach("klmn");
  w_.Settle();
  EXPECT_EQ(Slow("aghij"), "aghi");
}

TEST_F(StoreMoveTest, DropDuringTheCopy) {
  PutEach("abcdefghij");
  w_.store.Maintain();
  EXPECT_EQ(w_.store.Drop(w_.space, One('a')), 1u);
  EXPECT_EQ(w_.store.Inspect(w_.space, TestKey('a', 0)).ok(), false);
  EXPECT_EQ(w_.store.DropSpace(w_.space), 9u);
  EXPECT_EQ(w_.used_pages(), 10u) << "both ends of what is being copied";
  EXPECT_EQ(w_.store.Snapshot().tenants[0].physical_bytes, 10u * kTestPage);
  w_.executor.RunAll();
  EXPECT_EQ(w_.used_pages(), 0u);
  EXPECT_EQ(moved(kDown), 0u);
  ExpectBalanced();
}

TEST_F(StoreMoveTest, DropOfAPinnedRecordDuringTheCopy) {
  for (const bool unpin_first : {true, false}) {
    PutEach("abcdefghij");
    w_.store.Maintain();
    Store::Pin pin = Get('a');
    w_.store.DropSpace(w_.space);
    if (unpin_first) pin = {};
    w_.executor.RunAll();
    EXPECT_EQ(w_.used_pages(), unpin_first ? 0u : 1u);
    pin = {};
    EXPECT_EQ(w_.used_pages(), 0u);
  }
}

TEST_F(StoreMoveTest, DamageFoundDuringTheCopy) {
  PutEach("abcdefghij");
  w_.store.Maintain();
  w_.store.ReportDamage(Get('a'));
  w_.executor.RunAll();
  EXPECT_FALSE(Get('a'));
  EXPECT_EQ(w_.used_pages(), 9u);
  ExpectBalanced();
}

TEST_F(StoreMoveTest, AMovingRecordIsNoVictim) {
  PutEach("abcdefghij");
  w_.store.Maintain();  // a to e are on their way
  ASSERT_EQ(w_.Put(One('z'), 25), 1u) << "there is just room";
  EXPECT_EQ(w_.Put(One('y'), 26), 0u) << "not before they have arrived";
  w_.executor.RunAll();
  EXPECT_EQ(Slow("abcde"), "abcde");
  EXPECT_EQ(w_.Put(One('y'), 26), 1u);
}

TEST_F(StoreMoveTest, AFailedCopyLeavesTheRecordWhereItWas) {
  PutEach("abcdefghij");
  w_.mover.SetFailing(true);
  w_.Settle();
  EXPECT_EQ(w_.fast_pages(), 5u) << "others went instead";
  auto totals = w_.stats.totals();
  EXPECT_GE(totals.moves_failed[kDown], 3u);
  EXPECT_EQ(totals.moved[kDown], 5u);
  ExpectBalanced();
  EXPECT_EQ(Fast("a"), "a");
  w_.mover.SetFailing(false);
  PutEach("klmn");
  w_.Settle();
  EXPECT_EQ(Slow("a"), "a");
}

// The slow tier is at its high watermark, so that maintenance evicts nothing by itself: 6 pages are
// free, and 24 taken.
TEST_F(StoreMoveTest, RoomIsMadeFromWhatIsColder) {
  PutEach("0", 10);
  PutEach("cdefgh", 4);
  w_.store.Drop(w_.space, One('0'));
  PutEach("a", 7);
  PutEach("b", 2);
  w_.Settle();
  EXPECT_EQ(Slow("abcdefgh"), "adefgh");
  EXPECT_EQ(Fast("abcdefgh"), "b");
  EXPECT_EQ(w_.stats.removed(RemovalReason::kEvicted), 1u);
}

TEST_F(StoreMoveTest, APrefixGoesWithItsLeafToMakeRoom) {
  PutEach("0", 10);
  w_.Put(TestChain('c', 8), 3);
  w_.store.Drop(w_.space, One('0'));
  PutEach("a", 10);
  w_.Settle();
  EXPECT_EQ(Slow("a"), "a");
  EXPECT_EQ(w_.Peek(TestChain('c', 8)), 6u);
}

TEST_F(StoreMoveTest, NothingHotterIsEvictedForAMove) {
  PutEach("0", 10);
  PutEach("cdefgh", 4);
  w_.store.Drop(w_.space, One('0'));
  PutEach("a", 7);
  PutEach("b", 2);
  UseEach("cdefgh");
  w_.store.Lease(w_.space, One('a'), {}, absl::Seconds(10));  // or it would go itself
  w_.Settle();
  EXPECT_EQ(Fast("ab"), "a");
  EXPECT_EQ(Slow("b"), "b") << "there is room for the next";
  EXPECT_EQ(w_.stats.removed(RemovalReason::kEvicted), 0u);
}

TEST_F(StoreMoveTest, NothingIsEvictedInVain) {
  PutEach("0", 10);
  PutEach("c", 1);  // the only one that is colder than a, and not enough
  PutEach("de", 8);
  PutEach("f", 7);
  w_.store.Drop(w_.space, One('0'));
  PutEach("a", 8);
  PutEach("b", 1);
  UseEach("def");
  w_.store.Lease(w_.space, One('a'), {}, absl::Seconds(10));
  w_.Settle();
  EXPECT_EQ(Fast("ab"), "a");
  EXPECT_EQ(Slow("bcdef"), "bcdef");
}

// Fills the fast tier (2 records of 5 pages) and the slow one (3 of 10), which maintenance must not
// evict by its watermark: what is leased is not.
class FullSlowTier : public StoreMoveTest {
 protected:
  void Fill() {
    PutEach("ab", 5);
    PutEach("cde", 10);
    ASSERT_EQ(w_.used_pages(), 40u);
  }
  void LeaseEach(const std::string& chains) {
    for (const char chain : chains) w_.store.Lease(w_.space, One(chain), {}, absl::Seconds(10));
  }
};

TEST_F(FullSlowTier, TheColdestOfAllGoesWhenItCannotBeDemoted) {
  Fill();
  LeaseEach("cde");
  w_.Settle();
  EXPECT_EQ(Slow("cde"), "cde");
  EXPECT_EQ(Fast("ab"), "b");
  EXPECT_EQ(w_.stats.removed(RemovalReason::kEvicted), 1u);
}

TEST_F(FullSlowTier, NothingHappensWhenEverythingIsHeld) {
  Fill();
  w_.store.Lease(w_.space, One('a'), {}, absl::Seconds(10));
  LeaseEach("cd");
  Store::Pin b = Get('b'), e = Get('e');
  w_.Settle();
  EXPECT_EQ(w_.used_pages(), 40u);
  EXPECT_EQ(moved(kDown), 0u);
  EXPECT_EQ(w_.stats.removed(RemovalReason::kEvicted), 0u);
}

TEST_F(StoreMoveTest, LeasedBlocksMoveAndStayLeased) {
  PutEach("abcdefghij");
  const LeaseId lease = w_.store.Lease(w_.space, One('a'), w_.session, absl::Seconds(10));
  w_.Settle();
  EXPECT_EQ(Slow("a"), "a");
  EXPECT_EQ(w_.store.Snapshot().tenants[0].leased_bytes, 1u * kTestPage);
  EXPECT_EQ(w_.Put(One('y'), 30), 0u) << "still held";
  EXPECT_TRUE(w_.store.Release(kDefaultTenant, lease).ok());
  EXPECT_EQ(w_.store.Snapshot().tenants[0].leased_bytes, 0u);
  EXPECT_EQ(w_.Put(One('y'), 30), 1u);
}

// What loses its protection is as cold as its last use, also when it was known as protected.
TEST_F(StoreMoveTest, WhatIsNoLongerProtectedLeavesInItsTurn) {
  StoreOptions options = Options();
  options.protected_fraction = 0.05;  // two pages
  StoreWorld w(30, options, 10);
  for (const char chain : std::string("abcdefghi")) w.Put(One(chain));
  w.Use(One('a'));
  w.Settle();
  for (const char chain : std::string("fg")) w.Use(One(chain));
  for (const char chain : std::string("klmn")) w.Put(One(chain));
  w.Settle();
  for (const char chain : std::string("hiak")) {
    EXPECT_EQ(w.store.Inspect(w.space, TestKey(chain, 0))->shards[0].tier, TierKind::kHost);
  }
}

TEST_F(StoreMoveTest, BlocksWithDescendantsMove) {
  w_.Put(TestChain('a', 10));
  w_.Settle();
  EXPECT_EQ(w_.fast_pages(), 5u);
  EXPECT_EQ(w_.Peek(TestChain('a', 10)), 10u);
  w_.store.Drop(w_.space, {{TestKey('a', 4)}});
  EXPECT_EQ(w_.used_pages(), 4u);
}

TEST_F(StoreMoveTest, WhatADrainingStoreHoldsStays) {
  PutEach("abcdefghij");
  w_.store.StartDraining();
  w_.store.Maintain();
  EXPECT_EQ(w_.executor.queue_depth(), 0u);
}

// ---- Promotion ----

class StorePromotionTest : public StoreMoveTest {
 protected:
  // Leaves the chains in the slow tier, never used, and the fast one empty.
  void PutSlow(const std::string& chains) {
    ASSERT_EQ(w_.Put(One('0'), 10), 1u);
    PutEach(chains);
    w_.store.Drop(w_.space, One('0'));
    ASSERT_EQ(Slow(chains), chains);
  }
};

TEST_F(StorePromotionTest, TheSecondUsePromotes) {
  PutSlow("ab");
  UseEach("a");
  w_.Settle();
  EXPECT_EQ(Fast("ab"), "");
  UseEach("a");
  w_.Settle();
  EXPECT_EQ(Fast("ab"), "a");
  EXPECT_EQ(moved(kUp), 1u);
  EXPECT_EQ(w_.slow_pages(), 1u);
  ExpectBalanced();
}

TEST_F(StorePromotionTest, PrefetchPromotesBeforeAnyUse) {
  PutSlow("ab");
  EXPECT_EQ(w_.store.Prefetch(w_.space, One('a')), 1u);
  w_.executor.RunAll();  // without waiting for maintenance
  EXPECT_EQ(Fast("ab"), "a");
  EXPECT_EQ(w_.store.Prefetch(w_.space, One('a')), 0u) << "it is there";
  EXPECT_EQ(w_.store.Prefetch(w_.space, One('z')), 0u) << "no such block";
  EXPECT_EQ(w_.store.Prefetch(SpaceId{999}, One('a')), 0u);
  EXPECT_EQ(w_.stats.totals().lookups, 0u) << "no hit is counted";
  ExpectBalanced();
}

TEST_F(StorePromotionTest, PrefetchTakesThePrefixAndNoMore) {
  w_.Put(One('0'), 10);
  w_.Put(TestChain('a', 3), 1);
  w_.store.Drop(w_.space, One('0'));
  std::vector<BlockKey> keys = TestChain('a', 3);
  keys[1] = TestKey('z', 0);
  EXPECT_EQ(w_.store.Prefetch(w_.space, keys), 1u);
  EXPECT_EQ(w_.store.Prefetch(w_.space, TestChain('a', 3)), 3u) << "the first is on its way still";
}

TEST_F(StorePromotionTest, PrefetchDoesNotPushOutWhatIsInUse) {
  PutSlow("a");
  PutEach("bcdefghi");
  UseEach("bcdefghi");
  EXPECT_EQ(w_.store.Prefetch(w_.space, One('a')), 1u);
  w_.Settle();
  EXPECT_EQ(Fast("abcdefghi"), "bcdefghi");
}

TEST_F(StorePromotionTest, AGetAfterItsLookupIsTheSameUse) {
  PutSlow("ab");
  UseEach("a");
  (void)Get('a');
  w_.Settle();
  EXPECT_EQ(Fast("a"), "");
  (void)Get('a');
  w_.Settle();
  EXPECT_EQ(Fast("a"), "a") << "a Get without a Lookup is one";
  for (int i = 0; i < 2; ++i) (void)Get('b');
  w_.Settle();
  EXPECT_EQ(Fast("b"), "b");
}

TEST_F(StorePromotionTest, LookingIsNoUse) {
  PutSlow("a");
  for (int i = 0; i < 3; ++i) {
    w_.Peek(One('a'));
    (void)w_.store.Peek(w_.space, 0, TestKey('a', 0));
    (void)w_.store.Inspect(w_.space, TestKey('a', 0));
  }
  w_.Settle();
  EXPECT_EQ(Fast("a"), "");
}

TEST_F(StorePromotionTest, OnlyUpToTheHighWatermark) {
  PutSlow("abcdefghij");
  UseEach("abcdefghij");
  UseEach("abcdefghij");
  w_.Settle();
  EXPECT_EQ(Fast("abcdefghij"), "cdefghij") << "the newest eight";
  w_.Settle();
  EXPECT_EQ(w_.fast_pages(), 8u);
  EXPECT_EQ(moved(kDown), 0u);
}

TEST_F(StorePromotionTest, WhatWasNeverUsedGivesWay) {
  PutSlow("a");
  PutEach("bcdefghi");
  UseEach("aa");
  w_.Settle();
  EXPECT_EQ(Fast("abcdefghi"), "acdefghi");
  EXPECT_EQ(Slow("b"), "b");
  ExpectBalanced();
}

TEST_F(StorePromotionTest, WhatIsInUseGivesWayToWhatIsUsedTwiceAsOften) {
  PutSlow("a");
  PutEach("bcdefghi");
  UseEach("a");
  UseEach("bcdefghi");
  UseEach("a");
  w_.Settle();
  EXPECT_EQ(Fast("a"), "") << "used once since the others were";
  UseEach("a");
  w_.Settle();
  EXPECT_EQ(Fast("abcdefghi"), "acdefghi");
}

// A working set larger than the fast tier does not turn over in it.
TEST_F(StorePromotionTest, RoundAndRoundMovesNothing) {
  const std::string chains = "abcdefghijklmnop";
  PutSlow(chains);
  for (int round = 0; round < 3; ++round) {
    UseEach(chains);
    w_.Settle();
  }
  const uint64_t up = moved(kUp);
  EXPECT_EQ(up, 8u);
  for (int round = 0; round < 20; ++round) {
    UseEach(chains);
    w_.Settle();
  }
  EXPECT_EQ(moved(kUp), up);
  EXPECT_EQ(moved(kDown), 0u);
}

TEST_F(StorePromotionTest, WhatWasDemotedStaysUntilItIsUsed) {
  PutEach("abcdefghij");
  UseEach("aabcdefghij");
  w_.Settle();
  ASSERT_EQ(Slow("a"), "a");
  w_.store.Drop(w_.space, One('j'));
  for (int i = 0; i < 3; ++i) w_.Settle();
  EXPECT_EQ(Slow("a"), "a") << "although there is room";
  UseEach("a");
  w_.Settle();
  EXPECT_EQ(Fast("a"), "a");
}

TEST_F(StorePromotionTest, WaitsForTheReader) {
  PutSlow("a");
  (void)Get('a');
  Store::Pin pin = Get('a');
  w_.Settle();
  EXPECT_EQ(Slow("a"), "a");
  pin = {};
  w_.store.Maintain();
  pin = Get('a');
  w_.executor.RunAll();
  EXPECT_EQ(pin.tier(), TierKind::kHost) << "read again when the copy ended";
  pin = {};
  w_.Settle();
  EXPECT_EQ(Fast("a"), "a");
  ExpectBalanced();
}

TEST_F(StorePromotionTest, WhatGoesMeanwhileIsForgotten) {
  PutSlow("abc");
  UseEach("abcabc");
  w_.store.Drop(w_.space, One('a'));
  w_.store.Maintain();
  w_.store.Drop(w_.space, One('b'));
  w_.executor.RunAll();
  EXPECT_EQ(Fast("abc"), "c");
  EXPECT_EQ(w_.used_pages(), 1u);
}

TEST_F(StorePromotionTest, TheQueueKeepsTheNewest) {
  StoreOptions options = Options();
  options.max_promotions = 2;
  StoreWorld w(30, options, 10);
  w.Put(One('0'), 10);
  for (const char chain : std::string("abc")) w.Put(One(chain));
  w.store.Drop(w.space, One('0'));
  for (const char chain : std::string("abcabc")) w.Use(One(chain));
  w.Settle();
  EXPECT_EQ(w.store.Inspect(w.space, TestKey('a', 0))->shards[0].tier, TierKind::kHost);
  EXPECT_EQ(w.fast_pages(), 2u);
}

TEST_F(StorePromotionTest, AFailedPromotionIsCountedAndNotRepeated) {
  PutSlow("a");
  UseEach("aa");
  w_.mover.SetFailing(true);
  w_.Settle();
  w_.Settle();
  EXPECT_EQ(Slow("a"), "a");
  EXPECT_EQ(w_.stats.totals().moves_failed[kUp], 1u);
  ExpectBalanced();
  w_.mover.SetFailing(false);
  UseEach("a");
  w_.Settle();
  EXPECT_EQ(Fast("a"), "a");
}

TEST_F(StorePromotionTest, WhatTheFastTierCannotHoldIsNotPromoted) {
  ASSERT_EQ(w_.Put(One('a'), 11), 1u);
  ASSERT_EQ(w_.Put(One('0'), 2), 1u);
  ASSERT_EQ(w_.Put(One('b'), 9), 1u) << "it could, but not below its high watermark";
  UseEach("abab");
  w_.Settle();
  EXPECT_EQ(Fast("ab"), "");
  EXPECT_EQ(w_.executor.queue_depth(), 0u);
}

// A use while the record is on its way does not ask for anything that outlasts the way.
TEST_F(StorePromotionTest, ArrivingForgetsWhatWasAsked) {
  StoreOptions options = Options();
  options.max_moving_bytes = kTestPage;  // one at a time
  StoreWorld w(30, options, 10);
  w.Put(One('0'), 10);
  for (const char chain : std::string("ab")) w.Put(One(chain));
  w.store.Drop(w.space, One('0'));
  for (const char chain : std::string("abab")) w.Use(One(chain));
  w.store.Maintain();  // b is on its way
  for (const char chain : std::string("ba")) w.Use(One(chain));
  w.executor.RunOne();  // b has arrived, a is on its way
  w.Put(One('x'), 8);
  Store::Pin pin = w.store.Peek(w.space, 0, TestKey('x', 0));
  w.executor.RunOne();  // a has arrived, and the tier is full; x cannot leave, so b does
  w.executor.RunOne();  // b has left, a leaves
  pin = {};
  w.store.Drop(w.space, One('x'));
  w.executor.RunAll();
  EXPECT_EQ(w.fast_pages(), 0u) << "nothing was used since";
}

// ---- Spaces of several shards ----

class ShardedMoveTest : public StoreMoveTest {
 protected:
  ShardedMoveTest() {
    w_.space = w_.store.AddSpace(kDefaultTenant, Fingerprint{2}, {0, 1}, kTestTokens);
  }
  std::vector<TierKind> Tiers(char chain) {
    std::vector<TierKind> tiers;
    const auto info = w_.store.Inspect(w_.space, TestKey(chain, 0));
    if (info.ok()) {
      for (const auto& shard : info->shards) tiers.push_back(shard.tier);
    }
    return tiers;
  }
};

TEST_F(ShardedMoveTest, EachShardMovesAndTheBlockIsAsSlowAsItsSlowest) {
  w_.Put(One('0'), 5);  // of shard 0: never whole
  w_.Put(One('a'), 5, 0);
  w_.Put(One('a'), 5, 1);
  EXPECT_THAT(Tiers('a'), ElementsAre(TierKind::kGpu, TierKind::kHost));
  auto lookup = w_.Lookup(One('a'));
  EXPECT_THAT(lookup.tiers, ElementsAre(TierKind::kHost));
  w_.Settle();
  EXPECT_THAT(Tiers('a'), ElementsAre(TierKind::kHost, TierKind::kHost));
  EXPECT_EQ(w_.store.Snapshot().tenants[0].leased_bytes, 10u * kTestPage);
  // 0 is still incomplete, and stays where it is.
  EXPECT_THAT(Tiers('0'), ElementsAre(TierKind::kGpu));
  w_.clock.Advance(absl::Seconds(31));
  w_.Settle();
  EXPECT_TRUE(Tiers('0').empty());
  // Back up, as far as there is room: 8 pages for 5 and 5.
  w_.Use(One('a'));
  w_.Settle();
  EXPECT_EQ(w_.fast_pages(), 5u);
  EXPECT_THAT(w_.Lookup(One('a')).tiers, ElementsAre(TierKind::kHost));
  w_.store.DropSpace(w_.space);
  w_.executor.RunAll();
  EXPECT_EQ(w_.used_pages(), 0u);
}

TEST_F(ShardedMoveTest, AShardIsUsedByItsOwnGets) {
  w_.Put(One('0'), 10, 0);
  w_.Put(One('a'), 1, 0);
  w_.Put(One('a'), 1, 1);
  w_.store.Drop(w_.space, One('0'));
  for (int i = 0; i < 2; ++i) (void)w_.store.Acquire(w_.space, 1, TestKey('a', 0));
  w_.Settle();
  EXPECT_THAT(Tiers('a'), ElementsAre(TierKind::kHost, TierKind::kGpu));
}

TEST_F(ShardedMoveTest, DropWhileBothShardsMove) {
  w_.Put(One('a'), 5, 0);
  w_.Put(One('a'), 4, 1);
  w_.store.Maintain();
  EXPECT_EQ(w_.store.Snapshot().moving_bytes, 5u * kTestPage) << "one is enough";
  w_.executor.RunAll();
  w_.Put(One('b'), 3, 0);
  w_.Put(One('b'), 3, 1);
  w_.store.Maintain();
  w_.store.DropSpace(w_.space);
  w_.executor.RunAll();
  EXPECT_EQ(w_.used_pages(), 0u);
  ExpectBalanced();
}

// ---- Shutdown, other shapes of tiers ----

TEST(StoreMoveShutdown, WaitsForWhatIsBeingCopied) {
  FakeClock clock;
  FakeRandom random;
  RecordingStats stats;
  MemoryTier gpu(10, kTestPage, 1024, TierKind::kGpu), host(30, kTestPage, 1024);
  StepExecutor executor;
  ExecutorMover mover(&executor);
  auto store =
      std::make_unique<Store>(StoreOptions{.high_watermark = 0.8, .low_watermark = 0.5},
                              std::vector<Tier*>{&gpu, &host}, &clock, &random, &stats, &mover);
  const SpaceId space = store->AddSpace(kDefaultTenant, Fingerprint{1}, {}, kTestTokens);
  const std::vector<std::byte> bytes(kTestPage);
  const std::span<const std::byte> pieces[] = {bytes};
  auto answers = store->Reserve(space, 0, TestIntents(TestChain('a', 10)), kTestPage);
  ASSERT_TRUE(answers.ok());
  for (auto& answer : *answers) {
    ASSERT_TRUE(store->Commit(std::move(answer.reservation), pieces, {}).ok());
  }
  store->Maintain();
  ASSERT_GT(executor.queue_depth(), 0u);
  std::thread end([&store] { store.reset(); });
  executor.RunAll();
  end.join();
  EXPECT_EQ(executor.queue_depth(), 0u);
  EXPECT_EQ(gpu.usage().used_bytes + host.usage().used_bytes, 0u);
}

struct OddTiers {
  explicit OddTiers(std::vector<Tier*> tiers, double low_watermark = 0.5)
      : store({.high_watermark = 0.8, .low_watermark = low_watermark}, std::move(tiers), &clock,
              &random, &stats, &mover),
        space(store.AddSpace(kDefaultTenant, Fingerprint{1}, {}, kTestTokens)) {}
  void Put(char chain, uint64_t bytes) {
    auto answers = *store.Reserve(space, 0, TestIntents(TestChain(chain, 1)), bytes);
    const std::vector<std::byte> data(bytes, static_cast<std::byte>(chain));
    const std::span<const std::byte> pieces[] = {data};
    ASSERT_TRUE(store.Commit(std::move(answers[0].reservation), pieces, {}).ok());
  }
  void Settle() {
    store.Maintain();
    executor.RunAll();
  }

  FakeClock clock;
  FakeRandom random;
  RecordingStats stats;
  StepExecutor executor;
  ExecutorMover mover{&executor};
  Store store;
  SpaceId space;
};

TEST(StoreMoveTiers, PagesOfDifferentSizes) {
  MemoryTier gpu(5, 256, 1024, TierKind::kGpu), host(100, 64, 1024);
  OddTiers w({&gpu, &host});
  for (const char chain : std::string("abcde")) w.Put(chain, 100);
  (void)w.store.Lookup(w.space, TestChain('a', 1), {}, "", absl::Seconds(10));
  (void)w.store.Lease(w.space, TestChain('b', 1), {}, absl::Seconds(10));
  EXPECT_EQ(w.store.Snapshot().tenants[0].leased_bytes, 512u);
  w.Settle();
  EXPECT_EQ(gpu.usage().used_bytes, 512u);
  EXPECT_EQ(host.usage().used_bytes, 3 * 128u);
  const StoreSnapshot s = w.store.Snapshot();
  EXPECT_EQ(s.tenants[0].physical_bytes, 512u + 3 * 128u);
  EXPECT_EQ(s.tenants[0].leased_bytes, 256u + 128u) << "b moved";
  w.store.ReleaseAll({});
  w.store.DropSpace(w.space);
  EXPECT_EQ(w.store.Snapshot().tenants[0].leased_bytes, 0u);
  EXPECT_EQ(gpu.usage().used_bytes + host.usage().used_bytes, 0u);
}

// Or protection would end when as many bytes had gone missing as it may cover.
TEST(StoreMoveTiers, ProtectedBytesFollowThePages) {
  MemoryTier gpu(5, 256, 1024, TierKind::kGpu), host(100, 64, 1024);
  OddTiers w({&gpu, &host}, /*low_watermark=*/0);
  const auto use = [&w](char chain) { (void)w.store.Acquire(w.space, 0, TestKey(chain, 0)); };
  for (int round = 0; round < 50; ++round) {
    for (const char chain : std::string("abcde")) w.Put(chain, 100);
    for (const char chain : std::string("abcde")) use(chain);
    w.Settle();
    w.store.DropSpace(w.space);
  }
  w.Put('a', 100);
  use('a');
  for (const char chain : std::string("bcde")) w.Put(chain, 100);
  w.Settle();
  ASSERT_EQ(host.usage().used_bytes, 5 * 128u);
  w.Put('z', 6400 - 4 * 128);
  EXPECT_TRUE(w.store.Inspect(w.space, TestKey('a', 0)).ok());
  EXPECT_FALSE(w.store.Inspect(w.space, TestKey('b', 0)).ok()) << "never used";
}

TEST(StoreMoveTiers, ThreeTiersPassOn) {
  MemoryTier first(10, 64, 1024, TierKind::kGpu), second(10, 64, 1024, TierKind::kHost),
      third(100, 64, 1024, TierKind::kHost);
  OddTiers w({&first, &second, &third});
  for (char chain = 'a'; chain < 'a' + 20; ++chain) w.Put(chain, 64);
  for (int i = 0; i < 4; ++i) w.Settle();
  EXPECT_EQ(first.usage().used_bytes, 5 * 64u);
  EXPECT_LE(second.usage().used_bytes, 8 * 64u);
  EXPECT_GE(third.usage().used_bytes, 7 * 64u);
  EXPECT_EQ(w.store.Snapshot().visible_blocks, 20u);
  EXPECT_EQ(w.stats.totals().removed_blocks.size(), 0u);
}

// Records that the source tier cannot show in one piece are copied, too.
TEST(StoreMoveTiers, RecordsInPieces) {
  MemoryTier gpu(10, 64, 2, TierKind::kGpu), host(30, 64, 1024);
  OddTiers w({&gpu, &host});
  w.Put('a', 500);
  w.Put('b', 100);
  w.Settle();
  const Store::Pin pin = w.store.Acquire(w.space, 0, TestKey('a', 0));
  ASSERT_TRUE(pin);
  EXPECT_EQ(pin.tier(), TierKind::kHost);
  std::vector<std::byte> bytes(500);
  EXPECT_TRUE(pin.Read(0, bytes).ok());
  EXPECT_EQ(bytes, std::vector<std::byte>(500, std::byte{'a'}));
}

}  // namespace
}  // namespace kvstow
