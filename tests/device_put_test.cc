// Puts whose staging lies on a device, at the service, with a device that is none: what a client
// may say, in which order turns may run, and what is left when the device fails.
#include <cstring>
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gpu/api/testing/fake_device.h"
#include "gtest/gtest.h"
#include "server/core/service.h"
#include "server/core/testing/fake_clock.h"
#include "server/core/testing/fake_random.h"
#include "server/core/testing/memory_tier.h"
#include "server/core/testing/recording_stats.h"
#include "server/core/testing/step_executor.h"
#include "server/core/testing/store_fixture.h"
#include "server/core/tiled_plane_codec.h"
#include "server/tiers/device_write_lanes.h"
#include "space/fingerprint.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/memory_area.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;

constexpr size_t kBlocks = 2;

SpaceSpec Spec() {
  SpaceSpec spec;
  spec.model = {"device-put", "", ""};
  LayerGroup group;
  group.layers = {0, 1};
  group.kv_heads = 2;
  group.k_dim = group.v_dim = 64;
  spec.groups = {group};
  return spec;
}

class DevicePutTest : public ::testing::Test {
 protected:
  DevicePutTest() {
    for (size_t b = 0; b < kBlocks; ++b) blocks_.push_back(MakeBlock(layout_, b));
    plane_bytes_ = static_cast<uint32_t>(layout_.planes()[0].raw_bytes);
    area_ =
        std::make_shared<MemoryArea>(MemoryArea::Where::kOnDevice, kBlocks * layout_.raw_bytes());
    session_ = *service_.BeginSession(kDefaultTenant, "test");
    space_ = service_.OpenSpace(kDefaultTenant, session_->id(), Spec(), {})->handle;
    region_ = *session_->ShareStaging(area_);
  }
  std::shared_ptr<PutCall> Begin() {
    auto put = *service_.Put(kDefaultTenant, session_->id(), space_,
                             {{keys_[0], {}, 0}, {keys_[1], keys_[0], 128}}, {},
                             SlotClaim{region_, 0, area_->bytes().size()});
    put->SetOnConsumed([this](uint64_t segments) { consumed_ = segments; });
    return put;
  }
  // Each plane has a place of its own.
  PlaneSegment Stage(size_t plane, uint32_t block) {
    const PlaneSpec& spec = layout_.planes()[plane];
    const auto at = static_cast<uint32_t>((plane * kBlocks + block) * plane_bytes_);
    std::memcpy(area_->bytes().data() + at, blocks_[block][plane].data(), plane_bytes_);
    return {spec.layer, spec.kind, block, 0, plane_bytes_, plane_bytes_, at};
  }
  std::vector<PlaneSegment> StageAll() {
    std::vector<PlaneSegment> segments;
    for (size_t p = 0; p < layout_.planes().size(); ++p) {
      for (uint32_t b = 0; b < kBlocks; ++b) segments.push_back(Stage(p, b));
    }
    return segments;
  }
  size_t Lookup() {
    return service_.Lookup(kDefaultTenant, session_->id(), space_, keys_, "", {})->tiers.size();
  }
  absl::Status CommitStatus(PutCall& put) {
    absl::Status status = absl::UnknownError("not told");
    const absl::Status committed =
        put.Commit([&](absl::StatusOr<PutResults> results) { status = results.status(); });
    executor_.RunAll();
    return committed.ok() ? status : committed;
  }

  FakeClock clock_;
  FakeRandom random_;
  RecordingStats stats_;
  StepExecutor executor_{2};
  gpu::FakeDevice device_;
  MemoryTier tier_{256, 4096, 256};
  kvstow::Store store_{{}, {&tier_}, &clock_, &random_, &stats_};
  TiledPlaneCodec codec_{CpuCodec(), &executor_, &clock_, &stats_};
  DeviceWriteLanes lanes_{&device_, &executor_};
  Service service_{{},
                   {&store_, &codec_, &executor_, &clock_, &random_, &stats_, nullptr, &lanes_}};
  std::shared_ptr<MemoryArea> area_;
  std::shared_ptr<Session> session_;
  uint64_t space_ = 0;
  uint32_t region_ = 0, plane_bytes_ = 0;
  uint64_t consumed_ = 0;
  const PlaneLayout layout_ = *PlaneLayout::Create(Spec(), {});
  const std::vector<BlockKey> keys_ =
      KeysOf(RootKey(FingerprintOf(Spec()), {}), std::vector<uint32_t>(kBlocks * 128, 1), 128);
  std::vector<std::vector<std::vector<std::byte>>> blocks_;  // by block and plane
};

