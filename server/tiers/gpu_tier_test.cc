#include "server/tiers/gpu_tier.h"

#include "gpu/api/testing/fake_device.h"
#include "server/core/testing/tier_conformance.h"
#include "server/tiers/host_tier.h"

namespace kvstow {
namespace {

gpu::FakeDevice& SharedDevice() {
  static auto* const device = new gpu::FakeDevice;
  return *device;
}

std::unique_ptr<Tier> CreateGpu(uint64_t capacity) {
  auto tier = GpuTier::Create(&SharedDevice(), capacity);
  return tier.ok() ? *std::move(tier) : nullptr;
}

INSTANTIATE_TEST_SUITE_P(Gpu, TierConformance, testing::Values(TierFactory{"gpu", CreateGpu}));

TEST(GpuTier, SaysWhenTheDeviceHasTooLittleMemory) {
  gpu::FakeDevice device;
  device.set_memory(1 << 20);
  EXPECT_TRUE(GpuTier::Create(&device, 1 << 20).ok());
  const auto tier = GpuTier::Create(&device, 2 << 20);
  EXPECT_EQ(tier.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(device.errors(), 1u);
}

TEST(GpuTier, SaysWhenTheDeviceIsLost) {
  gpu::FakeDevice device;
  const auto tier = GpuTier::Create(&device, 1 << 20);
  ASSERT_TRUE(tier.ok());
  const auto at = (*tier)->Allocate(100);
  ASSERT_TRUE(at.ok());
  std::vector<std::byte> bytes(100, std::byte{7});
  EXPECT_TRUE((*tier)->Write(*at, 0, bytes).ok());
  device.Lose();
  EXPECT_EQ((*tier)->Read(*at, 0, bytes).code(), absl::StatusCode::kInternal);
  EXPECT_EQ((*tier)->Write(*at, 0, bytes).code(), absl::StatusCode::kInternal);
}

class GpuTierHead : public testing::Test {
 protected:
  static std::vector<std::byte> Bytes(size_t size, int of) {
    return std::vector<std::byte>(size, static_cast<std::byte>(of));
  }
  // What the tier keeps of the first `bytes`.
  std::vector<std::byte> Head(const Allocation& at, uint64_t bytes) const {
    const auto head = tier_->Head(at, bytes);
    return {head.begin(), head.end()};
  }

  static constexpr uint64_t kPage = GpuTier::kPageBytes;
  gpu::FakeDevice device_;
  std::unique_ptr<GpuTier> tier_ = *GpuTier::Create(&device_, 1 << 20);
};

TEST_F(GpuTierHead, IsWhatWasWrittenFirst) {
  const Allocation at = *tier_->Allocate(3 * kPage);
  EXPECT_EQ(Head(at, 1), Bytes(0, 0));
  ASSERT_TRUE(tier_->Write(at, 0, Bytes(100, 1)).ok());
  ASSERT_TRUE(tier_->Write(at, 100, Bytes(2 * kPage, 2)).ok());
  EXPECT_EQ(Head(at, 100), Bytes(100, 1));
  EXPECT_EQ(Head(at, 101), Bytes(0, 0)) << "not at hand";
}

TEST_F(GpuTierHead, IsAPageAtMost) {
  const Allocation at = *tier_->Allocate(3 * kPage);
  ASSERT_TRUE(tier_->Write(at, 0, Bytes(3 * kPage, 1)).ok());
  EXPECT_EQ(Head(at, kPage), Bytes(kPage, 1));
  EXPECT_EQ(Head(at, kPage + 1), Bytes(0, 0));
}

TEST_F(GpuTierHead, IsForgottenWhereItIsWrittenOver) {
  const Allocation at = *tier_->Allocate(kPage);
  ASSERT_TRUE(tier_->Write(at, 0, Bytes(100, 1)).ok());
  ASSERT_TRUE(tier_->Write(at, 99, Bytes(10, 2)).ok());
  EXPECT_EQ(Head(at, 100), Bytes(0, 0));
  ASSERT_TRUE(tier_->Write(at, 0, Bytes(50, 3)).ok());
  EXPECT_EQ(Head(at, 50), Bytes(50, 3));
}

TEST_F(GpuTierHead, IsNothingOfAWriteThatFailed) {
  const Allocation at = *tier_->Allocate(kPage);
  ASSERT_TRUE(tier_->Write(at, 0, Bytes(100, 1)).ok());
  device_.Lose();
  EXPECT_FALSE(tier_->Write(at, 0, Bytes(100, 2)).ok());
  EXPECT_EQ(Head(at, 100), Bytes(0, 0));
}

TEST_F(GpuTierHead, GoesWithItsRecord) {
  const Allocation at = *tier_->Allocate(2 * kPage);
  ASSERT_TRUE(tier_->Write(at, 0, Bytes(100, 1)).ok());
  tier_->Free({PageRun{at.front().first + 1, 1}});
  EXPECT_EQ(Head(at, 100), Bytes(100, 1)) << "only the record's end was freed";
  tier_->Free({PageRun{at.front().first, 1}});
  const Allocation next = *tier_->Allocate(2 * kPage);
  ASSERT_EQ(next.front().first, at.front().first);
  EXPECT_EQ(Head(next, 1), Bytes(0, 0));
}

TEST(HostTierPinning, PinsAllOfItAndLetsItGo) {
  gpu::FakeDevice device;
  {
    const auto tier = HostTier::Create(3 * HostTier::kPinBytes + 4096);
    ASSERT_TRUE(tier.ok());
    (*tier)->StartPinning(&device);
    EXPECT_TRUE((*tier)->WaitForPinning().ok());
    EXPECT_EQ((*tier)->pinned_bytes(), 3 * HostTier::kPinBytes + 4096);
    EXPECT_EQ(device.pins(), 4);
  }
  EXPECT_EQ(device.pins(), 0);
}

// What the system does not let the daemon lock stays ordinary memory.
TEST(HostTierPinning, StopsAtTheLimitOfLockedMemory) {
  gpu::FakeDevice device;
  device.set_pinnable(2 * HostTier::kPinBytes);
  {
    const auto tier = HostTier::Create(3 * HostTier::kPinBytes);
    ASSERT_TRUE(tier.ok());
    (*tier)->StartPinning(&device);
    EXPECT_EQ((*tier)->WaitForPinning().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ((*tier)->pinned_bytes(), 2 * HostTier::kPinBytes);
    const auto at = (*tier)->Allocate(100);
    ASSERT_TRUE(at.ok());
    EXPECT_TRUE((*tier)->Write(*at, 0, std::vector<std::byte>(100, std::byte{7})).ok());
    EXPECT_EQ((*tier)->View(*at, 99, 1)[0], std::byte{7});
  }
  EXPECT_EQ(device.pins(), 0);
}

}  // namespace
}  // namespace kvstow
