// What PagedDeviceKv and the worker's GPU do beside an engine: its graph captures go on, a stream
// that is late keeps nobody, and a Get hears nothing of the one before.
#include <unistd.h>

#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/worker_gpu.h"
#include "client_cuda/kvstow/cuda.h"
#include "gpu/cuda_handles.h"
#include "gpu/shared_memory.h"
#include "gpu/staging.h"
#include "gtest/gtest.h"

namespace kvstow {
namespace {

constexpr uint32_t kTokens = 128, kPageTokens = 16;

SpaceSpec Spec() {
  SpaceSpec spec;
  spec.model = {"paged-device-kv-test", "", ""};
  spec.groups = {{.layers = {0},
                  .kv_heads = 2,
                  .k_dim = 64,
                  .v_dim = 64,
                  .dtype = DType::kFp16,
                  .rotary = {}}};
  return spec;
}

// Keeps a stream from going on.
class Obstacle {
 public:
  explicit Obstacle(cudaStream_t stream) {
    EXPECT_EQ(
        cudaLaunchHostFunc(
            stream, [](void* self) { static_cast<Obstacle*>(self)->gone_.WaitForNotification(); },
            this),
        cudaSuccess);
  }
  void Remove() { gone_.Notify(); }

 private:
  absl::Notification gone_;
};

class PagedDeviceKvTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto gpu = OpenWorkerGpu(0);
    if (!gpu.ok()) GTEST_SKIP() << "no GPU: " << gpu.status();
    gpu_ = *std::move(gpu);
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_TRUE(cache_.Reserve(plane().raw_bytes).ok());
    values_.resize(plane().raw_bytes);
    for (size_t i = 0; i < values_.size(); ++i) values_[i] = static_cast<std::byte>(i * 7);
  }
  void TearDown() override {
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  }

  const PlaneSpec& plane() const { return layout_.planes()[0]; }
  std::shared_ptr<PagedDeviceKv> MakeKv(const PlaneLayout* decode = nullptr) {
    auto kv = PagedDeviceKv::Create({.device = 0, .stream = stream_, .decode = decode});
    EXPECT_TRUE(kv.ok()) << kv.status();
    SetPages(kv->get());
    return *kv;
  }
  void SetPages(PagedDeviceKv* kv) {
    std::vector<uint32_t> pages;
    for (uint32_t i = 0; i < kTokens / kPageTokens; ++i) pages.push_back(i);
    const auto of_plane = [this](const PlaneSpec& p) {
      return PagedKv::Nhd(cache_.data(), p, kPageTokens, p.raw_bytes / (kTokens / kPageTokens));
    };
    const absl::Status set = kv->SetPages({of_plane, {pages}});
    EXPECT_TRUE(set.ok()) << set;
  }
  static absl::Status Await(DeviceKv* kv) {
    const auto mark = kv->Mark();
    if (!mark.ok()) return mark.status();
    for (;;) {
      const auto passed = kv->Passed(*mark);
      if (!passed.ok()) return passed.status();
      if (*passed) return absl::OkStatus();
    }
  }
  // One plane to the pages and back.
  void RoundTrip(DeviceKv* kv) {
    absl::Status s = kv->ScatterFromHost(plane(), 0, values_);
    EXPECT_TRUE(s.ok()) << s;
    s = Await(kv);
    EXPECT_TRUE(s.ok()) << s;
    std::vector<std::byte> back(plane().raw_bytes);
    s = kv->GatherToHost(plane(), 0, back);
    EXPECT_TRUE(s.ok()) << s;
    EXPECT_TRUE(back == values_);
  }
  static void WaitForStream(cudaStream_t stream) {
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  }

  const PlaneLayout layout_ = *PlaneLayout::Create(Spec(), {});
  std::shared_ptr<WorkerGpu> gpu_;
  cudaStream_t stream_ = nullptr;
  gpu::DeviceBuffer cache_;
  std::vector<std::byte> values_;
};

// Whether a capture goes on beside `work`, which another thread does.
template <typename Work>
cudaError_t CaptureBeside(unsigned stream_flags, Work work) {
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, stream_flags), cudaSuccess);
  EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  std::thread(work).join();
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  if (graph != nullptr) (void)cudaGraphDestroy(graph);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  return ended;
}

TEST_F(PagedDeviceKvTest, CallsLeaveCapturesAlone) {
  for (unsigned flags : {cudaStreamDefault, cudaStreamNonBlocking}) {
    const auto kv = MakeKv();
    EXPECT_EQ(CaptureBeside(flags,
                            [&] {
                              RoundTrip(kv.get());
                              SetPages(kv.get());
                              RoundTrip(kv.get());
                            }),
              cudaSuccess)
        << flags;
  }
}

TEST_F(PagedDeviceKvTest, ItsWholeLifeLeavesCapturesAlone) {
  EXPECT_EQ(CaptureBeside(cudaStreamNonBlocking, [&] { RoundTrip(MakeKv().get()); }), cudaSuccess);
}

