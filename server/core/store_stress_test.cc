// Many threads at one store, for ThreadSanitizer, and for what must hold when they are done however
// they were interleaved.
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "server/core/testing/store_fixture.h"

namespace kvstow {
namespace {

constexpr int kThreads = 4;
constexpr int kRounds = 400;
constexpr uint32_t kDepth = 6;

// One session's life: puts prompts that others put too, looks them up, reads what it finds.
class Worker {
 public:
  Worker(StoreWorld& world, uint8_t number) : world_(world), session_{{number}}, random_(number) {}

  void Run() {
    for (int round = 0; round < kRounds; ++round) {
      // Whoever is here copies a record between tiers, if there is one to copy.
      world_.executor.RunOne();
      const std::vector<BlockKey> keys =
          TestChain(static_cast<char>('a' + random_() % 6), 1 + random_() % kDepth);
      switch (random_() % 8) {
        case 0:
        case 1:
        case 2:
          Put(keys);
          break;
        case 3:
        case 4:
          Read(keys);
          break;
        case 5:
          world_.store.Drop(world_.space, std::vector{keys.back()});
          break;
        case 6:
          world_.store.ReleaseAll(session_);
          world_.clock.Advance(absl::Seconds(5));
          break;
        case 7:
          world_.store.Maintain();
          (void)world_.store.Snapshot();
          (void)world_.store.Inspect(world_.space, keys.back());
      }
    }
    world_.store.ReleaseAll(session_);
  }

 private:
  void Put(const std::vector<BlockKey>& keys) {
    const uint32_t pages = 1 + random_() % 4;
    auto answers = world_.Reserve(TestIntents(keys), pages);
    for (auto& answer : answers) {
      // Now and then the client dies half-way.
      if (random_() % 20 == 0) return;
      if (answer.kind != Store::ReserveAnswer::Kind::kSend) continue;
      (void)world_.Commit(std::move(answer.reservation), pages, {.raw_bytes = 1000});
    }
    world_.store.Lease(world_.space, keys, session_, absl::Seconds(20));
  }

  void Read(const std::vector<BlockKey>& keys) {
    const auto match = world_.store.Lookup(world_.space, keys, session_, "r", absl::Seconds(20));
    std::vector<Store::Pin> pins;
    for (size_t i = 0; i < match.tiers.size(); ++i) {
      pins.push_back(world_.store.Acquire(world_.space, 0, keys[i]));
      if (!pins.back()) continue;  // dropped in between
      std::vector<std::byte> bytes(pins.back().record_bytes());
      EXPECT_TRUE(pins.back().Read(0, bytes).ok());
      for (const std::byte b : bytes) ASSERT_EQ(b, static_cast<std::byte>(i));
    }
    if (!pins.empty() && pins.back() && random_() % 10 == 0) {
      world_.store.ReportDamage(pins.back());
    }
  }

  StoreWorld& world_;
  const SessionId session_;
  std::mt19937 random_;
};

// With that many pages in the slow tier and in the fast one.
void Stress(uint32_t slow_pages, uint32_t fast_pages) {
  StoreWorld world(slow_pages, {.max_moving_bytes = 8 * kTestPage, .move_batch_bytes = 1},
                   fast_pages);
  // Under the store's lock.
  int64_t visible = 0;
  world.store.SetListener([&visible](const StoreEvent& event) {
    if (event.kind == StoreEvent::Kind::kMoved) return;
    visible += event.kind == StoreEvent::Kind::kStored ? 1 : -1;
  });
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&world, t] { Worker(world, static_cast<uint8_t>(t + 1)).Run(); });
  }
  for (std::thread& thread : threads) thread.join();

  world.clock.Advance(absl::Seconds(60));
  world.Settle();
  const StoreSnapshot snapshot = world.store.Snapshot();
  EXPECT_EQ(snapshot.visible_blocks, static_cast<uint64_t>(visible));
  EXPECT_EQ(snapshot.leases, 0u);
  EXPECT_EQ(snapshot.pending_blocks, 0u);
  EXPECT_EQ(snapshot.incomplete_blocks, 0u);
  EXPECT_EQ(snapshot.tenants[0].leased_bytes, 0u);
  EXPECT_EQ(snapshot.moving_bytes, 0u);
  EXPECT_EQ(snapshot.tenants[0].physical_bytes, world.used_pages() * kTestPage);
  uint64_t records = 0;
  for (const TierSnapshot& tier : snapshot.tiers) records += tier.blocks;
  EXPECT_EQ(records, snapshot.visible_blocks);
  EXPECT_EQ(fast_pages > 0, !world.stats.totals().moved.empty());
  // Nothing is held: one record may push out everything.
  EXPECT_EQ(world.Put(TestChain('z', 1), slow_pages), 1u);
  EXPECT_EQ(world.slow_pages(), slow_pages);
  world.store.DropSpace(world.space);
  EXPECT_EQ(world.used_pages(), 0u);
  EXPECT_EQ(visible, 0);
}

TEST(StoreStress, EndsConsistent) { Stress(40, 0); }

TEST(StoreStress, EndsConsistentWithTwoTiers) { Stress(28, 12); }

}  // namespace
}  // namespace kvstow
