// Reservations, commits and visibility.
#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/core/testing/store_fixture.h"

namespace kvstow {
namespace {

using Kind = Store::ReserveAnswer::Kind;
using testing::SizeIs;

class StorePutTest : public testing::Test {
 protected:
  static Refusal RefusalOf(const Store::ReserveAnswer& answer) {
    EXPECT_EQ(answer.kind, Kind::kDeclined);
    EXPECT_FALSE(answer.reservation);
    return answer.refusal;
  }
  absl::StatusCode CodeOf(const std::vector<BlockIntent>& intents, uint32_t shard = 0) {
    return w_.store.Reserve(w_.space, shard, intents, 1).status().code();
  }

  StoreWorld w_{100};
  const std::vector<BlockKey> keys_ = TestChain('a', 4);
};

TEST_F(StorePutTest, CommittedBlocksAreVisible) {
  EXPECT_EQ(w_.Put(keys_, 2), 4u);
  EXPECT_EQ(w_.Peek(keys_), 4u);
  EXPECT_EQ(w_.used_pages(), 8u);
  EXPECT_EQ(w_.stats.totals().stored_blocks, 4u);
  EXPECT_EQ(w_.stats.totals().stored_bytes, 8u * kTestPage);
}

TEST_F(StorePutTest, RecordIsThePiecesOneAfterTheOther) {
  w_.Put(keys_, 3);
  const Store::Pin pin = w_.store.Acquire(w_.space, 0, keys_[2]);
  ASSERT_TRUE(pin);
  EXPECT_EQ(pin.record_bytes(), 3u * kTestPage);
  EXPECT_EQ(pin.first_position(), 2u * kTestTokens);
  EXPECT_EQ(pin.tier(), TierKind::kHost);
  std::vector<std::byte> bytes(pin.record_bytes());
  EXPECT_TRUE(pin.Read(0, bytes).ok());
  EXPECT_THAT(bytes, testing::Each(std::byte{2}));
  EXPECT_THAT(pin.View(60, 20), SizeIs(20));
}

TEST_F(StorePutTest, ReservedIsNotVisible) {
  const auto answers = w_.Reserve(TestIntents(keys_));
  EXPECT_EQ(w_.Peek(keys_), 0u);
  EXPECT_FALSE(w_.store.Acquire(w_.space, 0, keys_[0]));
  EXPECT_EQ(w_.store.Inspect(w_.space, keys_[0]).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(w_.store.Snapshot().pending_blocks, 4u);
}

TEST_F(StorePutTest, GivenBackReservationLeavesNoTrace) {
  { const auto answers = w_.Reserve(TestIntents(keys_)); }
  EXPECT_EQ(w_.store.Snapshot().pending_blocks, 0u);
  EXPECT_EQ(RefusalOf(w_.Reserve(TestIntents(keys_, 1))[0]), Refusal::kNoParent);
  EXPECT_EQ(w_.Put(keys_), 4u);
}

TEST_F(StorePutTest, ReservationsMove) {
  auto answers = w_.Reserve(TestIntents(TestChain('a', 2)));
  answers[1].reservation = Store::Reservation();
  EXPECT_EQ(w_.store.Snapshot().pending_blocks, 1u);
  Store::Reservation moved = std::move(answers[0].reservation);
  EXPECT_FALSE(answers[0].reservation);
  EXPECT_EQ(moved.intent().key, TestKey('a', 0));
  EXPECT_TRUE(w_.Commit(std::move(moved)).ok());
  EXPECT_EQ(w_.store.Snapshot().pending_blocks, 0u);
}

TEST_F(StorePutTest, ExistingBlocksNeedNotBeSent) {
  w_.Put(TestChain('a', 2));
  const auto answers = w_.Reserve(TestIntents(keys_));
  EXPECT_EQ(answers[0].kind, Kind::kExists);
  EXPECT_EQ(answers[1].kind, Kind::kExists);
  EXPECT_EQ(answers[2].kind, Kind::kSend);
  EXPECT_EQ(answers[3].kind, Kind::kSend);
}

TEST_F(StorePutTest, DeclinesWhatAnotherCallIsPutting) {
  const auto first = w_.Reserve(TestIntents(TestChain('a', 2)));
  const auto second = w_.Reserve(TestIntents(keys_));
  EXPECT_EQ(RefusalOf(second[0]), Refusal::kPending);
  EXPECT_EQ(RefusalOf(second[1]), Refusal::kPending);
  EXPECT_EQ(second[2].kind, Kind::kSend) << "its parent is pending, that is enough";
  EXPECT_EQ(w_.stats.refused(Refusal::kPending), 2u);
}

TEST_F(StorePutTest, DeclinesWithoutParent) {
  EXPECT_EQ(RefusalOf(w_.Reserve(TestIntents(keys_, 2))[0]), Refusal::kNoParent);
  EXPECT_EQ(w_.stats.refused(Refusal::kNoParent), 2u);
}

TEST_F(StorePutTest, DeclinesWhatNoTierCanHold) {
  EXPECT_EQ(RefusalOf(w_.Reserve(TestIntents(keys_), 101)[0]), Refusal::kTooLarge);
  EXPECT_EQ(w_.stats.refused(Refusal::kTooLarge), 1u);
  EXPECT_EQ(w_.stats.refused(Refusal::kNoParent), 3u);
}

TEST_F(StorePutTest, DeclinesWhenFullOfLeases) {
  StoreWorld w(10, {.max_leased_fraction = 1.0});
  w.Put(TestChain('x', 8));
  const LeaseId lease = w.Lookup(TestChain('x', 8)).lease;
  EXPECT_EQ(RefusalOf(w.Reserve(TestIntents(TestChain('y', 1)), 3)[0]), Refusal::kFull);
  EXPECT_EQ(w.stats.refused(Refusal::kFull), 1u);
  ASSERT_TRUE(w.store.Release(kDefaultTenant, lease).ok());
  EXPECT_EQ(w.Reserve(TestIntents(TestChain('y', 1)), 3)[0].kind, Kind::kSend);
}

TEST_F(StorePutTest, RoomIsNotPromisedTwice) {
  StoreWorld w(10);
  const auto first = w.Reserve(TestIntents(TestChain('x', 1)), 6);
  EXPECT_EQ(RefusalOf(w.Reserve(TestIntents(TestChain('y', 1)), 6)[0]), Refusal::kFull);
  EXPECT_EQ(w.Reserve(TestIntents(TestChain('y', 1)), 4)[0].kind, Kind::kSend);
}

// The new block's ancestors could be evicted, but not for it.
TEST_F(StorePutTest, AncestorsAreNoRoomForTheirDescendants) {
  StoreWorld w(10);
  w.Put(TestChain('x', 9));
  EXPECT_EQ(RefusalOf(w.Reserve(TestIntents(TestChain('x', 10), 9), 2)[0]), Refusal::kFull);
  EXPECT_EQ(w.Reserve(TestIntents(TestChain('y', 1)), 2)[0].kind, Kind::kSend);
}

TEST_F(StorePutTest, DeclinesWhileDraining) {
  auto before = w_.Reserve(TestIntents(TestChain('a', 1)));
  w_.store.StartDraining();
  EXPECT_EQ(RefusalOf(w_.Reserve(TestIntents(TestChain('b', 1)))[0]), Refusal::kDraining);
  EXPECT_EQ(w_.stats.refused(Refusal::kDraining), 1u);
  EXPECT_TRUE(w_.Commit(std::move(before[0].reservation)).ok()) << "what began may end";
}

TEST_F(StorePutTest, RefusesIntentsThatMakeNoSense) {
  auto intents = TestIntents(keys_);
  intents[2].first_position += 1;
  EXPECT_EQ(CodeOf(intents), absl::StatusCode::kInvalidArgument) << "does not follow its parent";
  intents = TestIntents(keys_);
  intents.push_back(intents[0]);
  EXPECT_EQ(CodeOf(intents), absl::StatusCode::kInvalidArgument) << "twice";
  EXPECT_EQ(CodeOf(TestIntents(keys_), 7), absl::StatusCode::kInvalidArgument) << "shard";
  EXPECT_EQ(w_.store.Snapshot().pending_blocks, 0u) << "nothing was reserved";

  w_.Put(keys_);
  EXPECT_EQ(CodeOf({{TestKey('z', 0), keys_[3], kTestTokens}}), absl::StatusCode::kInvalidArgument)
      << "does not follow its stored parent";
  EXPECT_EQ(CodeOf({{keys_[1], keys_[2], 3 * kTestTokens}}), absl::StatusCode::kInvalidArgument)
      << "known elsewhere";
  EXPECT_EQ(w_.store.Reserve(SpaceId{77}, 0, {}, 1).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(StorePutTest, ChildWaitsForItsParent) {
  auto answers = w_.Reserve(TestIntents(keys_));
  for (int i : {3, 1, 2}) ASSERT_TRUE(w_.Commit(std::move(answers[i].reservation)).ok());
  EXPECT_EQ(w_.store.Snapshot().incomplete_blocks, 3u);
  EXPECT_EQ(w_.store.Snapshot().visible_blocks, 0u);
  EXPECT_FALSE(w_.store.Inspect(w_.space, keys_[1])->visible);
  ASSERT_TRUE(w_.Commit(std::move(answers[0].reservation)).ok());
  EXPECT_EQ(w_.Peek(keys_), 4u);
  EXPECT_EQ(w_.store.Snapshot().incomplete_blocks, 0u);
  ASSERT_THAT(w_.events, SizeIs(4));
  for (int i = 0; i < 4; ++i) EXPECT_EQ(w_.events[i].key, keys_[i]) << "parents first";
}

TEST_F(StorePutTest, IncompleteBlocksExpire) {
  auto answers = w_.Reserve(TestIntents(keys_));
  ASSERT_TRUE(w_.Commit(std::move(answers[1].reservation)).ok());
  answers.clear();
  w_.clock.Advance(absl::Seconds(29));
  w_.store.Maintain();
  EXPECT_EQ(w_.store.Snapshot().incomplete_blocks, 1u);
  w_.clock.Advance(absl::Seconds(1));
  w_.store.Maintain();
  EXPECT_EQ(w_.store.Snapshot().incomplete_blocks, 0u);
  EXPECT_EQ(w_.used_pages(), 0u);
  EXPECT_EQ(w_.stats.removed(RemovalReason::kIncomplete), 1u);
  EXPECT_THAT(w_.events, SizeIs(0)) << "nobody ever saw it";
}

TEST_F(StorePutTest, ParentThatComesBackIsInTime) {
  auto answers = w_.Reserve(TestIntents(TestChain('a', 2)));
  ASSERT_TRUE(w_.Commit(std::move(answers[1].reservation)).ok());
  answers.clear();  // the parent's call died
  EXPECT_EQ(w_.Put(TestChain('a', 1)), 1u);
  EXPECT_EQ(w_.Peek(TestChain('a', 2)), 2u);
}

TEST_F(StorePutTest, CommitUnderADroppedParentWaitsAndExpires) {
  w_.Put(TestChain('a', 1));
  auto answers = w_.Reserve(TestIntents(TestChain('a', 2), 1));
  EXPECT_EQ(w_.store.Drop(w_.space, TestChain('a', 1)), 1u);
  EXPECT_EQ(RefusalOf(w_.Reserve({{TestKey('b', 1), TestKey('a', 0), kTestTokens}})[0]),
            Refusal::kNoParent);
  ASSERT_TRUE(w_.Commit(std::move(answers[0].reservation)).ok());
  EXPECT_EQ(w_.store.Snapshot().incomplete_blocks, 1u);
  w_.clock.Advance(absl::Seconds(30));
  w_.store.Maintain();
  EXPECT_EQ(w_.used_pages(), 0u);
}

TEST_F(StorePutTest, CommitWithoutRoomIsRefused) {
  StoreWorld w(10, {.max_leased_fraction = 1.0});
  auto answers = w.Reserve(TestIntents(TestChain('x', 1)), 1);
  w.Put(TestChain('y', 8));
  w.Lookup(TestChain('y', 8));
  const absl::Status status = w.Commit(std::move(answers[0].reservation), 3);  // more than it said
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(w.stats.refused(Refusal::kFull), 1u);
  EXPECT_EQ(w.store.Snapshot().pending_blocks, 0u);

  answers = w.Reserve(TestIntents(TestChain('x', 1)), 1);
  EXPECT_EQ(w.Commit(std::move(answers[0].reservation), 11).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(w.stats.refused(Refusal::kTooLarge), 1u);
}

// ---- sharded spaces ----

class StoreShardsTest : public StorePutTest {
 protected:
  StoreShardsTest() {
    w_.space = w_.store.AddSpace(kDefaultTenant, Fingerprint{1}, {3, 1, 3}, kTestTokens);
  }
};

TEST_F(StoreShardsTest, SameArgumentsSameSpace) {
  EXPECT_EQ(w_.store.AddSpace(kDefaultTenant, Fingerprint{1}, {1, 3}, kTestTokens), w_.space);
  EXPECT_NE(w_.store.AddSpace(TenantId{1}, Fingerprint{1}, {1, 3}, kTestTokens), w_.space);
  EXPECT_NE(w_.store.AddSpace(kDefaultTenant, Fingerprint{2}, {1, 3}, kTestTokens), w_.space);
  EXPECT_NE(w_.store.AddSpace(kDefaultTenant, Fingerprint{1}, {}, kTestTokens), w_.space);
  EXPECT_EQ(w_.store.AddSpace(kDefaultTenant, Fingerprint{1}, {}, kTestTokens),
            w_.store.AddSpace(kDefaultTenant, Fingerprint{1}, {0}, kTestTokens));
}

TEST_F(StoreShardsTest, VisibleWhenEveryShardHasCommitted) {
  EXPECT_EQ(w_.Put(keys_, 1, 1), 4u);
  EXPECT_EQ(w_.Peek(keys_), 0u);
  EXPECT_FALSE(w_.store.Acquire(w_.space, 1, keys_[0]));
  EXPECT_EQ(w_.store.Snapshot().incomplete_blocks, 4u);
  EXPECT_EQ(w_.Put(keys_, 2, 3), 4u);
  EXPECT_EQ(w_.Peek(keys_), 4u);
  EXPECT_EQ(w_.store.Acquire(w_.space, 3, keys_[0]).record_bytes(), 2u * kTestPage);
  EXPECT_EQ(w_.store.Acquire(w_.space, 1, keys_[0]).record_bytes(), 1u * kTestPage);
  EXPECT_FALSE(w_.store.Acquire(w_.space, 2, keys_[0]));
  EXPECT_THAT(w_.store.Inspect(w_.space, keys_[0])->shards, SizeIs(2));
  EXPECT_EQ(w_.store.Snapshot().tiers[0].blocks, 8u);
  EXPECT_EQ(w_.store.Snapshot().visible_blocks, 4u);
}

TEST_F(StoreShardsTest, OneShardsPutDoesNotHinderAnothers) {
  auto one = w_.Reserve(TestIntents(keys_), 1, 1);
  auto three = w_.Reserve(TestIntents(keys_), 1, 3);
  for (auto& answer : three) EXPECT_TRUE(w_.Commit(std::move(answer.reservation)).ok());
  for (auto& answer : one) EXPECT_TRUE(w_.Commit(std::move(answer.reservation)).ok());
  EXPECT_EQ(w_.Peek(keys_), 4u);
}

TEST_F(StoreShardsTest, PresentButIncompleteExists) {
  w_.Put(keys_, 1, 1);
  EXPECT_EQ(w_.Reserve(TestIntents(keys_), 1, 1)[0].kind, Kind::kExists);
  EXPECT_EQ(w_.Reserve(TestIntents(keys_), 1, 3)[0].kind, Kind::kSend);
}

TEST_F(StoreShardsTest, ExpiredSetMayBePutAgain) {
  w_.Put(keys_, 1, 1);
  auto late = w_.Reserve(TestIntents(TestChain('a', 1)), 1, 3);
  w_.clock.Advance(absl::Seconds(31));
  w_.store.Maintain();
  EXPECT_EQ(w_.stats.removed(RemovalReason::kIncomplete), 4u);
  EXPECT_EQ(w_.used_pages(), 0u);
  EXPECT_TRUE(w_.Commit(std::move(late[0].reservation)).ok());
  EXPECT_EQ(w_.Put(TestChain('a', 1), 1, 1), 1u);
  EXPECT_EQ(w_.Peek(TestChain('a', 1)), 1u);
}

TEST_F(StoreShardsTest, EventCarriesTheWorstShardsQuality) {
  DeclaredQuality good, bad;
  good.nmse = good.centred_nmse = 0.01f;
  bad.nmse = bad.centred_nmse = 0.2f;
  auto one = w_.Reserve(TestIntents(TestChain('a', 1)), 1, 1);
  auto three = w_.Reserve(TestIntents(TestChain('a', 1)), 1, 3);
  ASSERT_TRUE(w_.Commit(std::move(one[0].reservation), 1, {.k = bad, .v = good}).ok());
  ASSERT_TRUE(w_.Commit(std::move(three[0].reservation), 1, {.k = good, .v = bad}).ok());
  ASSERT_THAT(w_.events, SizeIs(1));
  EXPECT_EQ(w_.events[0].k.centred_nmse, bad.centred_nmse);
  EXPECT_EQ(w_.events[0].v.nmse, bad.nmse);
}

// ---- TakeRoom ----

class StoreRoomTest : public testing::Test {
 protected:
  Store::Reservation ReserveOne(char chain, uint32_t pages) {
    return std::move(w_.Reserve(TestIntents(TestChain(chain, 1)), pages)[0].reservation);
  }

  StoreWorld w_{10};
};

TEST_F(StoreRoomTest, WhatWasWrittenInPlaceIsTheRecord) {
  auto reservation = ReserveOne('a', 2);
  const uint64_t bytes = 2 * kTestPage - 10;
  const auto room = w_.store.TakeRoom(reservation, bytes);
  ASSERT_TRUE(room.ok()) << room.status();
  for (const std::span<std::byte> piece : *room) std::ranges::fill(piece, std::byte{7});
  EXPECT_EQ(w_.Peek(TestChain('a', 1)), 0u);
  const std::vector<std::byte> head(20, std::byte{1});
  const std::span<const std::byte> pieces[] = {head};
  ASSERT_TRUE(w_.store.Commit(std::move(reservation), pieces, {}).ok());
  const Store::Pin pin = w_.store.Acquire(w_.space, 0, TestKey('a', 0));
  ASSERT_TRUE(pin);
  ASSERT_EQ(pin.record_bytes(), bytes);
  std::vector<std::byte> read(bytes), expected(bytes, std::byte{7});
  std::ranges::fill_n(expected.begin(), 20, std::byte{1});
  EXPECT_TRUE(pin.Read(0, read).ok());
  EXPECT_EQ(read, expected);
  // What the record leaves of its last page is overwritten.
  std::vector<std::byte> slack(10, std::byte{9});
  EXPECT_TRUE(w_.tier.Read(Allocation{{0, 2}}, bytes, slack).ok());
  EXPECT_THAT(slack, testing::Each(std::byte{0}));
}

TEST_F(StoreRoomTest, WhatTheRecordDoesNotNeedIsGivenBack) {
  auto reservation = ReserveOne('a', 6);
  const auto room = w_.store.TakeRoom(reservation, 6 * kTestPage);
  ASSERT_TRUE(room.ok()) << room.status();
  const uint64_t bytes = 3 * kTestPage + 1;
  size_t at = 0;
  for (const std::span<std::byte> piece : *room) {
    for (std::byte& b : piece) b = static_cast<std::byte>(at++ % 251);
  }
  EXPECT_EQ(w_.used_pages(), 6u);
  const std::vector<std::byte> head(20, std::byte{1});
  const std::span<const std::byte> pieces[] = {head};
  Store::RecordMeta meta;
  meta.record_bytes = bytes;
  ASSERT_TRUE(w_.store.Commit(std::move(reservation), pieces, meta).ok());
  EXPECT_EQ(w_.used_pages(), 4u);
  EXPECT_EQ(w_.store.Snapshot().tenants[0].physical_bytes, 4u * kTestPage);
  {
    const Store::Pin pin = w_.store.Acquire(w_.space, 0, TestKey('a', 0));
    ASSERT_TRUE(pin);
    ASSERT_EQ(pin.record_bytes(), bytes);
    std::vector<std::byte> read(bytes);
    EXPECT_TRUE(pin.Read(0, read).ok());
    for (size_t i = 0; i < bytes; ++i) {
      ASSERT_EQ(read[i], i < 20 ? std::byte{1} : static_cast<std::byte>(i % 251)) << i;
    }
  }
  EXPECT_EQ(w_.Put(TestChain('b', 6)), 6u);
  w_.store.DropSpace(w_.space);
  EXPECT_EQ(w_.used_pages(), 0u);
}

// It is written anew elsewhere, out of the room too.
TEST_F(StoreRoomTest, ARecordMayOutgrowItsRoom) {
  auto reservation = ReserveOne('a', 2);
  const auto room = w_.store.TakeRoom(reservation, 2 * kTestPage);
  ASSERT_TRUE(room.ok()) << room.status();
  std::vector<std::span<const std::byte>> pieces;
  for (const std::span<std::byte> piece : *room) {
    std::ranges::fill(piece, std::byte{7});
    pieces.push_back(piece);
  }
  const std::vector<std::byte> rest(kTestPage, std::byte{8});
  pieces.push_back(rest);
  Store::RecordMeta meta;
  meta.record_bytes = 3 * kTestPage;
  ASSERT_TRUE(w_.store.Commit(std::move(reservation), pieces, meta).ok());
  EXPECT_EQ(w_.used_pages(), 3u);
  EXPECT_EQ(w_.store.Snapshot().tenants[0].physical_bytes, 3u * kTestPage);
  const Store::Pin pin = w_.store.Acquire(w_.space, 0, TestKey('a', 0));
  ASSERT_TRUE(pin);
  std::vector<std::byte> read(3 * kTestPage), expected(2 * kTestPage, std::byte{7});
  expected.insert(expected.end(), rest.begin(), rest.end());
  EXPECT_TRUE(pin.Read(0, read).ok());
  EXPECT_TRUE(read == expected);
}

TEST_F(StoreRoomTest, ARecordThatOutgrewItsRoomAndFindsNoOtherLeavesNothing) {
  auto reservation = ReserveOne('a', 6);
  ASSERT_TRUE(w_.store.TakeRoom(reservation, 6 * kTestPage).ok());
  const std::vector<std::byte> whole(7 * kTestPage);
  const std::span<const std::byte> pieces[] = {whole};
  Store::RecordMeta meta;
  meta.record_bytes = whole.size();
  EXPECT_EQ(w_.store.Commit(std::move(reservation), pieces, meta).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(w_.used_pages(), 0u);
  EXPECT_EQ(w_.store.Snapshot().tenants[0].physical_bytes, 0u);
  EXPECT_EQ(w_.store.Snapshot().pending_blocks, 0u);
}

TEST_F(StoreRoomTest, GivenBackRoomIsFree) {
  {
    const auto reservation = ReserveOne('a', 4);
    ASSERT_TRUE(w_.store.TakeRoom(reservation, 4 * kTestPage).ok());
    EXPECT_EQ(w_.used_pages(), 4u);
    EXPECT_EQ(w_.store.Snapshot().tenants[0].physical_bytes, 4u * kTestPage);
  }
  EXPECT_EQ(w_.used_pages(), 0u);
  EXPECT_EQ(w_.store.Snapshot().tenants[0].physical_bytes, 0u);
  EXPECT_EQ(w_.Put(TestChain('b', 10)), 10u);
}

TEST_F(StoreRoomTest, TakenRoomIsPromisedToNobodyElse) {
  const auto a = ReserveOne('a', 4);
  const auto b = ReserveOne('b', 6);
  ASSERT_TRUE(w_.store.TakeRoom(a, 4 * kTestPage).ok());
  EXPECT_EQ(w_.Reserve(TestIntents(TestChain('c', 1)))[0].refusal, Refusal::kFull);
  EXPECT_TRUE(w_.store.TakeRoom(b, 6 * kTestPage).ok());
}

TEST_F(StoreRoomTest, MakesRoomByEviction) {
  w_.Put(TestChain('z', 1), 8);
  const auto reservation = ReserveOne('a', 5);
  EXPECT_TRUE(w_.store.TakeRoom(reservation, 5 * kTestPage).ok());
  EXPECT_EQ(w_.Peek(TestChain('z', 1)), 0u);
}

TEST_F(StoreRoomTest, WhatFindsNoRoomIsStillReserved) {
  auto reservation = ReserveOne('a', 5);
  EXPECT_EQ(w_.store.TakeRoom(reservation, 11 * kTestPage).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(w_.store.Snapshot().pending_blocks, 1u);
  EXPECT_TRUE(w_.Commit(std::move(reservation), 5).ok());
}

TEST(StoreRoomInPlaceTest, NoneIsTakenWhereTheHostCannotWrite) {
  StoreWorld w(10, {}, /*fast_pages=*/10);
  auto reservation = std::move(w.Reserve(TestIntents(TestChain('a', 1)), 2)[0].reservation);
  const auto room = w.store.TakeRoom(reservation, 2 * kTestPage);
  ASSERT_TRUE(room.ok());
  EXPECT_THAT(*room, testing::IsEmpty());
  EXPECT_EQ(w.used_pages(), 0u);
  EXPECT_TRUE(w.Commit(std::move(reservation), 2).ok());
  EXPECT_EQ(w.fast_pages(), 2u);
}

}  // namespace
}  // namespace kvstow
