// The client's half of shared memory against a real side channel. The rule that matters: a slot
// that the daemon may still have its hands in is never lent again.
#include "client/staging_link.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/staging_service.h"

namespace kvstow::testing {
namespace {

using client::Deadline;
using client::StagingLink;
using ::testing::HasSubstr;

class StagingLinkTest : public StagingListenerTest {
 protected:
  // Two slots of 32 KiB.
  StagingLink::Options LinkOptions() const {
    return {.unix_socket = socket_,
            .region_bytes = 64 << 10,
            .slots = 2,
            .answer_timeout = absl::Seconds(60),
            .retry_pause = absl::ZeroDuration()};
  }
  std::string BeginForClient() {
    const SessionId id = Begin();
    return std::string(reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size());
  }
  std::optional<StagingLink::Slot> Borrow(StagingLink& link, const std::string& session) {
    const Deadline deadline = Deadline::In(absl::Seconds(60));
    return link.Borrow(session, &deadline);
  }
};

TEST_F(StagingLinkTest, LendsTheSlotsOfItsSessionsRegion) {
  StagingLink link(LinkOptions());
  const std::string session = BeginForClient();
  EXPECT_FALSE(link.why_not().ok()) << "no session yet";
  link.OnSession(session);
  EXPECT_TRUE(link.why_not().ok()) << link.why_not();
  auto first = Borrow(link, session), second = Borrow(link, session);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->Claim().region(), 1u);
  EXPECT_NE(first->Claim().offset(), second->Claim().offset());
  EXPECT_EQ(first->bytes().size(), 32u << 10);
  EXPECT_FALSE(link.Borrow(session, nullptr)) << "all are lent";
  EXPECT_FALSE(link.Borrow("another session.", nullptr));
  const uint64_t offset = first->Claim().offset();
  first->Return();
  auto again = Borrow(link, session);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->Claim().offset(), offset);
  again->Return();
  second->Return();
}

TEST_F(StagingLinkTest, ASlotLeftBehindIsNeverLentAgain) {
  StagingLink link(LinkOptions());
  const std::string session = BeginForClient();
  link.OnSession(session);
  auto other = Borrow(link, session);
  std::byte* left_behind = nullptr;
  {
    auto slot = Borrow(link, session);
    left_behind = slot->bytes().data();
  }                                   // not returned: the daemon may still read or write it
  auto next = Borrow(link, session);  // waits for the region that takes the old one's place
  ASSERT_TRUE(next);
  EXPECT_EQ(next->Claim().region(), 2u);
  EXPECT_NE(next->bytes().data(), left_behind);
  // What was borrowed before keeps its memory, and goes back to nobody.
  other->bytes()[0] = std::byte{1};
  other->Return();
  auto last = Borrow(link, session);
  ASSERT_TRUE(last);
  EXPECT_EQ(last->Claim().region(), 2u);
  last->Return();
  next->Return();
}

TEST_F(StagingLinkTest, AnotherSessionGetsAnotherRegion) {
  StagingLink link(LinkOptions());
  const std::string first = BeginForClient(), second = BeginForClient();
  link.OnSession(first);
  auto slot = Borrow(link, first);
  link.OnSession(second);
  EXPECT_FALSE(Borrow(link, first)) << "and does not wait for it";
  slot.reset();
  auto of_second = Borrow(link, second);
  ASSERT_TRUE(of_second) << "a slot of the old region says nothing of the new one";
  of_second->Return();
}

TEST_F(StagingLinkTest, RefusedNowMayBeGrantedLater) {
  std::vector<SessionId> others;
  for (int i = 0; i < 16; ++i) {
    others.push_back(Begin());
    ASSERT_TRUE(Ask(others.back()).ok());
  }
  StagingLink link(LinkOptions());
  const std::string session = BeginForClient();
  link.OnSession(session);
  EXPECT_THAT(std::string(link.why_not().message()), HasSubstr("staging"));
  EXPECT_FALSE(Borrow(link, session)) << "a refusal is not waited out";
  service_.EndSession(others[0]);
  for (bool granted = false; !granted;) {
    auto slot = Borrow(link, session);  // each try asks again
    granted = slot.has_value();
    if (granted) slot->Return();
  }
}

TEST_F(StagingLinkTest, RegionsTooSmallForASlotAreNone) {
  StagingLink::Options options = LinkOptions();
  options.slots = 32;
  StagingLink link(options);
  const std::string session = BeginForClient();
  link.OnSession(session);
  EXPECT_EQ(link.why_not().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(Borrow(link, session));
}

TEST_F(StagingLinkTest, WithoutAUnixSocketThereIsNone) {
  StagingLink::Options options = LinkOptions();
  options.unix_socket = "";
  StagingLink link(options);
  const std::string session = BeginForClient();
  link.OnSession(session);
  EXPECT_FALSE(Borrow(link, session));
  EXPECT_THAT(std::string(link.why_not().message()), HasSubstr("Unix socket"));
}

}  // namespace
}  // namespace kvstow::testing
