#include "server/core/lease_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/core/testing/fake_random.h"

namespace kvstow {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

const SessionId kAnn{{1}}, kBob{{2}};
const absl::Time kStart = absl::UnixEpoch();

class LeaseTableTest : public testing::Test {
 protected:
  LeaseId Add(const SessionId& owner, const std::string& request_id, absl::Duration ttl) {
    const LeaseId id = table_.NewId();
    table_.Add({.id = id,
                .owner = owner,
                .request_id = request_id,
                .granted = kStart,
                .expiry = kStart + ttl,
                .blocks = {}});
    return id;
  }

  FakeRandom random_;
  LeaseTable table_{&random_};
};

TEST_F(LeaseTableTest, IdsAreNeitherZeroNorInUse) {
  // Zero, then a number, then the same number twice more, then another.
  class Scripted : public RandomSource {
   public:
    void Fill(std::span<std::byte> out) override {
      const uint64_t words[] = {0, 7, 7, 8};
      std::memcpy(out.data(), &words[next_++], sizeof(uint64_t));
    }
    int next_ = 0;
  } random;
  LeaseTable table(&random);
  EXPECT_EQ(table.NewId(), LeaseId{7});
  table.Add({.id = LeaseId{7}, .request_id = "", .blocks = {}});
  EXPECT_EQ(table.NewId(), LeaseId{8});
}

TEST_F(LeaseTableTest, FindsByRequestOfItsOwner) {
  const LeaseId id = Add(kAnn, "r", absl::Seconds(1));
  EXPECT_EQ(table_.FindRequest(kAnn, "r"), id);
  EXPECT_EQ(table_.FindRequest(kBob, "r"), kNoLease);
  EXPECT_EQ(table_.FindRequest(kAnn, "s"), kNoLease);
  Add(kAnn, "", absl::Seconds(1));
  EXPECT_EQ(table_.FindRequest(kAnn, ""), kNoLease);
}

TEST_F(LeaseTableTest, ExpiresInOrderOfTime) {
  const LeaseId late = Add(kAnn, "", absl::Seconds(3));
  const LeaseId early = Add(kAnn, "", absl::Seconds(1));
  EXPECT_EQ(table_.TakeExpired(kStart), std::nullopt);
  EXPECT_EQ(table_.TakeExpired(kStart + absl::Seconds(5))->id, early);
  EXPECT_EQ(table_.TakeExpired(kStart + absl::Seconds(5))->id, late);
  EXPECT_EQ(table_.TakeExpired(kStart + absl::Seconds(5)), std::nullopt);
}

TEST_F(LeaseTableTest, SetExpiryMovesIt) {
  const LeaseId id = Add(kAnn, "", absl::Seconds(1));
  table_.SetExpiry(id, kStart + absl::Seconds(9));
  EXPECT_EQ(table_.TakeExpired(kStart + absl::Seconds(8)), std::nullopt);
  EXPECT_EQ(table_.TakeExpired(kStart + absl::Seconds(9))->id, id);
}

TEST_F(LeaseTableTest, TakeLeavesNoTrace) {
  const LeaseId id = Add(kAnn, "r", absl::Seconds(1));
  Add(kBob, "r", absl::Seconds(1));
  EXPECT_THAT(table_.OfOwner(kAnn), SizeIs(1));
  EXPECT_EQ(table_.Take(id).owner, kAnn);
  EXPECT_EQ(table_.Find(id), nullptr);
  EXPECT_THAT(table_.OfOwner(kAnn), IsEmpty());
  EXPECT_EQ(table_.FindRequest(kAnn, "r"), kNoLease);
  EXPECT_EQ(table_.size(), 1u);
}

}  // namespace
}  // namespace kvstow
