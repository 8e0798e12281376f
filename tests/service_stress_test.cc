// The service without a transport under many threads: puts, gets, drops, cancellations and dying
// sessions at once, over a tier too small for all. Runs under TSan; what it must keep: every plane
// delivered is one that was put, and nothing is left when everybody has gone.
#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "server/app/system.h"
#include "server/app/thread_pool.h"
#include "server/core/batched_plane_codec.h"
#include "server/core/service.h"
#include "server/core/testing/recording_stats.h"
#include "server/core/tiled_plane_codec.h"
#include "server/tiers/host_tier.h"
#include "tests/testing/kv_data.h"

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
      keys_.push_back(KeysOf(RootKey(FingerprintOf(Spec()), {}), tokens, 128));
      blocks_.emplace_back();
      for (size_t b = 0; b < kBlocks; ++b)
        blocks_.back().push_back(MakeBlock(layout_, p * 100 + b));
    }
  }

  ~ServiceStressTest() override { pool_.Drain(); }

  struct Worker {
    std::shared_ptr<Session> session;
    uint64_t space = 0;
  };
  Worker Connect() {
    Worker worker;
    worker.session = *service_.BeginSession(kDefaultTenant, "stress");
    worker.space = service_.OpenSpace(kDefaultTenant, worker.session->id(), Spec(), {})->handle;
    return worker;
  }

  // Stops after `planes` planes when that is less than all.
  void Put(const Worker& worker, int prompt, size_t planes) {
    std::vector<BlockIntent> intents;
    for (size_t b = 0; b < kBlocks; ++b) {
      intents.push_back({keys_[prompt][b], b == 0 ? BlockKey{} : keys_[prompt][b - 1], b * 128});
    }
    auto put = service_.Put(kDefaultTenant, worker.session->id(), worker.space, intents,
                            absl::Seconds(prompt % 2));
    ASSERT_TRUE(put.ok()) << put.status();
    for (size_t p = 0; p < layout_.planes().size(); ++p) {
      for (uint32_t b = 0; b < kBlocks; ++b) {
        if ((*put)->answers()[b].kind != Store::ReserveAnswer::Kind::kSend) continue;
        if (planes-- == 0) {
          (*put)->Cancel();
          return;
        }
        const PlaneSpec& plane = layout_.planes()[p];
        const uint32_t bytes = static_cast<uint32_t>(plane.raw_bytes);
        const PlaneSegment segment = {plane.layer, plane.kind, b, 0, bytes, bytes};
        const std::span<const std::byte> data = blocks_[prompt][b][p];
        ASSERT_TRUE((*put)->Add({&segment, 1}, {&data, 1}).ok());
      }
    }
    absl::Notification done;
    const absl::Status committed = (*put)->Commit([&](absl::StatusOr<PutResults> results) {
      EXPECT_TRUE(results.ok()) << results.status();
      done.Notify();
    });
    ASSERT_TRUE(committed.ok()) << committed;
    done.WaitForNotification();
  }

  void Get(const Worker& worker, int prompt) {
    auto get = service_.Get(kDefaultTenant, worker.session->id(), worker.space, keys_[prompt], {},
                            PlaneForm::kDecoded);
    ASSERT_TRUE(get.ok()) << get.status();
    for (bool end = false; !end;) {
      absl::Notification came;
      (*get)->Next([&](absl::StatusOr<PlaneDelivery> delivery) {
        ASSERT_TRUE(delivery.ok()) << delivery.status();
        end = delivery->kind == PlaneDelivery::Kind::kEnd;
        if (!end) Check(prompt, *delivery);
        came.Notify();
      });
      came.WaitForNotification();
    }
  }

  void Check(int prompt, const PlaneDelivery& delivery) {
    ASSERT_EQ(delivery.kind, PlaneDelivery::Kind::kPlane) << "nothing damages records here";
    for (size_t p = 0; p < layout_.planes().size(); ++p) {
      if (layout_.planes()[p].layer != delivery.layer) continue;
      if (layout_.planes()[p].kind != delivery.plane_kind) continue;
      const auto& put = blocks_[prompt][delivery.block][p];
      EXPECT_TRUE(std::equal(put.begin(), put.end(), delivery.bytes.begin(), delivery.bytes.end()));
      delivered_.fetch_add(1);
    }
  }

  void Work(uint32_t seed) {
    std::mt19937 random(seed);
    Worker worker = Connect();
    for (int round = 0; round < kRounds; ++round) {
      const int prompt = static_cast<int>(random() % kPrompts);
      switch (random() % 6) {
        case 0:
          Put(worker, prompt, random() % 12);
          break;
        case 1:
          ASSERT_TRUE(service_
                          .Drop(kDefaultTenant, worker.session->id(), worker.space,
                                std::span(keys_[prompt]).last(1))
                          .ok());
          break;
        case 2:
          service_.EndSession(worker.session->id());
          worker = Connect();
          break;
        case 3:
          Put(worker, prompt, SIZE_MAX);
          break;
        default:
          ASSERT_TRUE(service_
                          .Lookup(kDefaultTenant, worker.session->id(), worker.space, keys_[prompt],
                                  "r", absl::Seconds(1))
                          .ok());
          Get(worker, prompt);
      }
      service_.Maintain();
      service_.Snapshot();
    }
    service_.EndSession(worker.session->id());
  }

  const PlaneLayout layout_ = *PlaneLayout::Create(Spec(), {});
  std::vector<std::vector<BlockKey>> keys_;
  std::vector<std::vector<std::vector<std::vector<std::byte>>>> blocks_;
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
  const Worker worker = Connect();
  Put(worker, 0, SIZE_MAX);
  Get(worker, 0);
}

}  // namespace
}  // namespace kvstow::testing
