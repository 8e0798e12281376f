// A small cluster in virtual time: tensor-parallel workers put and read prompts through one store,
// die in the middle of calls, and a scheduler looks prompts up for them. One step of one of them at
// a time, in an order that the seed decides; invariants are checked after each.
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "server/core/testing/store_fixture.h"

namespace kvstow {
namespace {

constexpr uint32_t kShards = 2;
constexpr uint32_t kPages = 120;  // of all tiers
constexpr uint64_t kMovingPages = 12;
constexpr uint32_t kDocuments = 5;

// What everybody shares.
struct Cluster {
  Cluster(uint32_t seed, uint32_t fast_pages)
      : random(seed),
        world(kPages - fast_pages,
              {.max_lease_ttl = absl::Seconds(30),
               .max_moving_bytes = kMovingPages * kTestPage,
               .move_batch_bytes = 4 * kTestPage},
              fast_pages) {
    world.space = world.store.AddSpace(kDefaultTenant, Fingerprint{7}, {0, 1}, kTestTokens);
    world.store.SetListener([this](const StoreEvent& event) { OnEvent(event); });
  }

  // Prompts are a document and a question: some share 6 blocks, most of them more.
  std::vector<BlockKey> Prompt() {
    const auto document = static_cast<char>('A' + random() % kDocuments);
    std::vector<BlockKey> keys = TestChain(document, 6);
    const auto question = static_cast<char>('a' + (random() % 4) * kDocuments + (document - 'A'));
    for (uint32_t i = 6; i < 6 + random() % 4; ++i) keys.push_back(TestKey(question, i));
    return keys;
  }

  // Watchers see a tree that always hangs together, and know the tier of each block.
  void OnEvent(const StoreEvent& event) {
    absl::StrAppend(&log, static_cast<int>(event.kind), ShortHex(event.key), ";");
    if (event.kind == StoreEvent::Kind::kStored) {
      EXPECT_TRUE(event.first_position == 0 || seen.contains(event.parent));
      EXPECT_TRUE(seen.emplace(event.key, event.parent).second);
      tiers[event.key] = event.tier;
      return;
    }
    ASSERT_TRUE(seen.contains(event.key));
    if (event.kind == StoreEvent::Kind::kMoved) {
      EXPECT_NE(event.from, event.tier);
      EXPECT_EQ(std::exchange(tiers[event.key], event.tier), event.from);
      return;
    }
    EXPECT_EQ(tiers[event.key], event.tier);
    seen.erase(event.key);
    for (const auto& [key, parent] : seen) EXPECT_NE(parent, event.key) << "orphaned";
    if (event.reason == RemovalReason::kEvicted) {
      EXPECT_FALSE(held.contains(event.key)) << "leased or pinned";
    }
  }

  std::mt19937 random;
  StoreWorld world;
  std::string log;
  std::map<BlockKey, BlockKey> seen;  // visible, with parents
  std::map<BlockKey, TierKind> tiers;
  std::multiset<BlockKey> held;  // by pins
};

class Actor {
 public:
  virtual ~Actor() = default;
  virtual void Step() = 0;
  virtual void Die() = 0;
};

// One rank: puts what it has computed, block by block, or reads a prompt back.
class RankWorker : public Actor {
 public:
  RankWorker(Cluster& cluster, uint8_t number, uint32_t shard)
      : cluster_(cluster), session_{{number}}, shard_(shard) {}

  void Step() override {
    if (!answers_.empty()) return PutOne();
    if (!pins_.empty()) return ReadOne();
    const std::vector<BlockKey> prompt = cluster_.Prompt();
    if (cluster_.random() % 2 == 0) {
      keys_ = prompt;
      answers_ = cluster_.world.Reserve(TestIntents(prompt), 2, shard_);
      std::reverse(answers_.begin(), answers_.end());
    } else {
      PinAll(prompt);
    }
  }

  void Die() override {
    answers_.clear();
    while (!pins_.empty()) ReadOne();
    cluster_.world.store.ReleaseAll(session_);
  }

 private:
  void PutOne() {
    Store::ReserveAnswer answer = std::move(answers_.back());
    answers_.pop_back();
    if (answer.kind == Store::ReserveAnswer::Kind::kSend) {
      (void)cluster_.world.Commit(std::move(answer.reservation), 1 + cluster_.random() % 3);
    }
    if (answers_.empty()) {
      cluster_.world.store.Lease(cluster_.world.space, keys_, session_, absl::Seconds(10));
    }
  }

  void PinAll(const std::vector<BlockKey>& prompt) {
    Store& store = cluster_.world.store;
    const LookupMatch match =
        store.Lookup(cluster_.world.space, prompt, session_, "get", absl::Seconds(10));
    for (size_t i = 0; i < match.tiers.size(); ++i) {
      Store::Pin pin = store.Acquire(cluster_.world.space, shard_, prompt[i]);
      ASSERT_TRUE(pin) << "looked up a moment ago";
      cluster_.held.insert(prompt[i]);
      pins_.emplace_back(prompt[i], std::move(pin));
    }
  }

  void ReadOne() {
    auto& [key, pin] = pins_.back();
    std::byte last{};
    EXPECT_TRUE(pin.Read(pin.record_bytes() - 1, {&last, 1}).ok());
    EXPECT_EQ(last, static_cast<std::byte>(key[1]));
    if (cluster_.random() % 100 == 0) cluster_.world.store.ReportDamage(pin);
    cluster_.held.erase(cluster_.held.find(key));
    pins_.pop_back();
  }

  Cluster& cluster_;
  const SessionId session_;
  const uint32_t shard_;
  std::vector<BlockKey> keys_;
  std::vector<Store::ReserveAnswer> answers_;  // last first
  std::vector<std::pair<BlockKey, Store::Pin>> pins_;
};

// Looks prompts up and holds the last few of them.
class Scheduler : public Actor {
 public:
  Scheduler(Cluster& cluster, uint8_t number) : cluster_(cluster), session_{{number}} {}

