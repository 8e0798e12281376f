// The service without a transport under many threads: puts, gets, drops, cancellations and dying
// sessions at once, over a tier too small for all. Runs under TSan; what it must keep: every plane
// delivered is one that was put, and nothing is left when everybody has gone.
#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "server/app/system.h"
#include "server/app/thread_pool.h"
#include "server/core/batched_plane_codec.h"
#include "server/core/service.h"
#include "server/core/testing/recording_stats.h"
#include "server/core/tiled_plane_codec.h"
#include "server/tiers/host_tier.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/service_worker.h"

namespace kvstow::testing {
namespace {

constexpr int kThreads = 4;
constexpr int kRounds = 25;
constexpr int kPrompts = 6;
constexpr size_t kBlocks = 3;

SpaceSpec Spec() {
  SpaceSpec spec;
  spec.model = {"stress", "", ""};
  LayerGroup group;
  group.layers = {0, 1};
  group.kv_heads = 1;
  group.k_dim = group.v_dim = 64;
  spec.groups = {group};
  spec.codec.codec = CodecId::kRaw;  // what comes back must be what went in
  return spec;
}

// Over the plane codec of a machine without a GPU, and over that of one with a GPU.
class ServiceStressTest : public ::testing::TestWithParam<bool> {
 protected:
  ServiceStressTest()
      : tier_(*HostTier::Create(1 << 20)),
        store_(StoreOptions{}, {tier_.get()}, &clock_, &random_, &stats_),
        pool_(2),
        tiled_(CpuCodec(), &pool_, &clock_, &stats_),
        batched_({CpuCodec(), CpuCodec()}, &tiled_, &pool_, &clock_, &stats_),
        service_(ServiceLimits{},
                 {&store_, GetParam() ? static_cast<PlaneCodec*>(&batched_) : &tiled_, &pool_,
                  &clock_, &random_, &stats_}) {
    for (int p = 0; p < kPrompts; ++p) {
      const std::vector<uint32_t> tokens(kBlocks * 128, static_cast<uint32_t>(p));
      Prompt prompt;
      prompt.keys = KeysOf(RootKey(FingerprintOf(Spec()), {}), tokens, 128);
      for (size_t b = 0; b < kBlocks; ++b) prompt.blocks.push_back(MakeBlock(layout_, p * 100 + b));
      prompts_.push_back(std::move(prompt));
    }
  }

  ~ServiceStressTest() override { pool_.Drain(); }

  void Get(ServiceWorker& worker, const Prompt& prompt) {
    worker.Get(prompt, [this](std::span<const std::byte> put, std::span<const std::byte> got) {
      EXPECT_TRUE(std::equal(put.begin(), put.end(), got.begin(), got.end()));
      delivered_.fetch_add(1);
    });
  }

  void Work(uint32_t seed) {
    std::mt19937 random(seed);
    ServiceWorker worker(&service_, Spec());
    for (int round = 0; round < kRounds; ++round) {
      const uint32_t p = random() % kPrompts;
      const absl::Duration ttl = absl::Seconds(p % 2);
      switch (random() % 6) {
        case 0:
          worker.Put(prompts_[p], ttl, random() % 12);
          break;
        case 1:
          worker.DropLast(prompts_[p]);
          break;
        case 2:
          worker.Reconnect();
          break;
        case 3:
          worker.Put(prompts_[p], ttl);
          break;
        default:
          worker.Lookup(prompts_[p], absl::Seconds(1));
          Get(worker, prompts_[p]);
      }
      service_.Maintain();
      service_.Snapshot();
    }
  }

  const PlaneLayout layout_ = *PlaneLayout::Create(Spec(), {});
  std::vector<Prompt> prompts_;
  std::atomic<int> delivered_{0};
  SteadyClock clock_;
  SystemRandom random_;
  RecordingStats stats_;
  std::unique_ptr<HostTier> tier_;
  Store store_;
  ThreadPool pool_;
  TiledPlaneCodec tiled_;
  BatchedPlaneCodec batched_;
  Service service_;
};
INSTANTIATE_TEST_SUITE_P(Codecs, ServiceStressTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Batched" : "Tiled"; });

TEST_P(ServiceStressTest, EverybodyAtOnce) {
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < kThreads; ++t) threads.emplace_back([this, t] { Work(t); });
  for (std::thread& t : threads) t.join();
  pool_.Drain();
  const ServiceSnapshot end = service_.Snapshot();
  EXPECT_GT(delivered_, 0);
  EXPECT_EQ(end.sessions, 0u);
  EXPECT_EQ(end.inflight_bytes, 0u);
  EXPECT_EQ(end.staged_bytes, 0u);
  EXPECT_EQ(end.store.pending_blocks, 0u);
  EXPECT_EQ(end.store.leases, 0u);
  EXPECT_LE(end.store.tiers[0].usage.used_bytes, end.store.tiers[0].usage.capacity_bytes);
  // And it still works.
  ServiceWorker worker(&service_, Spec());
  worker.Put(prompts_[0]);
  Get(worker, prompts_[0]);
}

}  // namespace
}  // namespace kvstow::testing
