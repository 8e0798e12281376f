// The one conformance suite of the data paths: a real daemon and the client library, over each.
// What a worker puts comes back, layer by layer, whatever the sizes; calls can be started and given
// up; and no path touches what is not its own. (process_test kills and stops the daemon on each.)
#include <atomic>
#include <numeric>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstow/client.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/fake_encoding_kv.h"
#include "tests/testing/fake_worker_gpu.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/put_past_pending.h"
#include "tests/testing/way.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;
using Planes = std::vector<std::vector<std::byte>>;

constexpr uint32_t kLayers = 3;

SpaceSpec Spec(CodecId codec) {
  SpaceSpec spec;
  spec.model = {"transport-test", "", ""};
  LayerGroup group;
  for (uint32_t i = 0; i < kLayers; ++i) group.layers.push_back(i);
  group.kv_heads = 2;
  group.k_dim = group.v_dim = 64;
  spec.groups = {group};
  spec.codec.codec = codec;
  return spec;
}

class TransportTest : public DaemonTest, public ::testing::WithParamInterface<Way> {
 protected:
  void SetUp() override {
    if (GetParam().path == DataPath::kDeviceMemory) {
      config_.device = DaemonConfig::Device::kCuda;
      config_.gpu_plugin = FAKE_PLUGIN;
    }
    StartDaemon();
    Connect(GetParam().path);
  }
  void TearDown() override {
    space_.reset();
    client_.reset();
    daemon_.reset();
  }

  ClientOptions Options(DataPath path) const {
    ClientOptions options;
    options.target = target();
    GetParam().ApplyTo(&options);
    options.path = path;
    if (path == DataPath::kDeviceMemory) {
      options.path = DataPath::kAuto;  // KV on the host goes through host memory
      options.gpu = gpu_;
    }
    options.connect_wait = options.lookup_deadline = absl::Seconds(60);
    options.get_deadline = options.put_deadline = absl::Seconds(60);
    options.breaker_failures = 1000;  // the breaker has its own tests
    return options;
  }
  void Connect(DataPath path, const SpaceSpec& spec = Spec(CodecId::kRaw), size_t blocks = 3) {
    client_ = Client::Create(Options(path));
    Open(spec, blocks);
  }
  void Open(const SpaceSpec& spec, size_t blocks) {
    space_ = *client_->OpenSpace(spec);
    keys_ = space_->Keys(std::vector<uint32_t>(blocks * spec.block_tokens, 7));
    blocks_.clear();
    for (size_t b = 0; b < blocks; ++b) blocks_.push_back(MakeBlock(space_->layout(), b));
    got_.assign(blocks, Planes(space_->layout().planes().size()));
  }

