// The service on a real GPU, through the real plugin: many threads put, get and drop over tiers too
// small for all, and a device whose memory runs out. Skipped where there is no GPU.
//
// KVSTOW_SOAK_ROUNDS: rounds a thread, 30 where it is not set.
#include <atomic>
#include <cstdlib>
#include <random>
#include <thread>

#include "absl/strings/numbers.h"
#include "gpu/api/load_plugin.h"
#include "gtest/gtest.h"
#include "server/app/system.h"
#include "server/app/thread_pool.h"
#include "server/core/batched_plane_codec.h"
#include "server/core/testing/recording_stats.h"
#include "server/core/tiled_plane_codec.h"
#include "server/tiers/device_mover.h"
#include "server/tiers/gpu_tier.h"
#include "server/tiers/host_tier.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/service_worker.h"

namespace kvstow::testing {
namespace {

constexpr int kThreads = 8;
constexpr int kPrompts = 12;
SpaceSpec SpecOf(uint32_t layers, uint32_t heads, uint32_t dim, uint32_t block_tokens) {
  SpaceSpec spec;
  spec.model = {"gpu-soak", "", ""};
  LayerGroup group;
  for (uint32_t l = 0; l < layers; ++l) group.layers.push_back(l);
  group.kv_heads = heads;
  group.k_dim = group.v_dim = dim;
  spec.groups = {group};
  spec.block_tokens = block_tokens;
  return spec;
}

int Rounds() {
  int rounds = 30;
  const char* const asked = std::getenv("KVSTOW_SOAK_ROUNDS");
  if (asked != nullptr && !absl::SimpleAtoi(asked, &rounds)) {
    ADD_FAILURE() << "KVSTOW_SOAK_ROUNDS is no number: " << asked;
  }
  return rounds;
}

class GpuSoakTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto device = gpu::OpenDevice("", 0);
    if (!device.ok()) GTEST_SKIP() << "no GPU: " << device.status().message();
    device_ = *std::move(device);
  }
  void Start(const SpaceSpec& spec, int prompts, size_t blocks, uint64_t gpu_bytes,
             uint64_t host_bytes) {
    spec_ = spec;
    for (int i = 0; i < 2; ++i) codecs_.push_back(*device_->NewCodec());
    gpu_tier_ = *GpuTier::Create(device_.get(), gpu_bytes);
    host_tier_ = *HostTier::Create(host_bytes);
    host_tier_->StartPinning(device_.get());
    mover_ = std::make_unique<DeviceMover>(device_.get(), &pool_);
    store_ = std::make_unique<Store>(StoreOptions{},
                                     std::vector<Tier*>{gpu_tier_.get(), host_tier_.get()}, &clock_,
                                     &random_, &stats_, mover_.get());
    batched_ = std::make_unique<BatchedPlaneCodec>(
        std::vector<Codec*>{codecs_[0].get(), codecs_[1].get()}, &tiled_, &pool_, &clock_, &stats_);
    service_ = std::make_unique<Service>(
        ServiceLimits{},
        Service::Parts{store_.get(), batched_.get(), &pool_, &clock_, &random_, &stats_});
    const PlaneLayout layout = *PlaneLayout::Create(spec_, {});
    for (int p = 0; p < prompts; ++p) {
      const std::vector<uint32_t> tokens(blocks * spec.block_tokens, static_cast<uint32_t>(p));
      Prompt prompt;
      prompt.keys = KeysOf(RootKey(FingerprintOf(spec_), {}), tokens, spec.block_tokens);
      for (size_t b = 0; b < blocks; ++b) prompt.blocks.push_back(MakeBlock(layout, p * 100 + b));
      prompts_.push_back(std::move(prompt));
    }
  }
  void TearDown() override { pool_.Drain(); }

  void Get(ServiceWorker& worker, const Prompt& prompt) {
    worker.Get(prompt, [this](std::span<const std::byte> put, std::span<const std::byte> got) {
      EXPECT_LT(Nmse(put, got), 0.2);
      delivered_.fetch_add(1);
    });
  }

