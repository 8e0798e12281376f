// Puts that a worker encodes on its device, at a real daemon, without a GPU: what is stored, and
// what becomes of one that cannot be. (transport_test runs the protocol, device_path_test a GPU.)
#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "absl/synchronization/notification.h"
#include "codec/crc32c.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstow/client.h"
#include "kvstow/coding.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/fake_encoding_kv.h"
#include "tests/testing/fake_worker_gpu.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/put_past_pending.h"
#include "tests/testing/record_of.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;

TEST(DeviceEncodingEqualityTest, ItsRecordIsTheDaemonsByteForByte) {
  for (CodecId codec : {CodecId::kRaw, CodecId::kTurboQuant, CodecId::kEOptShrinkQ}) {
    for (double bound : {0.0, 0.01}) {
      const SpaceSpec spec = EveryKind(codec, bound);
      const RecordOf daemons(spec, RecordOf::Encoder::kDaemon);
      ASSERT_EQ(daemons.result.stored, 2u) << daemons.result.status;
      for (DataPath path : {DataPath::kSharedMemory, DataPath::kGrpc}) {
        const RecordOf device(spec, RecordOf::Encoder::kDevice, path);
        ASSERT_EQ(device.result.stored, 2u) << device.result.status;
        EXPECT_EQ(device.result.path, path);
        EXPECT_TRUE(device.bytes == daemons.bytes) << Name(codec) << " " << bound;
        EXPECT_EQ(device.result.k.nmse, daemons.result.k.nmse);
        EXPECT_EQ(device.result.v.worst_nmse, daemons.result.v.worst_nmse);
        if (codec != CodecId::kRaw) {
          EXPECT_LT(device.result.sent_bytes, daemons.result.sent_bytes * (bound > 0 ? 0.9 : 0.5));
        }
      }
    }
  }
}

constexpr size_t kBlocks = 3;
constexpr size_t kPlane = 2 * 128 * 64 * 2;  // raw bytes

class DeviceEncodingTest : public DaemonTest {
 protected:
  static SpaceSpec Spec() {
    SpaceSpec spec;
    spec.model = {"device-encoding-test", "", ""};
    spec.groups = {{.layers = {0, 1, 2}, .kv_heads = 2, .k_dim = 64, .v_dim = 64, .rotary = {}}};
    spec.codec.codec = CodecId::kTurboQuant;
    return spec;
  }
  void SetUp() override {
    StartDaemon();
    Connect(DataPath::kAuto);
  }
  void Connect(DataPath path, std::shared_ptr<WorkerGpu> gpu = nullptr) {
    ClientOptions options;
    options.target = target();
    options.path = path;
    options.gpu = std::move(gpu);
    options.connect_wait = options.lookup_deadline = absl::Seconds(60);
    options.put_deadline = absl::Seconds(60);
    options.breaker_failures = 1;  // nothing here is the daemon's fault
    client_ = Client::Create(options);
    space_ = *client_->OpenSpace(Spec());
    keys_ = space_->Keys(std::vector<uint32_t>(kBlocks * 128, 7));
    for (size_t b = 0; b < kBlocks; ++b) blocks_.push_back(MakeBlock(space_->layout(), b));
  }
  std::shared_ptr<FakeEncodingKv> NewKv(FakeEncodingKv::Options options = {}) {
    return std::make_shared<FakeEncodingKv>(
        [this](const PlaneSpec& plane, size_t block) {
          const auto index = static_cast<size_t>(&plane - space_->layout().planes().data());
          return std::span<const std::byte>(blocks_[block][index]);
        },
        *MakeCpuCoder()->ForSpace(Spec(), {}), options);
  }
  PutBlocksRequest Request(std::shared_ptr<DeviceKv> kv) const {
    PutBlocksRequest request;
    request.keys = keys_;
    request.device = std::move(kv);
    return request;
  }
  // Behind a call that was given up just before.
  PutBlocksResult Put(std::shared_ptr<DeviceKv> kv) {
    return PutPastPending([&] { return space_->PutBlocks(Request(kv)); });
  }
  size_t Stored() { return space_->Lookup(keys_, {.ttl = absl::ZeroDuration()}).blocks; }
  void ExpectNothingStored(const PutBlocksResult& result) {
    EXPECT_EQ(result.stored, 0u);
    EXPECT_EQ(Stored(), 0u);
  }
  // Whatever was wrong, the next Put is as good as any.
  void ExpectTheNextIsStored(std::shared_ptr<DeviceKv> kv) {
    const auto put = Put(std::move(kv));
    EXPECT_EQ(put.stored, kBlocks) << put.status;
    EXPECT_EQ(Stored(), kBlocks);
  }