  size_t Index(const PlaneSpec& plane) const {
    return static_cast<size_t>(&plane - space_->layout().planes().data());
  }
  PutBlocksRequest PutRequest() {
    PutBlocksRequest request;
    request.keys = keys_;
    request.source = [this](const PlaneSpec& plane, size_t block) {
      return std::span<const std::byte>(blocks_[block][Index(plane)]);
    };
    return request;
  }
  PutBlocksRequest OnItsPath(PutBlocksRequest request) const {
    if (GetParam().device_encodes) {
      request.device = std::make_shared<FakeEncodingKv>(
          FakeEncodingKv::Source(std::exchange(request.source, nullptr)), NewCoder());
      return request;
    }
    if (GetParam().path != DataPath::kDeviceMemory) return request;
    request.device = std::make_shared<FakeDeviceKv>(
        FakeDeviceKv::Source(std::exchange(request.source, nullptr)));
    return request;
  }
  GetBlocksRequest GetRequest() {
    for (Planes& block : got_) block.assign(block.size(), {});
    GetBlocksRequest request;
    request.keys = keys_;
    request.destination = [this](const PlaneSpec& plane, size_t block) {
      auto& bytes = got_[block][Index(plane)];
      bytes.resize(plane.raw_bytes);
      return std::span<std::byte>(bytes);
    };
    return OnItsPath(std::move(request));
  }
  // KV in device memory, where the path is for that.
  GetBlocksRequest OnItsPath(GetBlocksRequest request) const {
    if (GetParam().path != DataPath::kDeviceMemory) return request;
    request.device = NewKv(std::exchange(request.destination, nullptr));
    return request;
  }
  std::shared_ptr<FakeDeviceKv> NewKv(FakeDeviceKv::Destination destination, int lag = 3) const {
    return std::make_shared<FakeDeviceKv>(std::move(destination), lag,
                                          GetParam().worker_codes ? NewCoder() : nullptr);
  }
  std::shared_ptr<SpaceCoder> NewCoder() const {
    return *MakeCpuCoder()->ForSpace(space_->layout().spec(), space_->layout().shard());
  }
  void PutAll() {
    const auto put = PutPastPending([&] { return space_->PutBlocks(OnItsPath(PutRequest())); });
    ASSERT_EQ(put.stored, keys_.size()) << put.status << " " << put.blocks[0].refusal;
    // A region that a call left behind is being replaced; meanwhile there is the next path.
    const bool replacing =
        GetParam().path == DataPath::kDeviceMemory && put.path == DataPath::kSharedMemory;
    EXPECT_TRUE(put.path == GetParam().path || replacing);
    ExpectRawBytes(put.sent_bytes);
  }
  void ExpectEverythingBack() {
    auto get = space_->GetBlocks(GetRequest());
    // A region that a call left behind is being replaced; meanwhile there is the next path.
    while (get.usable == keys_.size() && GetParam().path == DataPath::kDeviceMemory &&
           get.path == DataPath::kSharedMemory) {
      get = space_->GetBlocks(GetRequest());
    }
    ASSERT_EQ(get.usable, keys_.size()) << get.status;
    EXPECT_EQ(get.path, GetParam().path);
    ExpectRawBytes(get.received_bytes);
    EXPECT_TRUE(got_ == blocks_);
  }
  // Of a space with codec raw, whose encoded planes have a small table more.
  void ExpectRawBytes(uint64_t bytes) {
    const uint64_t raw = keys_.size() * space_->layout().raw_bytes();
    EXPECT_GE(bytes, raw);
    EXPECT_LE(bytes, GetParam().worker_codes || GetParam().device_encodes ? raw + raw / 100 : raw);
  }

  const std::shared_ptr<FakeWorkerGpu> gpu_ = std::make_shared<FakeWorkerGpu>();
  std::unique_ptr<Client> client_;
  std::shared_ptr<Space> space_;
  std::vector<BlockKey> keys_;
  std::vector<Planes> blocks_, got_;
};
INSTANTIATE_TEST_SUITE_P(Paths, TransportTest, AllWays(), ::testing::PrintToStringParamName());
// Puts out of device memory, encoded there.
INSTANTIATE_TEST_SUITE_P(DeviceEncoding, TransportTest,
                         ::testing::Values(Way{.path = DataPath::kGrpc, .device_encodes = true},
                                           Way{.path = DataPath::kSharedMemory,
                                               .device_encodes = true}),
                         ::testing::PrintToStringParamName());
INSTANTIATE_TEST_SUITE_P(DevicePath, TransportTest,
                         ::testing::Values(Way{DataPath::kDeviceMemory},
                                           Way{DataPath::kDeviceMemory, true}),
                         ::testing::PrintToStringParamName());

TEST_P(TransportTest, GivesBackWhatWasPut) {
  PutAll();
  ExpectEverythingBack();
  EXPECT_EQ(client_->health().path, GetParam().path);
}

TEST_P(TransportTest, LossyBlocksStayWithinTheirReport) {
  Open(Spec(CodecId::kEOptShrinkQ), 3);
  const auto put = space_->PutBlocks(OnItsPath(PutRequest()));
  ASSERT_EQ(put.stored, 3u) << put.status;
  ASSERT_EQ(space_->GetBlocks(GetRequest()).usable, 3u);
  for (size_t b = 0; b < 3; ++b) {
    for (const PlaneSpec& plane : space_->layout().planes()) {
      const Fidelity& told = plane.kind == PlaneKind::kK ? put.blocks[b].k : put.blocks[b].v;
      EXPECT_LE(Nmse(blocks_[b][Index(plane)], got_[b][Index(plane)]), told.worst_nmse * 1.01);
    }
  }
}

