// What overwriting the end of a record's last page costs a Put's commit (StoreOptions::
// overwrite_slack): records of one layer's and of 32 layers' blocks at 2.37 bits an entry, into a
// host tier that is full, so that each takes the place of an older one.
#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <vector>

#include "server/core/store.h"
#include "server/core/testing/fake_clock.h"
#include "server/core/testing/fake_random.h"
#include "server/core/testing/recording_stats.h"
#include "server/tiers/host_tier.h"

namespace kvstow {
namespace {

void Commit(benchmark::State& state) {
  const auto record_bytes = static_cast<uint64_t>(state.range(0));
  StoreOptions options;
  options.overwrite_slack = state.range(1) != 0;
  const auto tier = *HostTier::Create(uint64_t{256} << 20);
  FakeClock clock;
  FakeRandom random;
  RecordingStats stats;
  Store store(options, {tier.get()}, &clock, &random, &stats);
  const SpaceId space = store.AddSpace(kDefaultTenant, Fingerprint{1}, {}, 128);
  std::vector<std::byte> record(record_bytes);
  std::mt19937 values(1);
  for (std::byte& b : record) b = static_cast<std::byte>(values());
  const std::span<const std::byte> pieces[] = {record};
  uint64_t next = 0;
  const auto put = [&] {
    BlockIntent intent;
    ++next;
    std::memcpy(intent.key.data(), &next, sizeof(next));
    auto answers = store.Reserve(space, 0, {&intent, 1}, record_bytes);
    return answers.ok() && store.Commit(std::move(answers->front().reservation), pieces, {}).ok();
  };
  for (uint64_t filled = 0; filled < (uint64_t{256} << 20); filled += record_bytes) put();
  for (auto _ : state) {
    if (!put()) state.SkipWithError("not stored");
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * record_bytes));
}

BENCHMARK(Commit)
    ->ArgNames({"record_bytes", "overwrite"})
    ->ArgsProduct({{77'800, 2'485'300}, {0, 1}});

}  // namespace
}  // namespace kvstow

BENCHMARK_MAIN();
