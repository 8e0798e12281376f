#include "server/obs/metrics.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "prometheus/text_serializer.h"

namespace kvstow {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string Text(const Metrics& metrics) {
  return prometheus::TextSerializer().Serialize(metrics.Collect());
}

TEST(Metrics, MovesBetweenTiersAreThereFromTheStart) {
  Metrics metrics({{"default"}, {TierKind::kGpu, TierKind::kHost}, "1", {"cpu"}});
  EXPECT_THAT(Text(metrics), HasSubstr("kvstow_tier_moves_total{from=\"gpu\",to=\"host\"} 0\n"));
  metrics.OnMoved(TierKind::kGpu, TierKind::kHost, 2, 300);
  metrics.OnMoved(TierKind::kHost, TierKind::kGpu, 1, 50);
  metrics.OnMoveFailed(TierKind::kHost, TierKind::kGpu, 4);
  for (const char* line :
       {"moves_total{from=\"gpu\",to=\"host\"} 2\n", "moves_total{from=\"host\",to=\"gpu\"} 1\n",
        "moved_bytes_total{from=\"gpu\",to=\"host\"} 300\n",
        "moved_bytes_total{from=\"host\",to=\"gpu\"} 50\n",
        "move_failures_total{from=\"gpu\",to=\"host\"} 0\n",
        "move_failures_total{from=\"host\",to=\"gpu\"} 4\n"}) {
    EXPECT_THAT(Text(metrics), HasSubstr(std::string("kvstow_tier_") + line));
  }
}

TEST(Metrics, EventsAreCountedWhereTheyArePublished) {
  Metrics metrics({.tenants = {"a", "b"},
                   .tiers = {TierKind::kHost},
                   .version = "1",
                   .devices = {"cpu"},
                   .event_tenants = {TenantId{1}, TenantId{1}}});
  metrics.OnEventsPublished(TenantId{0}, 5);
  metrics.OnEventsPublished(TenantId{1}, 7);
  metrics.OnEventsLost(TenantId{1}, 2);
  EXPECT_THAT(Text(metrics), HasSubstr("kvstow_events_published_total{tenant=\"b\"} 7\n"));
  EXPECT_THAT(Text(metrics), HasSubstr("kvstow_events_lost_total{tenant=\"b\"} 2\n"));
  EXPECT_THAT(Text(metrics), Not(HasSubstr("events_published_total{tenant=\"a\"}")));
}

TEST(Metrics, PrefillSavedIsAbsentUntilSomebodySaysHowFastItIs) {
  Metrics metrics({{"a", "b"}, {TierKind::kHost}, "1", {"cpu"}});
  EXPECT_THAT(Text(metrics), Not(HasSubstr("kvstow_prefill_seconds_saved_total{")));
  metrics.OnPrefillSaved(TenantId{1}, absl::ZeroDuration());
  EXPECT_THAT(Text(metrics), HasSubstr("kvstow_prefill_seconds_saved_total{tenant=\"b\"} 0\n"));
  metrics.OnPrefillSaved(TenantId{1}, absl::Milliseconds(1500));
  EXPECT_THAT(Text(metrics), HasSubstr("kvstow_prefill_seconds_saved_total{tenant=\"b\"} 1.5\n"));
  EXPECT_THAT(Text(metrics), Not(HasSubstr("saved_total{tenant=\"a\"}")));
}

TEST(Metrics, OneTierHasNoMoves) {
  Metrics metrics({{"default"}, {TierKind::kHost}, "1", {"cpu"}});
  EXPECT_THAT(Text(metrics), Not(HasSubstr("kvstow_tier_moves_total{")));
}

}  // namespace
}  // namespace kvstow