TEST_F(DevicePutTest, StoresWhatIsStagedAndSaysWhatItHasRead) {
  const auto put = Begin();
  const auto segments = StageAll();
  ASSERT_TRUE(put->AddStaged(std::span(segments).first(3)).ok());
  EXPECT_EQ(consumed_, 0u) << "nothing has been read yet";
  executor_.RunAll();
  EXPECT_EQ(consumed_, 3u);
  // What was read is the client's to write again.
  std::ranges::fill(area_->bytes(), std::byte{0x55});
  const auto rest = StageAll();
  ASSERT_TRUE(put->AddStaged(std::span(rest).subspan(3)).ok());
  EXPECT_TRUE(put->complete());
  EXPECT_TRUE(CommitStatus(*put).ok());
  EXPECT_EQ(consumed_, segments.size());
  EXPECT_EQ(Lookup(), kBlocks);
  EXPECT_STREQ(put->path(), "cuda");
}

TEST_F(DevicePutTest, TurnsMayEndInAnyOrder) {
  const auto put = Begin();
  const auto segments = StageAll();
  for (const PlaneSegment& segment : segments) ASSERT_TRUE(put->AddStaged({&segment, 1}).ok());
  executor_.RunAllBackwards();
  EXPECT_EQ(consumed_, segments.size());
  EXPECT_TRUE(CommitStatus(*put).ok());
  EXPECT_EQ(Lookup(), kBlocks);
}

TEST_F(DevicePutTest, RefusesWhatCannotBe) {
  const auto refused = [&](PlaneSegment segment, const char* why) {
    const auto put = Begin();
    const absl::Status status = put->AddStaged({&segment, 1});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
    put->Cancel();
  };
  PlaneSegment segment = Stage(0, 0);
  segment.length /= 2;
  refused(segment, "planes lie there whole");
  segment = Stage(0, 0);
  segment.staged_at = static_cast<uint32_t>(area_->bytes().size() - plane_bytes_ + 1);
  refused(segment, "of a staging slot of");
  segment.staged_at = ~uint32_t{0};
  refused(segment, "of a staging slot of");
  refused(Stage(1, 0), "out of order");
  refused(Stage(0, 1), "out of order");
  segment = Stage(0, 0);
  segment.length = segment.plane_bytes = 100;
  refused(segment, "layout says");
  // And the service goes on.
  const auto put = Begin();
  ASSERT_TRUE(put->AddStaged(StageAll()).ok());
  EXPECT_TRUE(CommitStatus(*put).ok());
}

// All at one place, again and again: what waits is bounded by the slot, whatever a client says.
TEST_F(DevicePutTest, RefusesMoreThanTheSlotHolds) {
  area_ = std::make_shared<MemoryArea>(MemoryArea::Where::kOnDevice, 2 * plane_bytes_);
  region_ = *session_->ShareStaging(area_);
  const auto put = Begin();
  std::vector<PlaneSegment> segments;
  for (uint32_t b = 0; b < kBlocks; ++b) {
    segments.push_back({0, PlaneKind::kK, b, 0, plane_bytes_, plane_bytes_, 0});
  }
  ASSERT_TRUE(put->AddStaged(segments).ok());
  const PlaneSegment more = {0, PlaneKind::kV, 0, 0, plane_bytes_, plane_bytes_, 0};
  const absl::Status status = put->AddStaged({&more, 1});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("not consumed yet"));
  put->Cancel();
  executor_.RunAll();
}

TEST_F(DevicePutTest, ALostDeviceEndsThePutAndLeavesNothing) {
  const auto put = Begin();
  ASSERT_TRUE(put->AddStaged(StageAll()).ok());
  device_.Lose();
  EXPECT_EQ(CommitStatus(*put).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Lookup(), 0u);
  EXPECT_EQ(store_.Snapshot().pending_blocks, 0u);
  EXPECT_EQ(tier_.usage().used_bytes, 0u);
}

