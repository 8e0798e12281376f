// What one tenant may have, and whose blocks go when a tier is full.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "server/core/testing/store_fixture.h"

namespace kvstow {
namespace {

constexpr TenantId kA{0}, kB{1};
constexpr uint64_t kPage = kTestPage;

// Single blocks, each a prompt of its own.
class Tenant {
 public:
  Tenant(StoreWorld& world, TenantId id)
      : world_(world), id_(id), space_(world.store.AddSpace(id, Fingerprint{1}, {}, kTestTokens)) {}

  // As many as were taken.
  size_t Put(uint32_t first, uint32_t count, uint32_t pages = 1) {
    size_t stored = 0;
    for (uint32_t i = first; i < first + count; ++i) {
      world_.space = space_;
      stored += world_.Put({TestKey('x', i)}, pages);
    }
    return stored;
  }
  size_t Count(uint32_t first, uint32_t count) {
    world_.space = space_;
    size_t found = 0;
    for (uint32_t i = first; i < first + count; ++i) found += world_.Peek({TestKey('x', i)});
    return found;
  }
  LeaseId Lease(uint32_t index) {
    world_.space = space_;
    return world_.Lookup({TestKey('x', index)}).lease;
  }
  void Use(uint32_t index) { static_cast<void>(world_.store.Release(id_, Lease(index))); }
  uint64_t Pages(size_t tier = 0) {
    for (const TenantSnapshot& tenant : world_.store.Snapshot().tenants) {
      if (tenant.tenant == id_) return tenant.tier_bytes[tier] / kPage;
    }
    return 0;
  }