TEST_P(TransportTest, LayersComeInOrderAndOnlyThoseAskedFor) {
  PutAll();
  GetBlocksRequest request = GetRequest();
  request.layers = {0, 2};
  std::vector<uint32_t> layers;
  request.on_layer = [&](uint32_t layer, size_t usable) {
    EXPECT_EQ(usable, 3u);
    layers.push_back(layer);
  };
  EXPECT_EQ(space_->GetBlocks(request).usable, 3u);
  EXPECT_EQ(layers, (std::vector<uint32_t>{0, 2}));
  for (const PlaneSpec& plane : space_->layout().planes()) {
    EXPECT_EQ(got_[2][Index(plane)].empty(), plane.layer == 1);
  }
}

// Some fit a slot, some do not, some have odd sizes; in one call and in this order.
TEST_P(TransportTest, PlanesOfEverySize) {
  SpaceSpec spec = Spec(CodecId::kRaw);
  spec.groups.clear();
  uint32_t layer = 0;
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{9} << 20, uint64_t{65}, uint64_t{4} << 20,
                               (uint64_t{4} << 20) + 1, uint64_t{3} << 20, uint64_t{4095}}) {
    LayerGroup group;
    group.layers = {layer++};
    group.kind = LayerGroup::Kind::kOpaque;
    group.opaque_bytes = bytes;
    spec.groups.push_back(group);
  }
  Open(spec, 2);
  PutAll();
  ExpectEverythingBack();
}

TEST_P(TransportTest, PlanesAreFilledAndTakenInPlace) {
  PutBlocksRequest put = PutRequest();
  put.source = nullptr;
  put.fill = [this](const PlaneSpec& plane, size_t block, std::span<std::byte> to) {
    EXPECT_EQ(to.size(), plane.raw_bytes);
    std::copy_n(blocks_[block][Index(plane)].begin(), to.size(), to.begin());
    return true;
  };
  ASSERT_EQ(space_->PutBlocks(put).stored, 3u);
  GetBlocksRequest get = GetRequest();
  get.destination = nullptr;
  get.device = nullptr;
  get.take = [this](const PlaneSpec& plane, size_t block, std::span<const std::byte> from) {
    got_[block][Index(plane)].assign(from.begin(), from.end());
  };
  EXPECT_EQ(space_->GetBlocks(get).usable, 3u);
  EXPECT_TRUE(got_ == blocks_);
}

TEST_P(TransportTest, FillThatGivesUpStoresNothing) {
  PutBlocksRequest put = PutRequest();
  put.source = nullptr;
  put.fill = [](const PlaneSpec& plane, size_t, std::span<std::byte>) { return plane.layer == 0; };
  const auto result = space_->PutBlocks(put);
  EXPECT_EQ(result.stored, 0u);
  EXPECT_EQ(result.status.code(), absl::StatusCode::kCancelled);
  PutAll();  // nothing is pending, and the path works as before
  ExpectEverythingBack();
}

TEST_P(TransportTest, RequestsThatCannotBe) {
  PutBlocksRequest put = PutRequest();
  put.fill = [](const PlaneSpec&, size_t, std::span<std::byte>) { return true; };
  EXPECT_EQ(space_->PutBlocks(put).status.code(), absl::StatusCode::kInvalidArgument);
  put.fill = nullptr;
  put.source = nullptr;
  EXPECT_EQ(space_->PutBlocks(put).status.code(), absl::StatusCode::kInvalidArgument);
  GetBlocksRequest get = GetRequest();
  get.take = [](const PlaneSpec&, size_t, std::span<const std::byte>) {};
  EXPECT_EQ(space_->GetBlocks(get).status.code(), absl::StatusCode::kInvalidArgument);
}

// More calls at a time than there are slots.
TEST_P(TransportTest, ManyCallsAtATime) {
  constexpr size_t kThreads = 10;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const auto keys =
          space_->Keys(std::vector<uint32_t>(3 * 128, static_cast<uint32_t>(100 + t)));
      PutBlocksRequest put = PutRequest();
      put.keys = keys;
      for (int round = 0; round < 5; ++round) {
        wrong += space_->PutBlocks(OnItsPath(put)).stored != (round == 0 ? 3 : 0);
        std::vector<Planes> got(3, Planes(blocks_[0].size()));
        GetBlocksRequest get;
        get.keys = keys;
        get.destination = [&](const PlaneSpec& plane, size_t block) {
          got[block][Index(plane)].resize(plane.raw_bytes);
          return std::span(got[block][Index(plane)]);
        };
        get = OnItsPath(std::move(get));
        wrong += space_->GetBlocks(get).usable != 3 || got != blocks_;
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong, 0);
}

