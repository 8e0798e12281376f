// What a block costs the store in memory, and a look-up in time, with a million blocks there.
//
// bytes_per_block counts every byte asked of operator new for the store's structures (not the
// records). Chains is what prompts make: one evictable leaf a prompt; Roots is the worst case for
// the eviction queue: every block a leaf; RootsInAFastTier is the worst of all: each could move to
// a slower tier, too. lookup_p50_ms leases a whole prompt of 8,192 blocks; baseline_p50_ms finds
// the same keys in an absl::flat_hash_map<BlockKey, void*>, in the same run.
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/core/record_mover.h"
#include "server/core/store.h"
#include "server/core/testing/fake_clock.h"
#include "server/core/testing/fake_random.h"
#include "server/core/testing/recording_stats.h"
#include "server/core/testing/step_executor.h"

namespace {
std::atomic<int64_t> live_bytes{0};
}  // namespace

// Not inlined: the compiler would see new paired with free and take it for a mistake.
[[gnu::noinline]] void* operator new(size_t size) {
  void* p = std::malloc(size);
  if (p == nullptr) std::abort();
  // What malloc really set aside, so that its rounding counts.
  live_bytes.fetch_add(static_cast<int64_t>(malloc_usable_size(p)), std::memory_order_relaxed);
  return p;
}
[[gnu::noinline]] void operator delete(void* p) noexcept {
  live_bytes.fetch_sub(static_cast<int64_t>(malloc_usable_size(p)), std::memory_order_relaxed);
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { operator delete(p); }

namespace kvstow {
namespace {

constexpr size_t kBlocks = 1'000'000;
constexpr size_t kPrompt = 8192;
constexpr uint32_t kTokens = 128;

// Gives places out without remembering them: its bookkeeping is not the index's.
class BottomlessTier : public Tier {
 public:
  TierKind kind() const override { return TierKind::kHost; }
  TierUsage usage() const override {
    return {.capacity_bytes = uint64_t{1} << 44, .used_bytes = 0};
  }
  uint64_t PhysicalBytes(uint64_t bytes) const override { return (bytes + 4095) / 4096 * 4096; }
  absl::StatusOr<Allocation> Allocate(uint64_t) override { return Allocation{PageRun{next_++, 1}}; }
  void Free(const Allocation&) override {}
  absl::Status Write(const Allocation&, uint64_t, std::span<const std::byte>) override {
    return absl::OkStatus();
  }
  absl::Status Read(const Allocation&, uint64_t, std::span<std::byte>) const override {
    return absl::OkStatus();
  }
  std::span<const std::byte> View(const Allocation&, uint64_t, uint64_t) const override {
    return {};
  }

 private:
  uint32_t next_ = 0;
};

BlockKey RandomKey(std::mt19937_64& random) {
  BlockKey key;
  for (size_t i = 0; i < key.size(); i += 8) {
    const uint64_t word = random();
    for (size_t b = 0; b < 8; ++b) key[i + b] = static_cast<uint8_t>(word >> (8 * b));
  }
  return key;
}

struct FilledStore {
  explicit FilledStore(size_t chain, bool two_tiers = false) : keys(kBlocks) {
    std::mt19937_64 random(1);
    for (BlockKey& key : keys) key = RandomKey(random);
    const int64_t before = live_bytes;
    const std::vector<Tier*> tiers(two_tiers ? 2 : 1, &tier);  // all goes to the first
    store = std::make_unique<Store>(StoreOptions{}, tiers, &clock, &randomness, &stats, &mover);
    space = store->AddSpace(kDefaultTenant, Fingerprint{}, {}, kTokens);
    for (size_t i = 0; i < keys.size(); i += chain) PutChain(i, std::min(chain, kBlocks - i));
    bytes_per_block = static_cast<double>(live_bytes - before) / kBlocks;
  }

  void PutChain(size_t first, size_t length) {
    std::vector<BlockIntent> intents;
    for (size_t i = 0; i < length; ++i) {
      intents.push_back({keys[first + i], i > 0 ? keys[first + i - 1] : BlockKey{}, i * kTokens});
    }
    auto answers = store->Reserve(space, 0, intents, 4000);
    for (auto& answer : *answers) {
      (void)store->Commit(std::move(answer.reservation), {}, {.raw_bytes = 1 << 20});
    }
  }

  FakeClock clock;
  FakeRandom randomness;
  RecordingStats stats;
  BottomlessTier tier;
  StepExecutor executor;
  ExecutorMover mover{&executor};
  std::vector<BlockKey> keys;
  std::unique_ptr<Store> store;
  SpaceId space{};
  double bytes_per_block = 0;
};

double Median(std::vector<double>& times) {
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

template <typename Work>
void Timed(std::vector<double>* milliseconds, Work work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  milliseconds->push_back(took.count());
}

void BM_LookupOfALongPrompt(benchmark::State& state) {
  FilledStore filled(kPrompt);
  absl::flat_hash_map<BlockKey, void*> baseline;
  for (const BlockKey& key : filled.keys) baseline.emplace(key, &filled);
  std::vector<double> lookups, finds;
  size_t prompt = 0;
  for (auto _ : state) {
    // A different one each time, so that caches are as cold as they will be.
    prompt = (prompt + 37) % (kBlocks / kPrompt);
    const std::span keys(&filled.keys[prompt * kPrompt], kPrompt);
    LookupMatch match;
    Timed(&lookups,
          [&] { match = filled.store->Lookup(filled.space, keys, {}, "", absl::Seconds(60)); });
    if (match.tiers.size() != kPrompt || match.lease == kNoLease) state.SkipWithError("no match");
    (void)filled.store->Release(kDefaultTenant, match.lease);
    Timed(&finds, [&] {
      size_t found = 0;
      for (const BlockKey& key : keys) found += baseline.find(key)->second == &filled;
      benchmark::DoNotOptimize(found);
    });
  }
  state.counters["bytes_per_block"] = filled.bytes_per_block;
  state.counters["lookup_p50_ms"] = Median(lookups);
  state.counters["baseline_p50_ms"] = Median(finds);
  state.counters["ratio"] = state.counters["lookup_p50_ms"] / state.counters["baseline_p50_ms"];
}
BENCHMARK(BM_LookupOfALongPrompt)->Iterations(300)->Unit(benchmark::kMillisecond);

void BM_MemoryOfRoots(benchmark::State& state) {
  double bytes = 0;
  for (auto _ : state) bytes = FilledStore(1).bytes_per_block;
  state.counters["bytes_per_block"] = bytes;
}
BENCHMARK(BM_MemoryOfRoots)->Iterations(1)->Unit(benchmark::kMillisecond);

void BM_MemoryOfRootsInAFastTier(benchmark::State& state) {
  double bytes = 0;
  for (auto _ : state) bytes = FilledStore(1, /*two_tiers=*/true).bytes_per_block;
  state.counters["bytes_per_block"] = bytes;
}
BENCHMARK(BM_MemoryOfRootsInAFastTier)->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace kvstow

BENCHMARK_MAIN();