  std::unique_ptr<Client> client_;
  std::shared_ptr<Space> space_;
  std::vector<BlockKey> keys_;
  std::vector<Planes> blocks_;
};

TEST_F(DeviceEncodingTest, BatchesOfAnySize) {
  const size_t planes = kBlocks * space_->layout().planes().size();
  struct Case {
    size_t at_a_time, most_planes, batches;
  };
  for (const Case& each :
       {Case{1, 1000, planes}, Case{2 * kPlane, 1000, planes / 2}, Case{size_t{1} << 30, 1000, 1},
        Case{size_t{1} << 30, 7, 3}, Case{4 * kPlane, 1, planes}}) {
    const auto kv = NewKv({.at_a_time = each.at_a_time, .most_planes = each.most_planes, .lag = 2});
    ExpectTheNextIsStored(kv);
    EXPECT_EQ(kv->batches(), each.batches) << each.at_a_time << " " << each.most_planes;
    ASSERT_TRUE(space_->DropAll().ok());
  }
}

TEST_F(DeviceEncodingTest, OnlyWhatTheDaemonWants) {
  PutBlocksRequest first = Request(NewKv());
  first.keys.resize(1);
  ASSERT_EQ(space_->PutBlocks(first).stored, 1u);
  const auto kv = NewKv();
  const auto rest = space_->PutBlocks(Request(kv));
  EXPECT_EQ(rest.existed, 1u);
  EXPECT_EQ(rest.stored, 2u);
  EXPECT_EQ(kv->layers().size(), 2 * space_->layout().planes().size());
  const auto again = NewKv();
  EXPECT_EQ(space_->PutBlocks(Request(again)).existed, kBlocks);
  EXPECT_EQ(again->batches(), 0u);
}

// A started Put has a layer encoded and sent once it is ready, and none before.
TEST_F(DeviceEncodingTest, LayersAsTheyBecomeReady) {
  const auto kv = NewKv({.at_a_time = size_t{1} << 30});
  std::atomic<size_t> begun{0};  // layers
  kv->set_on_question([&] { begun = kv->layers().back() + 1; });
  std::unique_ptr<OngoingPut> put = space_->StartPut(Request(kv));
  for (uint32_t layer = 0; layer < 3; ++layer) {
    EXPECT_EQ(begun, layer);
    put->LayerReady(layer);
    while (begun == layer) std::this_thread::yield();
  }
  EXPECT_EQ(put->Wait().stored, kBlocks) << put->Wait().status;
  EXPECT_EQ(kv->batches(), 3u);
}

TEST_F(DeviceEncodingTest, AStreamThatIsStuckCostsTheDeadlineAndNoMore) {
  const auto kv = NewKv();
  kv->set_stuck(true);
  PutBlocksRequest request = Request(kv);
  request.deadline = absl::Milliseconds(100);
  const auto late = space_->PutBlocks(request);
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.status)) << late.status;
  ExpectNothingStored(late);
  // What it left is on the stream still.
  const auto next = Put(kv);
  EXPECT_TRUE(absl::IsUnavailable(next.status)) << next.status;
  ExpectNothingStored(next);
  kv->set_stuck(false);
  while (!*kv->Passed(0)) {
  }
  ExpectTheNextIsStored(kv);
}

TEST_F(DeviceEncodingTest, CancelledWhileItWaitsForTheStream) {
  const auto kv = NewKv();
  kv->set_stuck(true);
  absl::Notification waits;
  kv->set_on_question([&] {
    if (!waits.HasBeenNotified()) waits.Notify();
  });
  std::unique_ptr<OngoingPut> put = space_->StartPut(Request(kv));
  for (uint32_t layer = 0; layer < 3; ++layer) put->LayerReady(layer);
  waits.WaitForNotification();
  put->Cancel();
  EXPECT_TRUE(absl::IsCancelled(put->Wait().status)) << put->Wait().status;
  ExpectNothingStored(put->Wait());
  kv->set_stuck(false);
  while (!*kv->Passed(0)) {
  }
  ExpectTheNextIsStored(kv);
}

