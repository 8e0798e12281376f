// What every Tier must do. A tier's test instantiates the suite with a factory of a tier of about
// the capacity asked for, a whole number of 64 KiB:
//
//   INSTANTIATE_TEST_SUITE_P(Host, TierConformance, testing::Values(TierFactory{...}));
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "server/core/tier.h"

namespace kvstow {

struct TierFactory {
  std::string name;
  std::function<std::unique_ptr<Tier>(uint64_t capacity_bytes)> create;
};
inline void PrintTo(const TierFactory& factory, std::ostream* out) { *out << factory.name; }

class TierConformance : public testing::TestWithParam<TierFactory> {
 protected:
  static constexpr uint64_t kUnit = uint64_t{64} << 10;

  std::unique_ptr<Tier> Create(uint64_t capacity) const { return GetParam().create(capacity); }
  static std::vector<std::byte> Pattern(uint64_t size, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<std::byte> bytes(size);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    return bytes;
  }
  static std::vector<std::byte> ReadAll(const Tier& tier, const Allocation& a, uint64_t size) {
    std::vector<std::byte> out(size);
    EXPECT_TRUE(tier.Read(a, 0, out).ok());
    return out;
  }
  // Allocations of one page until it is full, then every second one freed: free memory lies in
  // single pages.
  static std::vector<Allocation> Fragment(Tier& tier) {
    std::vector<Allocation> all, kept;
    for (auto a = tier.Allocate(1); a.ok(); a = tier.Allocate(1)) all.push_back(*a);
    for (size_t i = 0; i < all.size(); ++i) {
      if (i % 2 == 0) {
        tier.Free(all[i]);
      } else {
        kept.push_back(all[i]);
      }
    }
    return kept;
  }
};

TEST_P(TierConformance, StartsEmptyWithTheCapacityAskedFor) {
  const auto tier = Create(4 * kUnit);
  EXPECT_EQ(tier->usage().capacity_bytes, 4 * kUnit);
  EXPECT_EQ(tier->usage().used_bytes, 0u);
}

TEST_P(TierConformance, GivesBackWhatWasWritten) {
  const auto tier = Create(4 * kUnit);
  for (const uint64_t size : {uint64_t{1}, uint64_t{63}, uint64_t{4096}, uint64_t{4097}, kUnit}) {
    const auto a = tier->Allocate(size);
    ASSERT_TRUE(a.ok()) << a.status();
    const auto bytes = Pattern(size, size);
    EXPECT_TRUE(tier->Write(*a, 0, bytes).ok());
    EXPECT_EQ(ReadAll(*tier, *a, size), bytes);
    tier->Free(*a);
  }
  EXPECT_EQ(tier->usage().used_bytes, 0u);
}

TEST_P(TierConformance, WritesAndReadsInPieces) {
  const auto tier = Create(4 * kUnit);
  const auto bytes = Pattern(10000, 1);
  const auto a = tier->Allocate(bytes.size());
  ASSERT_TRUE(a.ok());
  const std::span<const std::byte> all = bytes;
  EXPECT_TRUE(tier->Write(*a, 7000, all.subspan(7000)).ok());
  EXPECT_TRUE(tier->Write(*a, 0, all.subspan(0, 3)).ok());
  EXPECT_TRUE(tier->Write(*a, 3, all.subspan(3, 6997)).ok());
  std::vector<std::byte> out(5000);
  EXPECT_TRUE(tier->Read(*a, 4000, out).ok());
  EXPECT_TRUE(std::equal(out.begin(), out.end(), bytes.begin() + 4000));
}

TEST_P(TierConformance, CountsPhysicalBytes) {
  const auto tier = Create(4 * kUnit);
  uint64_t used = 0;
  for (const uint64_t size : {uint64_t{0}, uint64_t{1}, uint64_t{5000}, kUnit}) {
    EXPECT_GE(tier->PhysicalBytes(size), size);
    EXPECT_GT(tier->PhysicalBytes(size), 0u);
    ASSERT_TRUE(tier->Allocate(size).ok());
    used += tier->PhysicalBytes(size);
    EXPECT_EQ(tier->usage().used_bytes, used);
  }
}

TEST_P(TierConformance, RefusesBeyondTheBudget) {
  const auto tier = Create(2 * kUnit);
  EXPECT_EQ(tier->Allocate(2 * kUnit + 1).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(tier->Allocate(~uint64_t{0}).status().code(), absl::StatusCode::kResourceExhausted);
  const auto all = tier->Allocate(2 * kUnit);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(tier->usage().used_bytes, tier->usage().capacity_bytes);
  EXPECT_EQ(tier->Allocate(1).status().code(), absl::StatusCode::kResourceExhausted);
  tier->Free(*all);
  EXPECT_TRUE(tier->Allocate(1).ok());
}

TEST_P(TierConformance, FragmentationRefusesNothing) {
  const auto tier = Create(4 * kUnit);
  const auto kept = Fragment(*tier);
  const uint64_t free = tier->usage().capacity_bytes - tier->usage().used_bytes;
  const auto a = tier->Allocate(free);
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_GT(a->size(), 1u);
  const auto bytes = Pattern(free, 2);
  EXPECT_TRUE(tier->Write(*a, 0, bytes).ok());
  EXPECT_EQ(ReadAll(*tier, *a, free), bytes);
}

TEST_P(TierConformance, ViewIsTheBytesOrNothing) {
  const auto tier = Create(4 * kUnit);
  const auto kept = Fragment(*tier);
  const uint64_t page = tier->PhysicalBytes(1);
  const auto bytes = Pattern(2 * page, 3);
  const auto a = tier->Allocate(bytes.size());
  ASSERT_TRUE(a.ok());
  EXPECT_TRUE(tier->Write(*a, 0, bytes).ok());
  // Across two runs that do not touch there is none.
  EXPECT_TRUE(tier->View(*a, 0, 2 * page).empty());
  const auto view = tier->View(*a, page + 1, page - 1);
  if (view.empty()) GTEST_SKIP() << "the host cannot address this tier";
  EXPECT_TRUE(std::equal(view.begin(), view.end(), bytes.begin() + page + 1));
  EXPECT_TRUE(tier->View(*a, 0, 0).empty());
}

// The last page lies where it would be in one run; the one before it does not.
TEST_P(TierConformance, ViewIsNothingWhereAPageInTheMiddleLiesElsewhere) {
  const auto tier = Create(4 * kUnit);
  const uint64_t page = tier->PhysicalBytes(1);
  const auto whole = tier->Allocate(4 * page);
  ASSERT_TRUE(whole.ok());
  ASSERT_EQ(whole->size(), 1u);
  const uint32_t first = whole->front().first;
  const Allocation pages = {{first, 1}, {first + 3, 1}, {first + 2, 1}};
  const auto bytes = Pattern(3 * page, 5);
  EXPECT_TRUE(tier->Write(pages, 0, bytes).ok());
  EXPECT_TRUE(tier->View(pages, 0, 3 * page).empty());
  std::vector<std::byte> read(bytes.size());
  EXPECT_TRUE(tier->Read(pages, 0, read).ok());
  EXPECT_TRUE(read == bytes);
  tier->Free(*whole);
}

TEST_P(TierConformance, RoomIsWhereTheBytesLieOrNothing) {
  const auto tier = Create(4 * kUnit);
  const auto kept = Fragment(*tier);
  const auto bytes = Pattern(2 * tier->PhysicalBytes(1) + 100, 4);
  const auto a = tier->Allocate(bytes.size());
  ASSERT_TRUE(a.ok());
  const auto room = tier->Room(*a, bytes.size());
  if (room.empty()) GTEST_SKIP() << "the host writes this tier by Write alone";
  size_t at = 0;
  for (const std::span<std::byte> piece : room) {
    ASSERT_LE(piece.size(), bytes.size() - at);
    std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(at), piece.size(), piece.begin());
    at += piece.size();
  }
  EXPECT_EQ(at, bytes.size());
  EXPECT_EQ(ReadAll(*tier, *a, bytes.size()), bytes);
}

TEST_P(TierConformance, ThreadsDoNotDisturbEachOther) {
  const auto tier = Create(16 * kUnit);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&tier, t] {
      for (uint64_t i = 0; i < 50; ++i) {
        const auto bytes = Pattern(1000 + 500 * ((t + i) % 10), 100 * t + i);
        const auto a = tier->Allocate(bytes.size());
        ASSERT_TRUE(a.ok());
        EXPECT_TRUE(tier->Write(*a, 0, bytes).ok());
        ASSERT_EQ(ReadAll(*tier, *a, bytes.size()), bytes);
        tier->Free(*a);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(tier->usage().used_bytes, 0u);
}

}  // namespace kvstow
