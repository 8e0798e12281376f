#include "server/tiers/host_tier.h"

#include "server/core/testing/tier_conformance.h"

namespace kvstow {
namespace {

std::unique_ptr<Tier> CreateHost(uint64_t capacity) {
  auto tier = HostTier::Create(capacity);
  return tier.ok() ? *std::move(tier) : nullptr;
}

INSTANTIATE_TEST_SUITE_P(Host, TierConformance, testing::Values(TierFactory{"host", CreateHost}));

TEST(HostTier, RefusesACapacityBelowAPage) {
  EXPECT_EQ(HostTier::Create(4095).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(HostTier::Create(uint64_t{1} << 45).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(HostTier, RoundsTheCapacityDown) {
  const auto tier = HostTier::Create(3 * 4096 + 4095);
  ASSERT_TRUE(tier.ok());
  EXPECT_EQ((*tier)->usage().capacity_bytes, 3u * 4096);
}

// Records lie in pages of 4 KiB and take whole ones.
TEST(HostTier, TakesWholePages) {
  const auto tier = HostTier::Create(uint64_t{1} << 20);
  ASSERT_TRUE(tier.ok());
  EXPECT_EQ((*tier)->PhysicalBytes(1), 4096u);
  EXPECT_EQ((*tier)->PhysicalBytes(4096), 4096u);
  EXPECT_EQ((*tier)->PhysicalBytes(4097), 8192u);
}

// A budget larger than the machine's memory costs nothing until it is used.
TEST(HostTier, ALargeBudgetIsOnlyReserved) {
  const auto tier = HostTier::Create(uint64_t{1} << 38);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  if (!tier.ok()) GTEST_SKIP() << "no address space left beside the sanitizer's";
#endif
  ASSERT_TRUE(tier.ok()) << tier.status();
  const auto a = (*tier)->Allocate(100);
  ASSERT_TRUE(a.ok());
  EXPECT_TRUE((*tier)->Write(*a, 0, std::vector<std::byte>(100, std::byte{7})).ok());
  EXPECT_EQ((*tier)->View(*a, 99, 1)[0], std::byte{7});
}

}  // namespace
}  // namespace kvstow
