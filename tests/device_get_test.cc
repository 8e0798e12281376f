// Gets whose staging lies on a device, at the service, with a device that is none: several calls at
// a time on several lanes, through slots that are too small for what they ask for.
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gpu/api/testing/fake_device.h"
#include "gtest/gtest.h"
#include "server/app/system.h"
#include "server/app/thread_pool.h"
#include "server/core/service.h"
#include "server/core/testing/recording_stats.h"
#include "server/core/testing/store_fixture.h"
#include "server/core/tiled_plane_codec.h"
#include "server/tiers/device_read_lanes.h"
#include "server/tiers/host_tier.h"
#include "space/fingerprint.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/memory_area.h"
#include "tests/testing/service_worker.h"

namespace kvstow::testing {
namespace {

using Kind = PlaneDelivery::Kind;

constexpr size_t kBlocks = 40;
constexpr size_t kSlotBytes = size_t{512} << 10;  // a fifth of the prompt's values

SpaceSpec Spec() {
  SpaceSpec spec;
  spec.model = {"device-get", "", ""};
  LayerGroup group;
  group.layers = {0, 1};
  group.kv_heads = 1;
  group.k_dim = group.v_dim = 64;
  spec.groups = {group};
  return spec;
}

// A plane as it was given out.
struct Came {
  uint32_t block, layer;
  PlaneKind kind;
  std::vector<std::byte> bytes;
  bool operator==(const Came&) const = default;
};

class DeviceGetTest : public ::testing::TestWithParam<PlaneForm> {
 protected:
  DeviceGetTest() {
    session_ = *service_.BeginSession(kDefaultTenant, "test");
    space_ = service_.OpenSpace(kDefaultTenant, session_->id(), Spec(), {})->handle;
    Prompt prompt{keys_, {}};
    for (size_t b = 0; b < kBlocks; ++b) prompt.blocks.push_back(MakeBlock(layout_, b));
    ServiceWorker(&service_, Spec()).Put(prompt);
  }
  ~DeviceGetTest() override { pool_.Drain(); }

  uint32_t Share(size_t bytes) {
    return *session_->ShareStaging(
        std::make_shared<MemoryArea>(MemoryArea::Where::kOnDevice, bytes));
  }
  std::shared_ptr<GetCall> Begin(std::optional<SlotClaim> slot = {}) {
    return *service_.Get(kDefaultTenant, session_->id(), space_, keys_, {}, GetParam(), slot);
  }
  static PlaneDelivery Next(GetCall& get) {
    absl::Notification came;
    PlaneDelivery next;
    get.Next([&](absl::StatusOr<PlaneDelivery> delivery) {
      EXPECT_TRUE(delivery.ok()) << delivery.status();
      if (delivery.ok()) next = *std::move(delivery);
      came.Notify();
    });
    came.WaitForNotification();
    return next;
  }
  // All planes, with what is ready taken as the transport does, each read before it is consumed.
  static std::vector<Came> ReadAll(GetCall& get, bool staged) {
    std::vector<Came> all;
    for (PlaneDelivery next = Next(get); next.kind != Kind::kEnd; next = Next(get)) {
      EXPECT_EQ(next.kind, Kind::kPlane);
      std::deque<PlaneDelivery> planes;
      planes.push_back(std::move(next));
      if (staged) get.TakeReady(5, &planes);
      for (const PlaneDelivery& plane : planes) {
        EXPECT_EQ(plane.staged_at.has_value(), staged);
        all.push_back(
            {plane.block, plane.layer, plane.plane_kind, {plane.bytes.begin(), plane.bytes.end()}});
      }
      if (staged) {
        EXPECT_TRUE(get.Consumed(all.size()).ok());
      }
    }
    return all;
  }

