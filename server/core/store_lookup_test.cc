// Look-ups and leases.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/core/testing/store_fixture.h"

namespace kvstow {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

class StoreLookupTest : public testing::Test {
 protected:
  StoreLookupTest() { w_.Put(keys_); }
  uint32_t LeasesOn(uint32_t i) { return w_.store.Inspect(w_.space, keys_[i])->leases; }
  void MakeRoomForAll() { w_.Put(TestChain('z', 1), 100); }

  StoreWorld w_{100, {.max_lease_ttl = absl::Minutes(5)}};
  const std::vector<BlockKey> keys_ = TestChain('a', 4);
};

TEST_F(StoreLookupTest, FindsTheLongestPrefix) {
  EXPECT_THAT(w_.Lookup(TestChain('a', 9)).tiers, SizeIs(4));
  EXPECT_THAT(w_.Lookup(TestChain('b', 9)).tiers, IsEmpty());
  EXPECT_THAT(w_.Lookup({}).tiers, IsEmpty());
  EXPECT_THAT(w_.store.Lookup(SpaceId{9}, keys_, {}, "", absl::Seconds(1)).tiers, IsEmpty());
}

TEST_F(StoreLookupTest, OtherSpacesAndTenantsSeeNothing) {
  const SpaceId foreign = w_.store.AddSpace(TenantId{1}, Fingerprint{1}, {0}, kTestTokens);
  EXPECT_THAT(w_.store.Lookup(foreign, keys_, {}, "", absl::Seconds(1)).tiers, IsEmpty());
}

TEST_F(StoreLookupTest, CountsTokens) {
  w_.Lookup(TestChain('a', 6));
  EXPECT_EQ(w_.stats.totals().hit_tokens, 4u * kTestTokens);
  EXPECT_EQ(w_.stats.totals().miss_tokens, 2u * kTestTokens);
}

TEST_F(StoreLookupTest, PeekLeavesNoTrace) {
  w_.clock.Advance(absl::Seconds(7));
  const LookupMatch match = w_.store.Lookup(w_.space, keys_, {}, "r", absl::ZeroDuration());
  EXPECT_THAT(match.tiers, SizeIs(4));
  EXPECT_EQ(match.lease, kNoLease);
  EXPECT_FALSE(match.lease_refused);
  EXPECT_EQ(w_.stats.totals().lookups, 0u);
  EXPECT_EQ(w_.store.Inspect(w_.space, keys_[0])->hits, 0u);
  EXPECT_EQ(w_.store.Inspect(w_.space, keys_[0])->idle, absl::Seconds(7));
}

TEST_F(StoreLookupTest, LeasedBlocksAreNotEvicted) {
  const LookupMatch match = w_.Lookup(TestChain('a', 3));
  EXPECT_NE(match.lease, kNoLease);
  MakeRoomForAll();
  EXPECT_EQ(w_.Peek(keys_), 4u) << "and nothing is evicted for what will not fit all the same";
  w_.Put(TestChain('z', 1), 97);
  EXPECT_EQ(w_.Peek(keys_), 3u);
}

TEST_F(StoreLookupTest, ReleasedBlocksAreEvictable) {
  const LookupMatch match = w_.Lookup(keys_);
  EXPECT_TRUE(w_.store.Release(kDefaultTenant, match.lease).ok());
  EXPECT_EQ(LeasesOn(0), 0u);
  MakeRoomForAll();
  EXPECT_EQ(w_.Peek(keys_), 0u);
}

TEST_F(StoreLookupTest, LeasesExpire) {
  w_.Lookup(keys_, "", absl::Seconds(10));
  w_.clock.Advance(absl::Seconds(9));
  w_.store.Maintain();
  EXPECT_EQ(LeasesOn(0), 1u);
  EXPECT_EQ(w_.store.Snapshot().oldest_lease_age, absl::Seconds(9));
  w_.clock.Advance(absl::Seconds(1));
  w_.store.Maintain();
  EXPECT_EQ(LeasesOn(0), 0u);
  EXPECT_EQ(w_.stats.totals().leases_expired, 1u);
}

TEST_F(StoreLookupTest, TtlIsClamped) {
  w_.Lookup(keys_, "", absl::InfiniteDuration());
  w_.clock.Advance(absl::Minutes(5));
  w_.store.Maintain();
  EXPECT_EQ(w_.store.Snapshot().leases, 0u);
}

TEST_F(StoreLookupTest, SameRequestReplacesItsLease) {
  const LeaseId first = w_.Lookup(keys_, "r", absl::Seconds(10)).lease;
  w_.clock.Advance(absl::Seconds(8));
  const LeaseId second = w_.Lookup(TestChain('a', 2), "r", absl::Seconds(10)).lease;
  EXPECT_EQ(first, second);
  EXPECT_EQ(LeasesOn(0), 1u);
  EXPECT_EQ(LeasesOn(3), 0u);
  w_.clock.Advance(absl::Seconds(8));
  w_.store.Maintain();
  EXPECT_EQ(LeasesOn(0), 1u);
  w_.Lookup(TestChain('x', 2), "r");
  EXPECT_EQ(w_.store.Snapshot().leases, 0u) << "replaced by nothing";
}

TEST_F(StoreLookupTest, OtherRequestsAndSessionsHaveTheirOwn) {
  w_.Lookup(keys_, "r");
  w_.Lookup(keys_, "s");
  w_.Lookup(keys_, "");
  w_.Lookup(keys_, "");
  w_.store.Lookup(w_.space, keys_, SessionId{{8}}, "r", absl::Seconds(10));
  EXPECT_EQ(LeasesOn(0), 5u);
}

TEST_F(StoreLookupTest, RenewMovesTheEnd) {
  const LeaseId lease = w_.Lookup(keys_, "", absl::Seconds(10)).lease;
  w_.clock.Advance(absl::Seconds(9));
  EXPECT_TRUE(w_.store.Renew(kDefaultTenant, lease, absl::Seconds(10)).ok());
  w_.clock.Advance(absl::Seconds(9));
  w_.store.Maintain();
  EXPECT_EQ(LeasesOn(0), 1u);
  EXPECT_EQ(w_.store.Renew(kDefaultTenant, lease, absl::ZeroDuration()).code(),
            absl::StatusCode::kInvalidArgument);
  w_.clock.Advance(absl::Seconds(1));
  EXPECT_EQ(w_.store.Renew(kDefaultTenant, lease, absl::Seconds(1)).code(),
            absl::StatusCode::kNotFound)
      << "over, though Maintain has not been round";
}

TEST_F(StoreLookupTest, ForeignLeasesAreNotThere) {
  const LeaseId lease = w_.Lookup(keys_).lease;
  const absl::Status foreign = w_.store.Release(TenantId{1}, lease);
  EXPECT_EQ(foreign.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(foreign, w_.store.Release(kDefaultTenant, LeaseId{12345}));
  EXPECT_EQ(foreign, w_.store.Renew(TenantId{1}, lease, absl::Seconds(1)));
  EXPECT_TRUE(w_.store.Release(kDefaultTenant, lease).ok());
  EXPECT_EQ(w_.store.Release(kDefaultTenant, lease).code(), absl::StatusCode::kNotFound);
}

TEST_F(StoreLookupTest, ReleaseAllEndsASessionsLeases) {
  w_.Lookup(keys_, "r");
  w_.Lookup(keys_);
  const LeaseId other =
      w_.store.Lookup(w_.space, keys_, SessionId{{8}}, "r", absl::Seconds(10)).lease;
  w_.store.ReleaseAll(w_.session);
  EXPECT_EQ(LeasesOn(0), 1u);
  EXPECT_TRUE(w_.store.Release(kDefaultTenant, other).ok());
}

TEST_F(StoreLookupTest, LeasedBytesAreCappedPerTenant) {
  StoreWorld w(10, {.max_leased_fraction = 0.5});
  w.Put(TestChain('x', 4));
  w.Put(TestChain('y', 4));
  EXPECT_NE(w.Lookup(TestChain('x', 4)).lease, kNoLease);
  EXPECT_NE(w.Lookup(TestChain('x', 4)).lease, kNoLease) << "the same bytes count once";
  const LookupMatch refused = w.Lookup(TestChain('y', 4));
  EXPECT_THAT(refused.tiers, SizeIs(4));
  EXPECT_TRUE(refused.lease_refused);
  EXPECT_EQ(refused.lease, kNoLease);
  EXPECT_EQ(w.stats.refused(Refusal::kLeaseQuota), 4u);
  EXPECT_EQ(w.store.Lease(w.space, TestChain('y', 4), w.session, absl::Seconds(1)), kNoLease);
  EXPECT_FALSE(w.Lookup(TestChain('y', 1)).lease_refused);
  EXPECT_EQ(w.store.Snapshot().tenants[0].leased_bytes, 5u * kTestPage);
}

TEST_F(StoreLookupTest, ReplacementMayUseWhatItReplaces) {
  StoreWorld w(10, {.max_leased_fraction = 0.5});
  w.Put(TestChain('x', 4));
  w.Put(TestChain('y', 4));
  w.Lookup(TestChain('x', 4), "r");
  EXPECT_FALSE(w.Lookup(TestChain('y', 4), "r").lease_refused);
}

TEST_F(StoreLookupTest, LeaseByNamePassesOverTheMissing) {
  const std::vector<BlockKey> names = {TestKey('q', 0), keys_[2], keys_[0]};
  const LeaseId lease = w_.store.Lease(w_.space, names, w_.session, absl::Seconds(10));
  EXPECT_NE(lease, kNoLease);
  EXPECT_EQ(LeasesOn(0), 1u);
  EXPECT_EQ(LeasesOn(1), 0u);
  EXPECT_EQ(LeasesOn(2), 1u);
  EXPECT_EQ(w_.store.Inspect(w_.space, keys_[2])->hits, 0u);
  EXPECT_EQ(w_.store.Lease(w_.space, TestChain('q', 1), w_.session, absl::Seconds(10)), kNoLease);
  EXPECT_EQ(w_.store.Lease(w_.space, names, w_.session, absl::ZeroDuration()), kNoLease);
}

TEST_F(StoreLookupTest, AKeyNamedTwiceIsHeldTwiceAndLetGo) {
  const std::vector<BlockKey> names = {keys_[0], keys_[0], keys_[1]};
  const LeaseId lease = w_.Lookup(names).lease;
  EXPECT_EQ(LeasesOn(0), 2u);
  EXPECT_TRUE(w_.store.Release(kDefaultTenant, lease).ok());
  EXPECT_EQ(LeasesOn(0), 0u);
  EXPECT_EQ(w_.store.Snapshot().tenants[0].leased_bytes, 0u);
}

}  // namespace
}  // namespace kvstow