class RegionTest : public PagedDeviceKvTest {
 protected:
  void SetUp() override {
    PagedDeviceKvTest::SetUp();
    if (IsSkipped()) return;
    auto made = gpu::SharedMapping::Create(0, size_t{2} << 20);
    ASSERT_TRUE(made.ok()) << made.status();
    made_ = *std::move(made);
    for (size_t i = 0; i < probe_.bytes.size(); ++i) probe_.bytes[i] = static_cast<uint8_t>(i + 1);
    ASSERT_EQ(cudaMemcpy(made_.bytes().data(), probe_.bytes.data(), probe_.bytes.size(),
                         cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  std::unique_ptr<WorkerGpuRegion> Import() {
    auto region = gpu_->Import(OwnedFd(dup(made_.descriptor())), made_.bytes().size(), probe_);
    EXPECT_TRUE(region.ok()) << region.status();
    return region.ok() ? *std::move(region) : nullptr;
  }

  gpu::SharedMapping made_;
  StagingProbe probe_;
};

TEST_F(RegionTest, AnswersTheProbe) {
  const auto region = Import();
  const StagingProbe expected = probe_.Answer();
  StagingProbe found;
  ASSERT_EQ(cudaMemcpy(found.bytes.data(), made_.bytes().data() + found.bytes.size(),
                       found.bytes.size(), cudaMemcpyDeviceToHost),
            cudaSuccess);
  EXPECT_TRUE(found == expected);
}

// The client's own thread makes and ends regions whenever a session begins, or a call is given up.
TEST_F(RegionTest, ComesAndGoesBesideACapture) {
  for (unsigned flags : {cudaStreamDefault, cudaStreamNonBlocking}) {
    EXPECT_EQ(CaptureBeside(flags, [&] { Import().reset(); }), cudaSuccess) << flags;
  }
}

TEST_F(RegionTest, StaysUntilTheDeviceHasPassedWhatUsesIt) {
  auto region = Import();
  Obstacle obstacle(stream_);
  ASSERT_EQ(cudaMemsetAsync(region->bytes().data() + (size_t{1} << 20), 1, 1 << 10, stream_),
            cudaSuccess);
  absl::Notification gone;
  std::thread end([&] {
    region.reset();
    gone.Notify();
  });
  EXPECT_FALSE(gone.WaitForNotificationWithTimeout(absl::Milliseconds(300)));
  obstacle.Remove();
  end.join();
  WaitForStream(stream_);
}

TEST_F(PagedDeviceKvTest, NothingWaitsForAStreamThatIsLate) {
  const auto kv = MakeKv();
  RoundTrip(kv.get());
  Obstacle obstacle(stream_);
  absl::Status enqueued;
  int planes = 0;
  for (; planes < 100 && enqueued.ok(); ++planes) {
    enqueued =
        planes % 2 == 0 ? kv->EnqueueToHost(plane(), 0) : kv->ScatterFromHost(plane(), 0, values_);
  }
  EXPECT_TRUE(absl::IsUnavailable(enqueued)) << enqueued;
  EXPECT_GT(planes, 4);
  const auto mark = kv->Mark();
  ASSERT_TRUE(mark.ok());
  EXPECT_FALSE(*kv->Passed(*mark));
  obstacle.Remove();
  EXPECT_TRUE(Await(kv.get()).ok());
  RoundTrip(kv.get());
}

TEST_F(PagedDeviceKvTest, APlaneIsTakenOnceItsMarkHasPassed) {
  const auto kv = MakeKv();
  RoundTrip(kv.get());
  std::vector<std::byte> back(plane().raw_bytes);
  EXPECT_TRUE(absl::IsFailedPrecondition(kv->TakeToHost(back)));
  ASSERT_TRUE(kv->EnqueueToHost(plane(), 0).ok());
  ASSERT_TRUE(Await(kv.get()).ok());
  ASSERT_TRUE(kv->TakeToHost(back).ok());
  EXPECT_TRUE(back == values_);
}

TEST_F(PagedDeviceKvTest, DamageOfTheGetBeforeIsForgotten) {
  const auto kv = MakeKv(&layout_);
  gpu::DeviceBuffer noise;
  ASSERT_TRUE(noise.Reserve(values_.size()).ok());
  ASSERT_EQ(cudaMemcpy(noise.data(), values_.data(), values_.size(), cudaMemcpyHostToDevice),
            cudaSuccess);
  ArrivedPlane arrived;
  arrived.plane = &plane();
  arrived.bytes = noise.data();
  arrived.encoded_bytes = 4096;
  arrived.crc32c = 12345;
  const auto scatter = [&] { return kv->Scatter({&arrived, 1}); };

  ASSERT_TRUE(kv->BeginGet().ok());
  ASSERT_TRUE(scatter().ok());
  ASSERT_TRUE(Await(kv.get()).ok());
  EXPECT_EQ(kv->TakeDamage().size(), 1u);

  ASSERT_TRUE(scatter().ok());
  ASSERT_TRUE(Await(kv.get()).ok());  // known, and not taken
  ASSERT_TRUE(scatter().ok());        // on its way
  ASSERT_TRUE(kv->BeginGet().ok());
  ASSERT_TRUE(Await(kv.get()).ok());
  EXPECT_TRUE(kv->TakeDamage().empty());

  ASSERT_TRUE(scatter().ok());
  ASSERT_TRUE(Await(kv.get()).ok());
  EXPECT_EQ(kv->TakeDamage().size(), 1u) << "of this one it is told";
}

}  // namespace
}  // namespace kvstow