// Whoever waits for room in the slot gets it, and hears with what it writes there why it was to no
// end.
TEST_F(DevicePutTest, ALostDeviceIsToldToAClientThatWaitsForRoom) {
  const auto put = Begin();
  const auto segments = StageAll();
  device_.Lose();
  ASSERT_TRUE(put->AddStaged(std::span(segments).first(3)).ok());
  executor_.RunAll();
  EXPECT_EQ(consumed_, 3u);
  EXPECT_EQ(put->AddStaged(std::span(segments).subspan(3)).code(), absl::StatusCode::kInternal);
  put->Cancel();
  EXPECT_EQ(tier_.usage().used_bytes, 0u);
}

// What the slot cannot hold comes in chunks; the record is whole all the same, and its room is what
// goes back.
TEST_F(DevicePutTest, APlaneMayComeInAChunkInRawSpacesToo) {
  SpaceSpec raw = Spec();
  raw.codec.codec = CodecId::kRaw;
  space_ = service_.OpenSpace(kDefaultTenant, session_->id(), raw, {})->handle;
  const auto put = Begin();
  auto segments = StageAll();
  for (uint32_t b = 0; b < kBlocks; ++b) {
    const std::span<const std::byte> plane = blocks_[b][0];
    segments[b].staged_at = 0;
    ASSERT_TRUE(put->Add({&segments[b], 1}, {&plane, 1}).ok());
  }
  ASSERT_TRUE(put->AddStaged(std::span(segments).subspan(kBlocks)).ok());
  ASSERT_TRUE(CommitStatus(*put).ok());
  auto get = *service_.Get(kDefaultTenant, session_->id(), space_, keys_, {}, PlaneForm::kDecoded,
                           std::nullopt);
  get->Start();
  size_t planes = 0;
  for (bool more = true; more;) {
    PlaneDelivery next;
    get->Next([&](absl::StatusOr<PlaneDelivery> delivery) { next = *std::move(delivery); });
    executor_.RunAll();
    more = next.kind == PlaneDelivery::Kind::kPlane;
    if (!more) break;
    const size_t plane = planes++ / kBlocks;
    EXPECT_TRUE(std::ranges::equal(next.bytes, blocks_[next.block][plane]));
  }
  EXPECT_EQ(planes, kBlocks * layout_.planes().size());
  get = nullptr;  // and what it held
  EXPECT_TRUE(service_.DropAll(kDefaultTenant, session_->id(), space_).ok());
  EXPECT_EQ(tier_.usage().used_bytes, 0u);
}

TEST_F(DevicePutTest, WithLittleDeviceMemoryBatchesAreSmaller) {
  device_.set_memory(5 << 20);
  const auto put = Begin();
  ASSERT_TRUE(put->AddStaged(StageAll()).ok());
  EXPECT_TRUE(CommitStatus(*put).ok());
  EXPECT_EQ(Lookup(), kBlocks);
}

TEST_F(DevicePutTest, WithoutDeviceMemoryThePutSaysSo) {
  device_.set_memory(1000);
  const auto put = Begin();
  ASSERT_TRUE(put->AddStaged(StageAll()).ok());
  EXPECT_EQ(CommitStatus(*put).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Lookup(), 0u);
  EXPECT_EQ(tier_.usage().used_bytes, 0u);
}

TEST_F(DevicePutTest, ACancelledPutGivesItsRoomBack) {
  {
    const auto put = Begin();
    ASSERT_TRUE(put->AddStaged(StageAll()).ok());
    ASSERT_TRUE(executor_.RunOne());
    EXPECT_GT(tier_.usage().used_bytes, 0u) << "records are written in place";
    put->Cancel();
    EXPECT_EQ(tier_.usage().used_bytes, 0u);
    executor_.RunAll();
  }
  EXPECT_EQ(store_.Snapshot().pending_blocks, 0u);
  const auto again = Begin();
  ASSERT_TRUE(again->AddStaged(StageAll()).ok());
  EXPECT_TRUE(CommitStatus(*again).ok());
}

}  // namespace
}  // namespace kvstow::testing