  void Step() override {
    Store& store = cluster_.world.store;
    const std::string request = absl::StrCat(next_++ % 3);
    const LookupMatch match = store.Lookup(cluster_.world.space, cluster_.Prompt(), session_,
                                           request, absl::Seconds(cluster_.random() % 40));
    if (match.lease != kNoLease && cluster_.random() % 4 == 0) {
      EXPECT_TRUE(store.Release(kDefaultTenant, match.lease).ok());
    }
    if (cluster_.random() % 50 == 0) {
      store.Drop(cluster_.world.space, std::vector{cluster_.Prompt().back()});
    }
  }
  void Die() override { cluster_.world.store.ReleaseAll(session_); }

 private:
  Cluster& cluster_;
  const SessionId session_;
  int next_ = 0;
};

void CheckInvariants(Cluster& cluster) {
  StoreWorld& world = cluster.world;
  const StoreSnapshot snapshot = world.store.Snapshot();
  ASSERT_LE(world.used_pages(), kPages);
  ASSERT_LE(snapshot.moving_bytes, kMovingPages * kTestPage);
  ASSERT_EQ(snapshot.visible_blocks, cluster.seen.size());
  for (const TenantSnapshot& tenant : snapshot.tenants) {
    ASSERT_EQ(tenant.physical_bytes, world.used_pages() * kTestPage);
    ASSERT_LE(tenant.leased_bytes, 0.8 * kPages * kTestPage);
  }
  for (const auto& [key, parent] : cluster.seen) {
    const auto info = world.store.Inspect(world.space, key);
    ASSERT_TRUE(info.ok() && info->visible);
    ASSERT_EQ(info->shards.size(), kShards);
  }
}

// Copies between tiers, as slow as the seed wants them, and at times failing.
class Copier : public Actor {
 public:
  explicit Copier(Cluster& cluster) : cluster_(cluster) {}
  void Step() override {
    cluster_.world.executor.RunOne();
    cluster_.world.mover.SetFailing(cluster_.random() % 10 == 0);
  }
  void Die() override {}

 private:
  Cluster& cluster_;
};

// The log of events.
std::string Simulate(uint32_t seed, int steps, uint32_t fast_pages = 0) {
  Cluster cluster(seed, fast_pages);
  std::vector<std::unique_ptr<Actor>> actors;
  for (uint8_t i = 0; i < 3 * kShards; ++i) {
    actors.push_back(std::make_unique<RankWorker>(cluster, i + 1, i % kShards));
  }
  actors.push_back(std::make_unique<Scheduler>(cluster, 100));
  for (int i = 0; fast_pages > 0 && i < 3; ++i) actors.push_back(std::make_unique<Copier>(cluster));
  for (int step = 0; step < steps && !testing::Test::HasFailure(); ++step) {
    Actor& actor = *actors[cluster.random() % actors.size()];
    if (cluster.random() % 40 == 0) {
      actor.Die();
    } else {
      actor.Step();
    }
    cluster.world.clock.Advance(absl::Milliseconds(cluster.random() % 200));
    if (step % 5 == 0) cluster.world.store.Maintain();
    CheckInvariants(cluster);
  }
  for (const auto& actor : actors) actor->Die();
  cluster.world.clock.Advance(absl::Seconds(31));
  cluster.world.Settle();
  const StoreSnapshot end = cluster.world.store.Snapshot();
  EXPECT_EQ(end.leases + end.pending_blocks + end.incomplete_blocks, 0u);
  uint64_t records = 0;
  for (const TierSnapshot& tier : end.tiers) records += tier.blocks;
  EXPECT_EQ(records, kShards * end.visible_blocks);
  EXPECT_EQ(end.moving_bytes, 0u);
  EXPECT_GT(cluster.world.stats.removed(RemovalReason::kEvicted), 0u);
  EXPECT_GT(cluster.world.stats.removed(RemovalReason::kIncomplete), 0u);
  EXPECT_GT(cluster.world.stats.totals().hit_tokens, 0u);
  auto moved = cluster.world.stats.totals().moved;
  EXPECT_EQ(fast_pages > 0, (moved[{TierKind::kGpu, TierKind::kHost}] > 0));
  EXPECT_EQ(fast_pages > 0, (moved[{TierKind::kHost, TierKind::kGpu}] > 0));
  return cluster.log;
}

class StoreSimulation : public testing::TestWithParam<uint32_t> {};

TEST_P(StoreSimulation, HoldsItsInvariants) {
  SCOPED_TRACE(testing::Message() << "seed " << GetParam());
  Simulate(GetParam(), 8000);
}

TEST_P(StoreSimulation, HoldsItsInvariantsWithTwoTiers) {
  SCOPED_TRACE(testing::Message() << "seed " << GetParam());
  Simulate(GetParam(), 8000, /*fast_pages=*/40);
}

INSTANTIATE_TEST_SUITE_P(Seeds, StoreSimulation, testing::Range(1u, 9u));

TEST(StoreSimulationRepeats, SameSeedSameEvents) {
  const std::string log = Simulate(1, 3000);
  EXPECT_FALSE(log.empty());
  EXPECT_EQ(log, Simulate(1, 3000));
}

TEST(StoreSimulationRepeats, SameSeedSameEventsWithTwoTiers) {
  const std::string log = Simulate(1, 3000, /*fast_pages=*/40);
  EXPECT_FALSE(log.empty());
  EXPECT_EQ(log, Simulate(1, 3000, /*fast_pages=*/40));
}

}  // namespace
}  // namespace kvstow
