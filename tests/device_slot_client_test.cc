// A slot in device memory after a Get that ended early, with a real daemon and a GPU that is made
// of host memory: it is not lent again while the engine's stream may still read it.
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "kvstow/client.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/eventually.h"
#include "tests/testing/fake_worker_gpu.h"
#include "tests/testing/put_past_pending.h"

namespace kvstow::testing {
namespace {

SpaceSpec Spec() {
  SpaceSpec spec;
  spec.model = {"device-slot-client-test", "", ""};
  spec.groups = {{.layers = {0, 1},
                  .kv_heads = 2,
                  .k_dim = 64,
                  .v_dim = 64,
                  .dtype = DType::kFp16,
                  .rotary = {}}};
  spec.codec.codec = CodecId::kRaw;
  return spec;
}

class DeviceSlotClientTest : public DaemonTest {
 protected:
  void SetUp() override {
    config_.device = DaemonConfig::Device::kCuda;
    config_.gpu_plugin = FAKE_PLUGIN;
    StartDaemon();
    ClientOptions options;
    options.target = target();
    options.gpu = gpu_;
    options.connect_wait = options.lookup_deadline = absl::Seconds(60);
    client_ = Client::Create(options);
    space_ = *client_->OpenSpace(Spec());
    keys_ = space_->Keys(std::vector<uint32_t>(space_->layout().spec().block_tokens, 7));
    values_.resize(space_->layout().planes()[0].raw_bytes, std::byte{1});
  }
  void TearDown() override {
    space_.reset();
    client_.reset();
    daemon_.reset();
  }
  std::shared_ptr<FakeDeviceKv> NewKv() {
    return std::make_shared<FakeDeviceKv>(FakeDeviceKv::Destination(
        [this](const PlaneSpec&, size_t) { return std::span<std::byte>(values_); }));
  }
  GetBlocksResult Get(std::shared_ptr<DeviceKv> kv, absl::Duration deadline) {
    GetBlocksRequest request;
    request.keys = keys_;
    request.device = std::move(kv);
    request.deadline = deadline;
    return space_->GetBlocks(request);
  }

  const std::shared_ptr<FakeWorkerGpu> gpu_ = std::make_shared<FakeWorkerGpu>();
  std::unique_ptr<Client> client_;
  std::shared_ptr<Space> space_;
  std::vector<BlockKey> keys_;
  std::vector<std::byte> values_;
};

// The daemon has sent everything and ended the call well; only the stream has not come that far.
TEST_F(DeviceSlotClientTest, IsLeftBehindWhileTheStreamReadsIt) {
  PutBlocksRequest put;
  put.keys = keys_;
  put.source = [this](const PlaneSpec&, size_t) { return std::span<const std::byte>(values_); };
  const auto stored = PutPastPending([&] { return space_->PutBlocks(put); });
  ASSERT_EQ(stored.stored, 1u) << stored.status;
  const auto first = Get(NewKv(), absl::Seconds(60));
  ASSERT_EQ(first.usable, 1u) << first.status;
  ASSERT_EQ(first.path, DataPath::kDeviceMemory) << client_->health().no_device_memory;
  EXPECT_EQ(gpu_->imports(), 1u);

  const auto kv = NewKv();
  kv->set_stuck();
  kv->set_breaks(10'000);  // after some tenths of a second
  const auto late = Get(kv, absl::Seconds(60));
  EXPECT_EQ(late.path, DataPath::kDeviceMemory);
  EXPECT_EQ(late.usable, 0u);
  EXPECT_EQ(late.status.code(), absl::StatusCode::kAborted) << late.status;
  EXPECT_TRUE(Eventually([&] { return gpu_->imports() == 2; })) << "the region is not replaced";
  EXPECT_EQ(Get(NewKv(), absl::Seconds(60)).usable, 1u);
}

}  // namespace
}  // namespace kvstow::testing