 private:
  StoreWorld& world_;
  const TenantId id_;
  const SpaceId space_;
};

TenantQuota Host(uint64_t pages) { return {.host_bytes = pages * kPage}; }

StoreOptions WithQuotas(std::vector<TenantQuota> quotas) {
  StoreOptions options;
  options.high_watermark = options.low_watermark = 1;
  options.quotas = std::move(quotas);
  return options;
}

TEST(StoreQuota, WhoIsAtItsQuotaMakesRoomOutOfItsOwn) {
  StoreWorld w(40, WithQuotas({Host(10), {}}));
  Tenant a(w, kA), b(w, kB);
  EXPECT_EQ(b.Put(0, 5), 5u);
  EXPECT_EQ(a.Put(0, 15), 15u);
  EXPECT_EQ(a.Pages(), 10u);
  EXPECT_EQ(a.Count(0, 5), 0u) << "its oldest went";
  EXPECT_EQ(a.Count(5, 10), 10u);
  EXPECT_EQ(b.Count(0, 5), 5u);
}

TEST(StoreQuota, WhatIsHeldDoesNotGiveWay) {
  StoreWorld w(40, WithQuotas({Host(3), {}}));
  Tenant a(w, kA);
  ASSERT_EQ(a.Put(0, 3), 3u);
  for (uint32_t i = 0; i < 3; ++i) ASSERT_NE(a.Lease(i), kNoLease);
  EXPECT_EQ(a.Put(3, 1), 0u);
  EXPECT_EQ(w.stats.refused(Refusal::kQuota), 1u);
  EXPECT_EQ(w.stats.refused(Refusal::kFull), 0u) << "there is room for others";
  EXPECT_EQ(a.Put(4, 1, /*pages=*/4), 0u) << "larger than the quota";
  EXPECT_EQ(w.stats.refused(Refusal::kQuota), 2u);
  EXPECT_EQ(a.Count(0, 3), 3u);
}

// A call's blocks are promised room before any is sent.
TEST(StoreQuota, RoomIsNotPromisedTwice) {
  StoreWorld w(40, WithQuotas({Host(3), {}}));
  Tenant a(w, kA);
  auto answers = w.Reserve(TestIntents(TestChain('y', 5)));
  size_t promised = 0;
  for (const auto& answer : answers) promised += answer.kind == StoreWorld::Answer::Kind::kSend;
  EXPECT_EQ(promised, 3u);
  EXPECT_EQ(a.Put(0, 1), 0u);
  answers.clear();
  EXPECT_EQ(a.Put(0, 1), 1u);
}

TEST(StoreQuota, ABurstCostsNobodyElseAnything) {
  StoreWorld w(40, WithQuotas({{}, {}}));
  Tenant a(w, kA), b(w, kB);
  ASSERT_EQ(b.Put(0, 15), 15u);
  EXPECT_EQ(a.Put(0, 200), 200u);
  EXPECT_EQ(b.Count(0, 15), 15u);
  EXPECT_EQ(a.Pages(), 25u) << "what nobody wants is anybody's";
}

TEST(StoreQuota, ANewcomerGetsItsShare) {
  StoreWorld w(40, WithQuotas({{}, {}}));
  Tenant a(w, kA), b(w, kB);
  ASSERT_EQ(a.Put(0, 40), 40u);
  EXPECT_EQ(b.Put(0, 100), 100u);
  EXPECT_EQ(b.Pages(), 20u);
  EXPECT_EQ(a.Count(20, 20), 20u) << "those used last";
}

TEST(StoreQuota, SharesAreInProportionToQuotas) {
  StoreWorld w(30, WithQuotas({{}, Host(15)}));
  Tenant a(w, kA), b(w, kB);
  for (uint32_t i = 0; i < 20; ++i) {
    a.Put(i * 10, 10);
    b.Put(i * 10, 10);
  }
  EXPECT_EQ(a.Pages(), 20u);
  EXPECT_EQ(b.Pages(), 10u);
}

TEST(StoreQuota, WhoHoldsEverythingElseStillMakesRoomOfItsOwn) {
  StoreWorld w(10, WithQuotas({{}, {}}));
  Tenant a(w, kA), b(w, kB);
  ASSERT_EQ(b.Put(0, 2), 2u);
  ASSERT_EQ(a.Put(0, 8), 8u);
  for (uint32_t i = 0; i < 7; ++i) ASSERT_NE(a.Lease(i), kNoLease);
  EXPECT_EQ(a.Put(8, 3), 3u);
  EXPECT_EQ(b.Count(0, 2), 2u);
}

TEST(StoreQuota, WithNothingOfItsOwnToGiveOthersGive) {
  StoreWorld w(10, WithQuotas({{}, {}}));
  Tenant a(w, kA), b(w, kB);
  ASSERT_EQ(b.Put(0, 4), 4u);
  ASSERT_EQ(a.Put(0, 6), 6u);
  for (uint32_t i = 0; i < 6; ++i) ASSERT_NE(a.Lease(i), kNoLease);
  EXPECT_EQ(a.Put(6, 1), 1u);
  EXPECT_EQ(b.Count(0, 4), 3u);
}

TEST(StoreQuota, MaintenanceTakesFromWhoHasTheMost) {
  StoreOptions options = WithQuotas({{}, {}});
  options.high_watermark = 0.8;
  options.low_watermark = 0.5;
  StoreWorld w(20, options);
  Tenant a(w, kA), b(w, kB);
  ASSERT_EQ(b.Put(0, 5), 5u);
  ASSERT_EQ(a.Put(0, 13), 13u);
  w.store.Maintain();
  EXPECT_EQ(b.Count(0, 5), 5u);
  EXPECT_EQ(a.Pages(), 5u);
}

TEST(StoreQuota, LeasedBytes) {
  StoreWorld w(40, WithQuotas({{.leased_bytes = 2 * kPage}, {}}));
  Tenant a(w, kA), b(w, kB);
  ASSERT_EQ(a.Put(0, 3), 3u);
  ASSERT_EQ(b.Put(0, 3), 3u);
  EXPECT_NE(a.Lease(0), kNoLease);
  EXPECT_NE(a.Lease(1), kNoLease);
  EXPECT_EQ(a.Lease(2), kNoLease);
  EXPECT_EQ(w.stats.refused(Refusal::kLeaseQuota), 1u);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_NE(b.Lease(i), kNoLease);
}

TEST(StoreQuota, OfTheFastTier) {
  StoreWorld w(40, WithQuotas({{.gpu_bytes = 2 * kPage}, {}}), /*fast_pages=*/10);
  Tenant a(w, kA), b(w, kB);
  ASSERT_EQ(a.Put(0, 6), 6u);
  EXPECT_EQ(a.Pages(0), 2u);
  EXPECT_EQ(a.Pages(1), 4u);
  ASSERT_EQ(b.Put(0, 6), 6u);
  EXPECT_EQ(b.Pages(0), 6u);
  // What is used often takes the place of its owner's colder records there.
  for (int round = 0; round < 4; ++round) {
    for (uint32_t i : {4u, 5u}) a.Use(i);
    w.Settle();
    w.Settle();
  }
  EXPECT_EQ(a.Pages(0), 2u);
  const auto tier_of = [&](uint32_t i) {
    w.space = w.store.AddSpace(kA, Fingerprint{1}, {}, kTestTokens);
    return w.store
        .Lookup(w.space, std::vector<BlockKey>{TestKey('x', i)}, {}, "", absl::ZeroDuration())
        .tiers[0];
  };
  EXPECT_EQ(tier_of(4), TierKind::kGpu);
  EXPECT_EQ(tier_of(5), TierKind::kGpu);
  EXPECT_EQ(b.Pages(0), 6u);
}

// Bytes of the record that lay there before: none of them is left, also where the new one ends.
TEST(StoreQuota, NothingOfAnotherTenantsStaysBehind) {
  StoreOptions options = WithQuotas({{}, {}});
  options.high_watermark = options.low_watermark = 0.5;
  StoreWorld w(2, options, /*fast_pages=*/1);
  Tenant a(w, kA), b(w, kB);
  // Every page of both tiers full of ones.
  w.space = w.store.AddSpace(kA, Fingerprint{1}, {}, kTestTokens);
  const std::vector<std::byte> ones(kPage, std::byte{1});
  for (char chain : {'p', 'q', 'r'}) {
    auto answer = w.Reserve(TestIntents(TestChain(chain, 1)));
    const std::span<const std::byte> pieces[] = {ones};
    ASSERT_TRUE(w.store.Commit(std::move(answer[0].reservation), pieces, {}).ok());
  }
  w.store.DropSpace(w.space);
  w.space = w.store.AddSpace(kB, Fingerprint{1}, {}, kTestTokens);
  const auto expect_clean = [&] {
    auto pin = w.store.Peek(w.space, 0, TestKey('b', 0));
    ASSERT_TRUE(pin);
    std::vector<std::byte> page(kPage);
    ASSERT_TRUE(pin.Read(0, page).ok());
    EXPECT_EQ(page[0], std::byte{2});
    EXPECT_EQ(std::vector(page.begin() + 1, page.end()), std::vector(kPage - 1, std::byte{0}));
  };
  auto answer = w.Reserve(TestIntents(TestChain('b', 1)));
  const std::vector<std::byte> two(1, std::byte{2});
  const std::span<const std::byte> pieces[] = {two};
  ASSERT_TRUE(w.store.Commit(std::move(answer[0].reservation), pieces, {}).ok());
  expect_clean();
  // And when it moves on.
  ASSERT_EQ(w.fast_pages(), 1u);
  w.Settle();
  ASSERT_EQ(w.fast_pages(), 0u);
  expect_clean();
}

// Whatever happens, in whatever order.
class StoreQuotaSimulation : public ::testing::TestWithParam<uint32_t> {};

TEST_P(StoreQuotaSimulation, NobodyGoesBeyondIt) {
  const std::vector<TenantQuota> quotas = {
      {.gpu_bytes = 3 * kPage, .host_bytes = 12 * kPage, .leased_bytes = 8 * kPage},
      {.gpu_bytes = 8 * kPage, .host_bytes = 20 * kPage},
      {}};
  StoreWorld w(30, WithQuotas(quotas), /*fast_pages=*/10);
  std::vector<Tenant> tenants;
  for (uint32_t t = 0; t < quotas.size(); ++t) tenants.emplace_back(w, TenantId(t));
  std::mt19937 random(GetParam());
  std::vector<std::pair<TenantId, LeaseId>> leases;
  for (int step = 0; step < 3000; ++step) {
    const uint32_t t = random() % tenants.size();
    const uint32_t block = random() % 40;
    switch (random() % 8) {
      case 0:
      case 1:
      case 2:
        tenants[t].Put(block, 1 + random() % 3, 1 + random() % 3);
        break;
      case 3:
        tenants[t].Use(block);
        break;
      case 4:
        leases.emplace_back(TenantId(t), tenants[t].Lease(block));
        break;
      case 5:
        if (!leases.empty()) {
          static_cast<void>(w.store.Release(leases.back().first, leases.back().second));
          leases.pop_back();
        }
        break;
      case 6:
        w.mover.SetFailing(random() % 4 == 0);
        w.store.Maintain();
        break;
      default:
        w.executor.RunOne();
    }
    uint64_t fast = 0, slow = 0;
    for (const TenantSnapshot& tenant : w.store.Snapshot().tenants) {
      const TenantQuota& quota = quotas[static_cast<size_t>(tenant.tenant)];
      ASSERT_LE(tenant.tier_bytes[0], quota.gpu_bytes) << "step " << step;
      ASSERT_LE(tenant.tier_bytes[1], quota.host_bytes) << "step " << step;
      ASSERT_LE(tenant.leased_bytes, quota.leased_bytes) << "step " << step;
      ASSERT_EQ(tenant.physical_bytes, tenant.tier_bytes[0] + tenant.tier_bytes[1]);
      fast += tenant.tier_bytes[0];
      slow += tenant.tier_bytes[1];
    }
    ASSERT_EQ(fast, w.fast_pages() * kPage);
    ASSERT_EQ(slow, w.slow_pages() * kPage);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, StoreQuotaSimulation, ::testing::Range(1u, 9u));

}  // namespace
}  // namespace kvstow