  SteadyClock clock_;
  SystemRandom random_;
  RecordingStats stats_;
  gpu::FakeDevice device_;
  const std::unique_ptr<HostTier> tier_ = *HostTier::Create(16 << 20);
  kvstow::Store store_{{}, {tier_.get()}, &clock_, &random_, &stats_};
  ThreadPool pool_{6};
  TiledPlaneCodec codec_{CpuCodec(), &pool_, &clock_, &stats_};
  DeviceReadLanes lanes_{&device_, &pool_, kBlocks};
  Service service_{{}, {&store_, &codec_, &pool_, &clock_, &random_, &stats_, &lanes_}};
  std::shared_ptr<Session> session_;
  uint64_t space_ = 0;
  const PlaneLayout layout_ = *PlaneLayout::Create(Spec(), {});
  const std::vector<BlockKey> keys_ =
      KeysOf(RootKey(FingerprintOf(Spec()), {}), std::vector<uint32_t>(kBlocks * 128, 1), 128);
};

TEST_P(DeviceGetTest, CallsSideBySideGiveWhatOneWithoutASlotGives) {
  constexpr size_t kCalls = 3;
  const std::vector<Came> expected = ReadAll(*Begin(), /*staged=*/false);
  ASSERT_EQ(expected.size(), kBlocks * layout_.planes().size());
  const uint32_t region = Share(kCalls * kSlotBytes);
  std::vector<std::thread> readers;
  for (size_t i = 0; i < kCalls; ++i) {
    readers.emplace_back([&, i] {
      const auto get = Begin(SlotClaim{region, i * kSlotBytes, kSlotBytes});
      get->Start();
      EXPECT_TRUE(ReadAll(*get, /*staged=*/true) == expected);
    });
  }
  for (std::thread& reader : readers) reader.join();
}

TEST_P(DeviceGetTest, ACancelledCallEnds) {
  const uint32_t region = Share(kSlotBytes);
  for (int planes = 0; planes < 4; ++planes) {
    auto get = Begin(SlotClaim{region, 0, kSlotBytes});
    get->Start();
    for (int i = 0; i < planes; ++i) Next(*get);
    get->Cancel();
    const std::weak_ptr<GetCall> gone = std::exchange(get, nullptr);
    pool_.Drain();
    EXPECT_TRUE(gone.expired()) << planes;
  }
}

// Planes that the slot cannot hold are decoded on the heap, as far ahead as for a call without one.
TEST_P(DeviceGetTest, ATinySlotDecodesNoFurtherAhead) {
  constexpr uint64_t kWindow = uint64_t{8} << 20;
  SpaceSpec spec = Spec();
  spec.codec.codec = CodecId::kTurboQuant;
  spec.groups[0].kv_heads = 4;
  spec.groups[0].k_dim = spec.groups[0].v_dim = 128;
  space_ = service_.OpenSpace(kDefaultTenant, session_->id(), spec, {})->handle;
  const PlaneLayout layout = *PlaneLayout::Create(spec, {});
  const auto keys =
      KeysOf(RootKey(FingerprintOf(spec), {}), std::vector<uint32_t>(kBlocks * 128, 1), 128);
  const std::vector<std::vector<std::byte>> block = MakeBlock(layout, 1);
  Prompt prompt{keys, std::vector(kBlocks, block)};
  ServiceWorker(&service_, spec).Put(prompt);
  ASSERT_GT(kBlocks * layout.raw_bytes(), 2 * kWindow);

  const auto get = *service_.Get(kDefaultTenant, session_->id(), space_, keys, {}, GetParam(),
                                 SlotClaim{Share(4096), 0, 4096});
  get->Start();
  pool_.Drain();  // nobody reads
  EXPECT_LE(service_.Snapshot().inflight_bytes, kWindow + layout.planes()[0].raw_bytes);
  size_t planes = 0;
  for (PlaneDelivery next = Next(*get); next.kind != Kind::kEnd; next = Next(*get)) {
    EXPECT_EQ(next.kind, Kind::kPlane);
    ++planes;
  }
  EXPECT_EQ(planes, kBlocks * layout.planes().size());
}

INSTANTIATE_TEST_SUITE_P(Forms, DeviceGetTest,
                         ::testing::Values(PlaneForm::kDecoded, PlaneForm::kEncoded),
                         [](const auto& info) {
                           return info.param == PlaneForm::kDecoded ? "Decoded" : "Encoded";
                         });

}  // namespace
}  // namespace kvstow::testing