// ---- What is no plane ----

TEST_F(DeviceEncodingTest, PlanesThatTheDaemonRefuses) {
  struct Case {
    const char* words;
    std::function<void(PlaneEncodedOnDevice&)> spoil;
  };
  std::vector<std::byte> other;
  const std::vector<Case> cases = {
      {"layer 0 k block 0 was refused (checksum)", [](auto& plane) { plane.crc32c ^= 1; }},
      {"(structure)",
       [](auto& plane) {
         plane.bytes = plane.bytes.first(plane.bytes.size() - 16);
         plane.crc32c = Crc32c(plane.bytes);
       }},
      {"(checksum)",
       [&](auto& plane) {
         other.assign(plane.bytes.begin(), plane.bytes.end());
         other[700] ^= std::byte{1};
         plane.bytes = other;
       }},
      {"(declaration)", [](auto& plane) { plane.tiles.pop_back(); }},
      {"(declaration)", [](auto& plane) { plane.tiles[0].error = -1; }},
  };
  for (const Case& each : cases) {
    const auto kv = NewKv();
    kv->set_spoil([&](std::vector<PlaneEncodedOnDevice>* planes) { each.spoil(planes->front()); });
    const auto put = space_->PutBlocks(Request(kv));
    EXPECT_TRUE(absl::IsInvalidArgument(put.status)) << put.status;
    EXPECT_THAT(std::string(put.status.message()), HasSubstr(each.words));
    ExpectNothingStored(put);
  }
  ExpectTheNextIsStored(NewKv());
}

TEST_F(DeviceEncodingTest, WhatTheDeviceSaysIsWhyNothingIsStored) {
  const auto lost = NewKv();
  lost->set_encode_status(absl::InternalError("the device is lost"));
  const auto refused = Put(lost);
  EXPECT_THAT(std::string(refused.status.message()), HasSubstr("the device is lost"));
  ExpectNothingStored(refused);

  const auto later = NewKv();
  later->set_passed_status(absl::InternalError("lost on the way"));
  const auto broken = Put(later);
  EXPECT_THAT(std::string(broken.status.message()), HasSubstr("lost on the way"));
  ExpectNothingStored(broken);

  const auto takes_none = NewKv({.most_planes = 0});
  const auto none = Put(takes_none);
  EXPECT_THAT(std::string(none.status.message()), HasSubstr("took 0 of"));
  ExpectNothingStored(none);

  const auto forgets = NewKv();
  forgets->set_spoil([](std::vector<PlaneEncodedOnDevice>* planes) { planes->pop_back(); });
  const auto fewer = Put(forgets);
  EXPECT_THAT(std::string(fewer.status.message()), HasSubstr("planes to encode and gave"));
  ExpectNothingStored(fewer);
  ExpectTheNextIsStored(NewKv());
}

// ---- Which way ----

class DeviceEncodingPathTest : public DeviceEncodingTest {
 protected:
  void SetUp() override {
    config_.device = DaemonConfig::Device::kCuda;
    config_.gpu_plugin = FAKE_PLUGIN;
    StartDaemon();
  }
};

TEST_F(DeviceEncodingPathTest, ThroughDeviceMemoryOnlyWhereThatIsAskedFor) {
  const auto gpu = std::make_shared<FakeWorkerGpu>();
  Connect(DataPath::kAuto, gpu);
  auto kv = NewKv();
  const auto encoded = space_->PutBlocks(Request(kv));
  ASSERT_EQ(encoded.stored, kBlocks) << encoded.status;
  EXPECT_EQ(encoded.path, DataPath::kSharedMemory);
  EXPECT_GT(kv->batches(), 0u);
  EXPECT_LT(encoded.sent_bytes, kBlocks * space_->layout().raw_bytes() / 2);
  ASSERT_TRUE(space_->DropAll().ok());

  Connect(DataPath::kDeviceMemory, gpu);
  kv = NewKv();
  const auto raw = space_->PutBlocks(Request(kv));
  ASSERT_EQ(raw.stored, kBlocks) << raw.status;
  EXPECT_EQ(raw.path, DataPath::kDeviceMemory);
  EXPECT_EQ(raw.sent_bytes, kBlocks * space_->layout().raw_bytes());
  EXPECT_EQ(kv->batches(), 0u);
  EXPECT_GT(kv->gathers(), 0u);
}

}  // namespace
}  // namespace kvstow::testing