  void Work(uint32_t seed, int rounds) {
    std::mt19937 random(seed);
    ServiceWorker worker(service_.get(), spec_);
    for (int round = 0; round < rounds; ++round) {
      const Prompt& prompt = prompts_[random() % kPrompts];
      switch (random() % 6) {
        case 0:
          worker.Put(prompt, {}, random() % 40);
          break;
        case 1:
          worker.DropLast(prompt);
          break;
        case 2:
        case 3:
          worker.Put(prompt);
          break;
        default:
          worker.Lookup(prompt, absl::Seconds(1));
          Get(worker, prompt);
      }
      service_->Maintain();
    }
  }

  SpaceSpec spec_;
  std::vector<Prompt> prompts_;
  std::atomic<uint64_t> delivered_{0};
  SteadyClock clock_;
  SystemRandom random_;
  RecordingStats stats_;
  std::unique_ptr<gpu::Device> device_;
  std::vector<std::unique_ptr<Codec>> codecs_;
  std::unique_ptr<GpuTier> gpu_tier_;
  std::unique_ptr<HostTier> host_tier_;
  ThreadPool pool_{6};
  std::unique_ptr<DeviceMover> mover_;
  std::unique_ptr<Store> store_;
  TiledPlaneCodec tiled_{CpuCodec(), &pool_, &clock_, &stats_};
  std::unique_ptr<BatchedPlaneCodec> batched_;
  std::unique_ptr<Service> service_;
};

TEST_F(GpuSoakTest, EverybodyAtOnce) {
  Start(SpecOf(4, 4, 128, 128), kPrompts, 4, 4 << 20, 12 << 20);
  const int rounds = Rounds();
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t, rounds] { Work(t, rounds); });
  }
  for (std::thread& t : threads) t.join();
  pool_.Drain();
  EXPECT_GT(delivered_, 0u);
  EXPECT_EQ(stats_.totals().checksum_failures, 0u);
  EXPECT_EQ(stats_.totals().permanent_codec_failures, 0u);
  auto moved = stats_.totals().moved;
  EXPECT_GT((moved[{TierKind::kGpu, TierKind::kHost}]), 0u) << "records were demoted";
  EXPECT_TRUE(device_->health().ok());
  const ServiceSnapshot end = service_->Snapshot();
  EXPECT_EQ(end.inflight_bytes, 0u);
  EXPECT_EQ(end.staged_bytes, 0u);
  EXPECT_EQ(end.store.pending_blocks, 0u);
}

TEST_F(GpuSoakTest, AnExhaustedDeviceLeavesTheWorkToTheCpu) {
  // One plane of it needs more room than the codecs have taken when they were made.
  Start(SpecOf(1, 96, 256, 512), 2, 1, 4 << 20, 64 << 20);
  std::vector<std::byte*> taken;
  for (size_t bytes = size_t{1} << 38; bytes >= size_t{1} << 20;) {
    if (auto memory = device_->Allocate(bytes); memory.ok()) {
      taken.push_back(*memory);
    } else {
      ASSERT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted) << memory.status();
      bytes /= 2;
    }
  }
  {
    ServiceWorker worker(service_.get(), spec_);
    worker.Put(prompts_[0]);
    Get(worker, prompts_[0]);
  }
  EXPECT_EQ(delivered_, prompts_[0].blocks[0].size());
  EXPECT_GT(stats_.totals().passing_codec_failures, 0u) << "counted";
  EXPECT_TRUE(batched_->healthy()) << "a lack of memory passes";
  for (std::byte* memory : taken) device_->Free(memory);
  const uint64_t failures = stats_.totals().passing_codec_failures;
  {
    ServiceWorker worker(service_.get(), spec_);
    worker.Put(prompts_[1]);
    Get(worker, prompts_[1]);
  }
  EXPECT_EQ(stats_.totals().passing_codec_failures, failures) << "the device is used again";
}

}  // namespace
}  // namespace kvstow::testing
