#include "staging/slot_ring.h"

#include <deque>
#include <map>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kvstow {
namespace {

TEST(SlotRingTest, GivesOutTheWholeSlotAndNoMore) {
  SlotRing ring(1024);
  for (uint64_t i = 0; i < 4; ++i) {
    const auto piece = ring.Take(256);
    ASSERT_TRUE(piece);
    EXPECT_EQ(piece->ticket, i);
    EXPECT_EQ(piece->offset, i * 256);
  }
  EXPECT_FALSE(ring.Take(1));
  ring.Give(0);
  EXPECT_EQ(ring.Take(256)->offset, 0u);
}

TEST(SlotRingTest, RoomIsReusedInOrder) {
  SlotRing ring(1024);
  for (int i = 0; i < 4; ++i) ring.Take(256);
  ring.Give(1);
  EXPECT_FALSE(ring.Take(256)) << "piece 0 is still out, and it is the next in turn";
  ring.Give(0);
  EXPECT_EQ(ring.Take(256)->offset, 0u);
  EXPECT_EQ(ring.Take(256)->offset, 256u);
}

TEST(SlotRingTest, NeverGivesMoreThanAQuarter) {
  SlotRing ring(1024);
  EXPECT_TRUE(ring.fits(256));
  EXPECT_FALSE(ring.fits(257));
  EXPECT_FALSE(ring.Take(257));
}

// What fits() promises: whatever sizes came before, half the slot held back never stops the next.
TEST(SlotRingTest, WhatIsHeldBackStopsNobody) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    const size_t size = SlotRing::kAlignment * (64 + random() % 1024);
    SlotRing ring(size);
    std::deque<std::pair<uint64_t, size_t>> held;
    size_t held_bytes = 0;
    for (int step = 0; step < 500; ++step) {
      const size_t bytes =
          (1 + random() % (size / 4 / SlotRing::kAlignment)) * SlotRing::kAlignment;
      const auto piece = ring.Take(bytes);
      ASSERT_TRUE(piece) << bytes << " of " << size << " with " << held_bytes << " held back";
      held.emplace_back(piece->ticket, bytes);
      held_bytes += bytes;
      while (held_bytes > size / 2) {
        ring.Give(held.front().first);
        held_bytes -= held.front().second;
        held.pop_front();
      }
    }
  }
}

TEST(TellingPaceTest, BeginsSoonAndHoldsBackHalfAtMost) {
  TellingPace pace = TellingPace::OnHost(6400);
  for (const size_t room : {100, 200, 400, 800, 1600, 3200, 3200}) {
    EXPECT_FALSE(pace.worth_telling(room - 1));
    EXPECT_TRUE(pace.worth_telling(room));
    pace.Told();
  }
}

// At most a sixteenth, and never more than would be told without the end being near.
TEST(TellingPaceTest, TellsLessNearTheEnd) {
  TellingPace pace = TellingPace::OnHost(6400);
  for (const size_t room : {100, 200, 400, 400, 400}) {
    EXPECT_FALSE(pace.worth_telling(room - 1, true));
    EXPECT_TRUE(pace.worth_telling(room, true));
    pace.Told();
  }
}

// Whoever takes back what he gave out last need not wait for what lies before it.
TEST(SlotRingTest, TheLastPiecesComeBackAtOnce) {
  SlotRing ring(1024);
  std::vector<SlotRing::Piece> pieces;
  while (const auto piece = ring.Take(256)) pieces.push_back(*piece);
  ASSERT_EQ(pieces.size(), 4u);
  ring.Give(pieces[2].ticket);
  EXPECT_FALSE(ring.Take(256)) << "it lies between others";
  ring.Give(pieces[3].ticket);
  EXPECT_EQ(ring.Take(256)->offset, pieces[2].offset);
  EXPECT_EQ(ring.Take(256)->offset, pieces[3].offset);
  EXPECT_FALSE(ring.Take(256));
}

TEST(SlotRingTest, OddSizesStayAligned) {
  SlotRing ring(1000);  // no multiple of the alignment
  std::vector<size_t> offsets;
  while (const auto piece = ring.Take(65)) offsets.push_back(piece->offset);
  EXPECT_EQ(offsets, (std::vector<size_t>{0, 128, 256, 384, 512, 640, 768}));
}

// Against a plain model: pieces never overlap, never leave the slot, and an empty ring always has
// room for what fits.
TEST(SlotRingTest, PiecesNeverOverlap) {
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    const size_t size = 512 + random() % 8192;
    SlotRing ring(size);
    std::map<uint64_t, std::pair<size_t, size_t>> out;  // ticket: offset, end
    for (int step = 0; step < 2000; ++step) {
      if (random() % 2 == 0) {
        const size_t bytes = 1 + random() % (size / 4);
        const auto piece = ring.Take(bytes);
        if (!piece) {
          EXPECT_TRUE(!out.empty() || bytes + SlotRing::kAlignment > size);
          continue;
        }
        ASSERT_LE(piece->offset + bytes, size);
        for (const auto& [ticket, range] : out) {
          ASSERT_TRUE(piece->offset >= range.second || piece->offset + bytes <= range.first);
        }
        out[piece->ticket] = {piece->offset, piece->offset + bytes};
      } else if (!out.empty()) {
        auto it = std::next(out.begin(), random() % out.size());
        ring.Give(it->first);
        out.erase(it);
      }
      ASSERT_EQ(ring.empty(), out.empty());
    }
  }
}

}  // namespace
}  // namespace kvstow
