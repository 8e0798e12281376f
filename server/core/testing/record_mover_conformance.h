// What every RecordMover must do. A mover's test instantiates the suite with a factory of a pair of
// tiers and a mover between them:
//
//   INSTANTIATE_TEST_SUITE_P(Gpu, RecordMoverConformance, testing::Values(MoverFactory{...}));
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "server/core/record_mover.h"

namespace kvstow {

// Two tiers of at least 1 MiB each.
struct MoverWorld {
  virtual ~MoverWorld() = default;
  virtual Tier& first() = 0;
  virtual Tier& second() = 0;
  virtual RecordMover& mover() = 0;
  // Returns when all that was handed to the mover has ended.
  virtual void Finish() = 0;
};
struct MoverFactory {
  std::string name;
  std::function<std::unique_ptr<MoverWorld>()> create;
};
inline void PrintTo(const MoverFactory& factory, std::ostream* out) { *out << factory.name; }

class RecordMoverConformance : public testing::TestWithParam<MoverFactory> {
 protected:
  static std::vector<std::byte> Pattern(uint64_t size) {
    std::mt19937_64 random(size);
    std::vector<std::byte> bytes(size);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    return bytes;
  }
  // A move of a record of that size and pattern, with room taken for it.
  static RecordMove Prepare(Tier& from, Tier& to, uint64_t size) {
    RecordMove move{&from, *from.Allocate(size), &to, *to.Allocate(size), size};
    EXPECT_TRUE(from.Write(move.from, 0, Pattern(size)).ok());
    return move;
  }
  static std::vector<std::byte> Arrived(const RecordMove& move) {
    std::vector<std::byte> bytes(move.bytes);
    EXPECT_TRUE(move.destination->Read(move.to, 0, bytes).ok());
    return bytes;
  }

  std::unique_ptr<MoverWorld> world_ = GetParam().create();
};

TEST_P(RecordMoverConformance, CopiesBatchesBothWays) {
  for (const bool down : {true, false}) {
    Tier& from = down ? world_->first() : world_->second();
    Tier& to = down ? world_->second() : world_->first();
    std::vector<RecordMove> moves;
    for (const uint64_t size : {uint64_t{0}, uint64_t{1}, uint64_t{4096}, uint64_t{100'001}}) {
      moves.push_back(Prepare(from, to, size));
    }
    std::vector<absl::Status> results;
    int calls = 0;
    world_->mover().Move(moves, [&](std::span<const absl::Status> r) {
      results.assign(r.begin(), r.end());
      ++calls;
    });
    world_->Finish();
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(results, std::vector<absl::Status>(moves.size()));
    for (const RecordMove& move : moves) {
      EXPECT_EQ(Arrived(move), Pattern(move.bytes));
      from.Free(move.from);
      to.Free(move.to);
    }
  }
}

TEST_P(RecordMoverConformance, RecordsInPieces) {
  // Free memory of both lies in single pages.
  std::vector<std::pair<Tier*, Allocation>> held;
  for (Tier* tier : {&world_->first(), &world_->second()}) {
    std::vector<Allocation> all;
    for (auto a = tier->Allocate(1); a.ok(); a = tier->Allocate(1)) all.push_back(*a);
    for (size_t i = 0; i < all.size(); i += 2) tier->Free(all[i]);
    for (size_t i = 1; i < all.size(); i += 2) held.emplace_back(tier, all[i]);
  }
  const RecordMove move = Prepare(world_->first(), world_->second(), 100'000);
  EXPECT_GT(move.from.size(), 1u);
  world_->mover().Move({move}, [](std::span<const absl::Status> results) {
    EXPECT_TRUE(results[0].ok()) << results[0];
  });
  world_->Finish();
  EXPECT_EQ(Arrived(move), Pattern(move.bytes));
  for (const auto& [tier, allocation] : held) tier->Free(allocation);
}

TEST_P(RecordMoverConformance, TheNextBatchMayBeginWhenOneEnds) {
  const RecordMove there = Prepare(world_->first(), world_->second(), 5000);
  const RecordMove back = {there.destination, there.to, &world_->first(),
                           *world_->first().Allocate(5000), 5000};
  bool ended = false;
  world_->mover().Move({there}, [&](std::span<const absl::Status>) {
    world_->mover().Move({back}, [&](std::span<const absl::Status>) { ended = true; });
  });
  world_->Finish();
  EXPECT_TRUE(ended);
  EXPECT_EQ(Arrived(back), Pattern(5000));
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(RecordMoverConformance);

}  // namespace kvstow