TEST_P(TransportTest, DamageIsToldAndNeverDelivered) {
  PutAll();
  // Far into the first record of the tier, which begins at its first page.
  static const Allocation first = {{0, 16}};
  std::byte byte{};
  ASSERT_TRUE(daemon_->host_tier().Read(first, 40'000, {&byte, 1}).ok());
  byte ^= std::byte{0x40};
  ASSERT_TRUE(daemon_->host_tier().Write(first, 40'000, {&byte, 1}).ok());
  const auto get = space_->GetBlocks(GetRequest());
  EXPECT_LT(get.usable, keys_.size());
  EXPECT_EQ(get.status.code(), absl::StatusCode::kDataLoss) << get.status;
  for (size_t b = 0; b < get.usable; ++b) EXPECT_TRUE(got_[b] == blocks_[b]);
  // And the path goes on.
  PutBlocksRequest again = PutRequest();
  EXPECT_EQ(space_->PutBlocks(again).status, absl::OkStatus());
  ExpectEverythingBack();
}

TEST_P(TransportTest, PrefetchIsAHint) {
  space_->Prefetch(keys_);  // nothing is there, and there is one tier
  PutAll();
  space_->Prefetch(keys_);
  ExpectEverythingBack();
}

// ---- Started calls ----

TEST_P(TransportTest, StartedPutTakesLayersAsTheyAreDone) {
  std::atomic<int> asked_early{0};
  std::atomic<int64_t> ready{-1};
  PutBlocksRequest request = PutRequest();
  const auto source = request.source;
  request.source = [&](const PlaneSpec& plane, size_t block) {
    asked_early += plane.layer > ready;
    return source(plane, block);
  };
  auto put = space_->StartPut(OnItsPath(request));
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    EXPECT_FALSE(put->done());
    ready = layer;
    put->LayerReady(layer);
  }
  EXPECT_EQ(put->Wait().stored, 3u) << put->Wait().status;
  EXPECT_TRUE(put->done());
  EXPECT_EQ(asked_early, 0);
  ExpectEverythingBack();
}

TEST_P(TransportTest, StartedPutGivenUpLeavesNothing) {
  auto put = space_->StartPut(OnItsPath(PutRequest()));
  put->LayerReady(0);
  put->Cancel();
  EXPECT_TRUE(put->done());
  EXPECT_EQ(put->Wait().stored, 0u);
  EXPECT_EQ(put->Wait().status.code(), absl::StatusCode::kCancelled) << put->Wait().status;
  EXPECT_EQ(space_->Lookup(keys_).blocks, 0u);
  PutAll();
  ExpectEverythingBack();
}

TEST_P(TransportTest, StartedPutEndsByItsDeadline) {
  PutBlocksRequest request = PutRequest();
  request.deadline = absl::Milliseconds(50);
  auto put = space_->StartPut(OnItsPath(request));  // no layer is ever ready
  EXPECT_EQ(put->Wait().stored, 0u);
  EXPECT_EQ(put->Wait().status.code(), absl::StatusCode::kDeadlineExceeded) << put->Wait().status;
}

TEST_P(TransportTest, StartedGetTellsOfItsEnd) {
  PutAll();
  absl::Notification done;
  size_t usable = 0;
  auto get = space_->StartGet(GetRequest(), [&](const GetBlocksResult& result) {
    usable = result.usable;
    done.Notify();
  });
  done.WaitForNotification();
  EXPECT_EQ(usable, 3u);
  EXPECT_EQ(get->Wait().usable, 3u);
  EXPECT_TRUE(got_ == blocks_);
}

// Once Cancel has returned, nothing is written any more.
TEST_P(TransportTest, StartedGetGivenUpTouchesNothing) {
  Open(Spec(CodecId::kRaw), 40);
  PutAll();
  GetBlocksRequest request = GetRequest();
  const auto destination = [this](const PlaneSpec& plane, size_t block) {
    got_[block][Index(plane)].resize(plane.raw_bytes);
    return std::span(got_[block][Index(plane)]);
  };
  absl::Notification began, go_on;
  request.device = nullptr;
  request.destination = [&](const PlaneSpec& plane, size_t block) {
    if (!began.HasBeenNotified()) {
      began.Notify();
      go_on.WaitForNotification();
    }
    return destination(plane, block);
  };
  auto get = space_->StartGet(OnItsPath(std::move(request)));
  began.WaitForNotification();
  std::thread canceller([&] { get->Cancel(); });
  go_on.Notify();
  canceller.join();
  EXPECT_TRUE(get->done());
  const auto before = got_;
  PutBlocksRequest other = PutRequest();
  other.keys = space_->Keys(std::vector<uint32_t>(128, 3));
  EXPECT_EQ(space_->PutBlocks(other).stored, 1u);
  EXPECT_TRUE(got_ == before);
  get.reset();
  ExpectEverythingBack();
}

TEST_P(TransportTest, DroppingAStartedCallGivesItUp) {
  {
    auto put = space_->StartPut(OnItsPath(PutRequest()));
    put->LayerReady(0);
  }
  EXPECT_EQ(space_->Lookup(keys_).blocks, 0u);
  PutAll();
}

// Those in line need not wait for those before them, which wait for their layers.
TEST_P(TransportTest, ACallInLineCanBeGivenUpAndHasItsDeadline) {
  std::vector<std::unique_ptr<OngoingPut>> busy;
  for (int i = 0; i < 2; ++i) busy.push_back(space_->StartPut(PutRequest()));
  auto given_up = space_->StartPut(PutRequest());
  given_up->Cancel();
  EXPECT_EQ(given_up->Wait().status.code(), absl::StatusCode::kCancelled);
  PutBlocksRequest late = PutRequest();
  late.deadline = absl::Milliseconds(20);
  EXPECT_EQ(space_->StartPut(late)->Wait().status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(busy[0]->done());
  EXPECT_FALSE(busy[1]->done());
}

// A miss costs nothing: the next call takes the same path.
TEST_P(TransportTest, AMissKeepsThePath) {
  EXPECT_EQ(space_->GetBlocks(GetRequest()).usable, 0u);
  const auto put = space_->PutBlocks(OnItsPath(PutRequest()));
  EXPECT_EQ(put.stored, 3u);
  const auto again = space_->PutBlocks(OnItsPath(PutRequest()));
  EXPECT_EQ(again.existed, 3u);
  EXPECT_EQ(again.path, GetParam().path);
}

TEST_P(TransportTest, TooManyStartedPutsAreShed) {
  std::vector<std::unique_ptr<OngoingPut>> puts;
  size_t shed = 0;
  for (int i = 0; i < 30; ++i) puts.push_back(space_->StartPut(PutRequest()));
  for (auto& put : puts) {
    if (!put->done()) continue;
    EXPECT_EQ(put->Wait().status.code(), absl::StatusCode::kResourceExhausted);
    ++shed;
  }
  EXPECT_GE(shed, 20u);  // eight in line, two on their way
  // Gets have threads of their own.
  EXPECT_TRUE(space_->StartGet(GetRequest())->Wait().status.ok());
}

// ---- Device memory ----

// An engine's own DeviceKv that was written for Gets.
class OnlyScatters final : public DeviceKv {
 public:
  absl::Status Scatter(std::span<const ArrivedPlane>) override { return absl::OkStatus(); }
  absl::Status ScatterFromHost(const PlaneSpec&, size_t, std::span<const std::byte>) override {
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> Mark() override { return 1; }
  absl::StatusOr<bool> Passed(uint64_t) override { return true; }
};

class DeviceMemoryTest : public TransportTest {
 protected:
  std::shared_ptr<FakeDeviceKv> NewKv(int lag = 0) {
    return TransportTest::NewKv(
        [this](const PlaneSpec& plane, size_t block) {
          got_[block][Index(plane)].resize(plane.raw_bytes);
          return std::span(got_[block][Index(plane)]);
        },
        lag);
  }
  std::shared_ptr<FakeDeviceKv> NewSource(int lag = 0) {
    return std::make_shared<FakeDeviceKv>(
        FakeDeviceKv::Source([this](const PlaneSpec& plane, size_t block) {
          return std::span<const std::byte>(blocks_[block][Index(plane)]);
        }),
        lag);
  }
  PutBlocksRequest PutOf(std::shared_ptr<DeviceKv> kv) {
    PutBlocksRequest request;
    request.keys = keys_;
    request.device = std::move(kv);
    return request;
  }
  GetBlocksRequest Request(std::shared_ptr<DeviceKv> kv) {
    GetBlocksRequest request;
    request.keys = keys_;
    request.device = std::move(kv);
    return request;
  }
};
INSTANTIATE_TEST_SUITE_P(Device, DeviceMemoryTest,
                         ::testing::Values(Way{DataPath::kDeviceMemory},
                                           Way{DataPath::kDeviceMemory, true}),
                         ::testing::PrintToStringParamName());

// Layers are told when they have landed, not when they were enqueued.
TEST_P(DeviceMemoryTest, LayersAreToldWhenTheyHaveLanded) {
  PutAll();
  GetBlocksRequest request = Request(NewKv(/*lag=*/50));
  size_t told = 0;
  request.on_layer = [&](uint32_t layer, size_t usable) {
    ++told;
    for (const PlaneSpec& plane : space_->layout().planes()) {
      if (plane.layer != layer) continue;
      for (size_t b = 0; b < usable; ++b) {
        EXPECT_TRUE(got_[b][Index(plane)] == blocks_[b][Index(plane)]) << layer << " " << b;
      }
    }
  };
  EXPECT_EQ(space_->GetBlocks(request).usable, 3u);
  EXPECT_EQ(told, kLayers);
}

// The engine's stream is busy with something else: the Get ends by its deadline, and nothing that
// it did not finish counts.
TEST_P(DeviceMemoryTest, AStreamThatNeverComesToTheCopiesEndsTheGet) {
  PutAll();
  auto kv = NewKv();
  kv->set_stuck();
  GetBlocksRequest request = Request(kv);
  request.deadline = absl::Milliseconds(100);
  const auto get = space_->GetBlocks(request);
  EXPECT_EQ(get.usable, 0u);
  EXPECT_EQ(get.status.code(), absl::StatusCode::kDeadlineExceeded) << get.status;
  ExpectEverythingBack();  // in another region
}

TEST_P(DeviceMemoryTest, PutsComeOutOfDeviceMemory) {
  auto kv = NewSource(/*lag=*/20);
  const auto put = space_->PutBlocks(PutOf(kv));
  EXPECT_EQ(put.stored, 3u) << put.status;
  EXPECT_EQ(put.path, DataPath::kDeviceMemory);
  EXPECT_EQ(kv->to_host(), 0u);
  ExpectEverythingBack();
}

TEST_P(DeviceMemoryTest, AStreamThatNeverComesToTheGatheringEndsThePut) {
  auto kv = NewSource();
  kv->set_stuck();
  PutBlocksRequest request = PutOf(kv);
  request.deadline = absl::Milliseconds(100);
  const auto put = space_->PutBlocks(request);
  EXPECT_EQ(put.stored, 0u);
  EXPECT_EQ(put.status.code(), absl::StatusCode::kDeadlineExceeded) << put.status;
  // Given up by its owner it ends at once.
  request.deadline = absl::Seconds(60);
  auto started = space_->StartPut(request);
  started->LayerReady(kLayers);
  started->Cancel();
  EXPECT_EQ(started->Wait().status.code(), absl::StatusCode::kCancelled);
  PutAll();
  ExpectEverythingBack();
}

// The same bytes as when the values come through host memory.
TEST_P(DeviceMemoryTest, PutsAreStoredAsThoseOfTheHost) {
  Open(Spec(CodecId::kEOptShrinkQ), 3);
  const auto on_device = space_->PutBlocks(PutOf(NewSource()));
  ASSERT_EQ(on_device.stored, 3u) << on_device.status;
  EXPECT_EQ(on_device.path, DataPath::kDeviceMemory);
  ASSERT_EQ(space_->GetBlocks(GetRequest()).usable, 3u);
  const auto got = got_;
  ASSERT_TRUE(space_->DropAll().ok());
  const auto on_host = space_->PutBlocks(PutRequest());
  ASSERT_EQ(on_host.stored, 3u) << on_host.status;
  for (size_t b = 0; b < 3; ++b) {
    EXPECT_EQ(on_device.blocks[b].record_bytes, on_host.blocks[b].record_bytes);
    EXPECT_EQ(on_device.blocks[b].k.nmse, on_host.blocks[b].k.nmse);
    EXPECT_EQ(on_device.blocks[b].v.nmse, on_host.blocks[b].v.nmse);
  }
  ASSERT_EQ(space_->GetBlocks(GetRequest()).usable, 3u);
  EXPECT_TRUE(got_ == got);
}

TEST_P(DeviceMemoryTest, WhatCannotGatherStoresNothing) {
  const auto kv = std::make_shared<OnlyScatters>();
  const auto put = space_->PutBlocks(PutOf(kv));
  EXPECT_EQ(put.stored, 0u);
  EXPECT_EQ(put.status.code(), absl::StatusCode::kUnimplemented) << put.status;
  PutAll();
  ExpectEverythingBack();
}

TEST_P(DeviceMemoryTest, PutsTakeTheNextPathWithoutDeviceMemory) {
  ClientOptions options = Options(GetParam().path);
  options.gpu = std::make_shared<FakeWorkerGpu>(SideChannelUuid{'o', 't', 'h', 'e', 'r'});
  client_ = Client::Create(options);
  space_ = *client_->OpenSpace(Spec(CodecId::kRaw));
  auto kv = NewSource();
  const auto put = space_->PutBlocks(PutOf(kv));
  EXPECT_EQ(put.stored, 3u) << put.status;
  EXPECT_EQ(put.path, DataPath::kSharedMemory);
  EXPECT_EQ(kv->to_host(), 3 * space_->layout().planes().size());
}

TEST_P(DeviceMemoryTest, MoreThanTheSlotHolds) {
  config_.staging.device_session_bytes = 2 << 20;
  daemon_.reset();
  StartDaemon();
  Connect(GetParam().path, Spec(CodecId::kRaw), 40);  // 10 MB, slots of one
  PutAll();
  ExpectEverythingBack();
}

TEST_P(DeviceMemoryTest, KvInDeviceMemoryTakesTheNextPathWithoutIt) {
  PutAll();
  ClientOptions options = Options(GetParam().path);
  options.gpu = std::make_shared<FakeWorkerGpu>(SideChannelUuid{'o', 't', 'h', 'e', 'r'});
  client_ = Client::Create(options);
  space_ = *client_->OpenSpace(Spec(CodecId::kRaw));
  auto kv = NewKv();
  const auto get = space_->GetBlocks(Request(kv));
  EXPECT_EQ(get.usable, 3u) << get.status;
  EXPECT_EQ(get.path, DataPath::kSharedMemory);
  EXPECT_EQ(kv->from_host(), 3 * space_->layout().planes().size());
  EXPECT_TRUE(got_ == blocks_);
  EXPECT_THAT(std::string(client_->health().no_device_memory.message()),
              HasSubstr("another one than the daemon's"));
}

TEST_P(DeviceMemoryTest, MemoryThatIsNotTheSameIsNotUsed) {
  PutAll();
  gpu_->set_blind(true);
  client_ = Client::Create(Options(GetParam().path));
  space_ = *client_->OpenSpace(Spec(CodecId::kRaw));
  EXPECT_EQ(space_->GetBlocks(Request(NewKv())).path, DataPath::kSharedMemory);
  EXPECT_THAT(std::string(client_->health().no_device_memory.message()), HasSubstr("does not see"));
}

TEST_P(DeviceMemoryTest, ADaemonWithoutAGpuSaysSo) {
  daemon_.reset();
  config_.device = DaemonConfig::Device::kCpu;
  StartDaemon();
  Connect(GetParam().path);
  PutAll();
  EXPECT_EQ(space_->GetBlocks(Request(NewKv())).path, DataPath::kSharedMemory);
  EXPECT_THAT(std::string(client_->health().no_device_memory.message()), HasSubstr("no GPU"));
}

TEST_P(DeviceMemoryTest, KvOnTheHostCannotTakeIt) {
  ClientOptions options = Options(GetParam().path);
  options.path = DataPath::kDeviceMemory;
  client_ = Client::Create(options);
  space_ = *client_->OpenSpace(Spec(CodecId::kRaw));
  const auto put = space_->PutBlocks(PutRequest());
  EXPECT_EQ(put.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(put.status.message()), HasSubstr("not in device memory"));
}

// A region a session, given back with it.
TEST_P(DeviceMemoryTest, SessionsThatEndGiveTheirMemoryBack) {
  PutAll();
  config_.staging.device_budget_bytes = 2 * config_.staging.device_session_bytes;
  daemon_.reset();
  StartDaemon();
  for (int i = 0; i < 20; ++i) {
    Connect(GetParam().path);
    PutAll();
    // The daemon notices the end of the client before by itself, in its own time.
    while (client_->health().path != DataPath::kDeviceMemory) {
      client_ = Client::Create(Options(GetParam().path));
      space_ = *client_->OpenSpace(Spec(CodecId::kRaw));
      space_->Lookup(keys_);
    }
    ExpectEverythingBack();
    space_->DropAll().IgnoreError();
  }
}

// ---- The choice of the path ----

class PathChoiceTest : public TransportTest {
 protected:
  void SetUp() override {}
};
INSTANTIATE_TEST_SUITE_P(Auto, PathChoiceTest, ::testing::Values(Way{DataPath::kAuto}));

TEST_P(PathChoiceTest, TakesSharedMemoryWhereItCan) {
  StartDaemon();
  Connect(DataPath::kAuto);
  const auto put = space_->PutBlocks(PutRequest());
  EXPECT_EQ(put.path, DataPath::kSharedMemory) << client_->health().no_shared_memory;
}

TEST_P(PathChoiceTest, SaysWhyNot) {
  config_.staging.budget_bytes = 0;
  StartDaemon();
  Connect(DataPath::kAuto);
  EXPECT_EQ(space_->PutBlocks(PutRequest()).path, DataPath::kGrpc);
  EXPECT_EQ(client_->health().path, DataPath::kGrpc);
  EXPECT_THAT(std::string(client_->health().no_shared_memory.message()),
              HasSubstr("nobody offers shared memory"));
}

TEST_P(PathChoiceTest, NotOverTcp) {
  config_.rpc.tcp_address = "127.0.0.1:0";
  config_.rpc.unix_socket = "";
  config_.staging.budget_bytes = 0;
  StartDaemon();
  Connect(DataPath::kAuto);
  EXPECT_EQ(space_->PutBlocks(PutRequest()).path, DataPath::kGrpc);
  EXPECT_THAT(std::string(client_->health().no_shared_memory.message()), HasSubstr("Unix socket"));
}

TEST_P(PathChoiceTest, ANamedPathIsTakenOrTheCallMisses) {
  config_.staging.budget_bytes = 0;
  StartDaemon();
  Connect(DataPath::kSharedMemory);
  const auto put = space_->PutBlocks(PutRequest());
  EXPECT_EQ(put.stored, 0u);
  EXPECT_EQ(put.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(put.status.message()), HasSubstr("no shared memory"));
  EXPECT_EQ(space_->Lookup(keys_).status, absl::OkStatus());
}

TEST_P(PathChoiceTest, AFullBudgetLeavesTheStream) {
  config_.staging.budget_bytes = config_.staging.session_bytes;
  StartDaemon();
  const auto first = Client::Create(Options(DataPath::kSharedMemory));
  const auto first_space = *first->OpenSpace(Spec(CodecId::kRaw));
  EXPECT_EQ(first_space->Lookup(first_space->Keys(std::vector<uint32_t>(128, 1))).status,
            absl::OkStatus());
  Connect(DataPath::kAuto);
  EXPECT_EQ(space_->PutBlocks(PutRequest()).path, DataPath::kGrpc);
  EXPECT_THAT(std::string(client_->health().no_shared_memory.message()), HasSubstr("staging"));
}

}  // namespace
}  // namespace kvstow::testing
