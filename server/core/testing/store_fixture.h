// A store with everything around it faked, and short ways of saying what tests say often. Records
// are `n` pages of 64 bytes; blocks are 16 tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "server/core/store.h"
#include "server/core/testing/fake_clock.h"
#include "server/core/testing/fake_random.h"
#include "server/core/testing/flaky_mover.h"
#include "server/core/testing/memory_tier.h"
#include "server/core/testing/recording_stats.h"
#include "server/core/testing/step_executor.h"

namespace kvstow {

inline constexpr uint32_t kTestPage = 64;
inline constexpr uint32_t kTestTokens = 16;

// Block `index` of a prompt. Chains that share a prefix share its name: the test says which.
inline BlockKey TestKey(char chain, uint32_t index) {
  BlockKey key{};
  key[0] = static_cast<uint8_t>(chain);
  for (int i = 0; i < 4; ++i) key[1 + i] = static_cast<uint8_t>(index >> (8 * i));
  return key;
}

// Keys of blocks [0, n).
inline std::vector<BlockKey> TestChain(char chain, uint32_t n) {
  std::vector<BlockKey> keys;
  for (uint32_t i = 0; i < n; ++i) keys.push_back(TestKey(chain, i));
  return keys;
}

inline std::vector<BlockIntent> TestIntents(const std::vector<BlockKey>& keys, uint32_t from = 0) {
  std::vector<BlockIntent> intents;
  for (size_t i = from; i < keys.size(); ++i) {
    intents.push_back({.key = keys[i],
                       .parent = i > 0 ? keys[i - 1] : BlockKey{},
                       .first_position = i * kTestTokens});
  }
  return intents;
}

struct StoreWorld {
  // With `fast_pages` there is a faster tier before `tier`. What moves does so when the executor is
  // stepped.
  explicit StoreWorld(uint32_t pages, StoreOptions options = {}, uint32_t fast_pages = 0)
      : tier(pages, kTestPage, 1024),
        fast(fast_pages, kTestPage, 1024, TierKind::kGpu),
        store(options,
              fast_pages > 0 ? std::vector<Tier*>{&fast, &tier} : std::vector<Tier*>{&tier}, &clock,
              &random, &stats, &mover),
        space(store.AddSpace(kDefaultTenant, Fingerprint{1}, {0}, kTestTokens)) {
    store.SetListener([this](const StoreEvent& event) { events.push_back(event); });
  }
  ~StoreWorld() {
    store.StartDraining();
    executor.RunAll();
  }

  using Answer = Store::ReserveAnswer;

  // REQUIRES that the intents are valid.
  std::vector<Answer> Reserve(const std::vector<BlockIntent>& intents, uint32_t pages = 1,
                              uint32_t shard = 0) {
    return *store.Reserve(space, shard, intents, pages * kTestPage);
  }
  // The record's bytes all have the value of the key's second byte.
  absl::Status Commit(Store::Reservation reservation, uint32_t pages = 1,
                      const Store::RecordMeta& meta = {}) {
    const std::vector<std::byte> bytes(pages * kTestPage,
                                       static_cast<std::byte>(reservation.intent().key[1]));
    const std::span<const std::byte> all = bytes;
    const std::span<const std::byte> pieces[] = {all.first(10), all.subspan(10)};
    return store.Commit(std::move(reservation), pieces, meta);
  }
  // Stores keys[from...] as one call would. The number of blocks that were taken.
  size_t Put(const std::vector<BlockKey>& keys, uint32_t pages = 1, uint32_t shard = 0,
             uint32_t from = 0) {
    size_t stored = 0;
    for (Answer& answer : Reserve(TestIntents(keys, from), pages, shard)) {
      if (answer.kind != Answer::Kind::kSend) continue;
      stored += Commit(std::move(answer.reservation), pages, {.raw_bytes = 1000}).ok();
    }
    return stored;
  }
  size_t Peek(const std::vector<BlockKey>& keys) {
    return store.Lookup(space, keys, {}, "", absl::ZeroDuration()).tiers.size();
  }
  LookupMatch Lookup(const std::vector<BlockKey>& keys, const std::string& request_id = "",
                     absl::Duration ttl = absl::Seconds(60)) {
    return store.Lookup(space, keys, session, request_id, ttl);
  }
  // Uses the blocks and leaves no lease.
  void Use(const std::vector<BlockKey>& keys) {
    (void)store.Release(kDefaultTenant, Lookup(keys).lease);
  }
  // Of all tiers.
  uint64_t used_pages() const { return slow_pages() + fast_pages(); }
  uint64_t slow_pages() const { return tier.usage().used_bytes / kTestPage; }
  uint64_t fast_pages() const { return fast.usage().used_bytes / kTestPage; }
  // Maintains the store, and lets all that then moves arrive.
  void Settle() {
    store.Maintain();
    executor.RunAll();
  }

  FakeClock clock;
  FakeRandom random;
  RecordingStats stats;
  MemoryTier tier, fast;
  StepExecutor executor;
  FlakyMover mover{&executor};
  Store store;
  SpaceId space;
  SessionId session{{9}};
  std::vector<StoreEvent> events;
};

}  // namespace kvstow
