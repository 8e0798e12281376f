// Latency of Gets while records move between the tiers in the background, beside the same Gets with
// nothing moving, turn about in one run. Needs a GPU.
//
//   movement_benchmark [MB_PER_SECOND]     records put, and so demoted, a second: 1000
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "gpu/api/load_plugin.h"
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

constexpr int kHot = 16;     // blocks that are asked for
constexpr int kGets = 1500;  // a phase
constexpr int kPhases = 5;   // of each kind
constexpr uint64_t kRecordBytes = 620'000;

SpaceSpec Spec() {
  SpaceSpec spec;
  spec.model = {"movement-benchmark", "", ""};
  LayerGroup group;
  group.layers = {0, 1, 2, 3, 4, 5, 6, 7};
  group.kv_heads = 8;
  group.k_dim = group.v_dim = 128;
  spec.groups = {group};
  return spec;
}

struct Machine {
  explicit Machine(std::unique_ptr<gpu::Device> opened) : device(std::move(opened)) {
    for (int i = 0; i < 2; ++i) codecs.push_back(*device->NewCodec());
    gpu_tier = *GpuTier::Create(device.get(), uint64_t{512} << 20);
    host_tier = *HostTier::Create(uint64_t{1} << 30);
    host_tier->StartPinning(device.get());
    if (!host_tier->WaitForPinning().ok()) std::printf("the host tier is not all pinned\n");
    store =
        std::make_unique<Store>(StoreOptions{}, std::vector<Tier*>{gpu_tier.get(), host_tier.get()},
                                &clock, &random, &stats, &mover);
    batched = std::make_unique<BatchedPlaneCodec>(
        std::vector<Codec*>{codecs[0].get(), codecs[1].get()}, &tiled, &pool, &clock, &stats);
    service = std::make_unique<Service>(
        ServiceLimits{},
        Service::Parts{store.get(), batched.get(), &pool, &clock, &random, &stats});
  }
  ~Machine() { pool.Drain(); }

  SteadyClock clock;
  SystemRandom random;
  RecordingStats stats;
  std::unique_ptr<gpu::Device> device;
  std::vector<std::unique_ptr<Codec>> codecs;
  std::unique_ptr<GpuTier> gpu_tier;
  std::unique_ptr<HostTier> host_tier;
  ThreadPool pool{8};
  DeviceMover mover{device.get(), &pool};
  std::unique_ptr<Store> store;
  TiledPlaneCodec tiled{CpuCodec(), &pool, &clock, &stats};
  std::unique_ptr<BatchedPlaneCodec> batched;
  std::unique_ptr<Service> service;
};

// Stores records of cold blocks at a rate, which the store demotes to make room, until told to
// stop.
class Traffic {
 public:
  Traffic(Machine* machine, double bytes_per_second)
      : machine_(*machine), interval_(absl::Seconds(kRecordBytes / bytes_per_second)) {
    space_ = machine_.store->AddSpace(kDefaultTenant, Fingerprint{9}, {}, 128);
    thread_ = std::thread([this] { Run(); });
  }
  ~Traffic() {
    stop_ = true;
    thread_.join();
  }

 private:
  void Run() {
    const std::vector<std::byte> record(kRecordBytes, std::byte{7});
    const std::span<const std::byte> piece(record);
    absl::Time next = absl::Now();
    for (uint64_t i = 0; !stop_; ++i) {
      BlockIntent intent;
      std::memcpy(intent.key.data(), &(++count_), sizeof(count_));
      auto answers = machine_.store->Reserve(space_, 0, {&intent, 1}, kRecordBytes);
      if (answers.ok() && (*answers)[0].reservation) {
        (void)machine_.store->Commit(std::move((*answers)[0].reservation), {&piece, 1},
                                     {.raw_bytes = 7 * kRecordBytes});
      }
      if (i % 64 == 0) machine_.store->Maintain();
      next += interval_;
      absl::SleepFor(next - absl::Now());
    }
  }

  static inline uint64_t count_ = 0;
  Machine& machine_;
  const absl::Duration interval_;
  SpaceId space_{};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

struct Latencies {
  std::vector<double> ms;
  double At(double share) {
    std::sort(ms.begin(), ms.end());
    return ms[static_cast<size_t>(share * static_cast<double>(ms.size() - 1))];
  }
};

void Measure(ServiceWorker& worker, const std::vector<Prompt>& prompts, Latencies* out) {
  for (int i = 0; i < kGets; ++i) {
    const absl::Time start = absl::Now();
    worker.Get(prompts[i % kHot], [](auto, auto) {});
    out->ms.push_back(absl::ToDoubleMilliseconds(absl::Now() - start));
  }
}

int Main(int argc, char** argv) {
  double megabytes = 1000;
  if (argc > 1 && !absl::SimpleAtod(argv[1], &megabytes)) return 64;
  auto device = gpu::OpenDevice("", 0);
  if (!device.ok()) {
    std::printf("no GPU: %s\n", std::string(device.status().message()).c_str());
    return 1;
  }
  Machine machine(*std::move(device));
  const PlaneLayout layout = *PlaneLayout::Create(Spec(), {});
  std::vector<Prompt> prompts(kHot);
  ServiceWorker worker(machine.service.get(), Spec());
  for (int p = 0; p < kHot; ++p) {
    const std::vector<uint32_t> tokens(128, static_cast<uint32_t>(p));
    prompts[p].keys = KeysOf(RootKey(FingerprintOf(Spec()), {}), tokens, 128);
    prompts[p].blocks = {MakeBlock(layout, p)};
    worker.Put(prompts[p]);
  }
  Latencies quiet, moving, warm;
  double moved_bytes = 0, moved_seconds = 0;
  Measure(worker, prompts, &warm);
  for (int phase = 0; phase < kPhases; ++phase) {
    Measure(worker, prompts, &quiet);
    const auto bytes = [&] {
      return machine.stats.totals().moved_bytes[{TierKind::kGpu, TierKind::kHost}];
    };
    Traffic traffic(&machine, megabytes * 1e6);
    absl::SleepFor(absl::Seconds(1));
    const uint64_t before = bytes();
    const absl::Time start = absl::Now();
    Measure(worker, prompts, &moving);
    moved_bytes += static_cast<double>(bytes() - before);
    moved_seconds += absl::ToDoubleSeconds(absl::Now() - start);
  }
  std::printf("Get of one block, %.1f MiB raw, records in the gpu tier, %s\n",
              static_cast<double>(layout.raw_bytes()) / (1 << 20),
              std::string(machine.device->description()).c_str());
  std::printf("%-36s p50 %.3f ms  p90 %.3f  p99 %.3f\n", "nothing moving", quiet.At(.5),
              quiet.At(.9), quiet.At(.99));
  std::printf("demotion at %.2f GB/s of records       p50 %.3f ms  p90 %.3f  p99 %.3f\n",
              moved_bytes / moved_seconds / 1e9, moving.At(.5), moving.At(.9), moving.At(.99));
  std::printf("p99 ratio %.2f (target 1.5)\n", moving.At(.99) / quiet.At(.99));
  return 0;
}

}  // namespace
}  // namespace kvstow::testing

int main(int argc, char** argv) { return kvstow::testing::Main(argc, argv); }
