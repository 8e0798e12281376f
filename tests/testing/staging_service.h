// The side channel over a service without gRPC, so that sessions are cheap.
#pragma once

#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "server/app/system.h"
#include "server/app/thread_pool.h"
#include "server/core/testing/recording_stats.h"
#include "server/core/tiled_plane_codec.h"
#include "server/staging/staging_listener.h"
#include "server/tiers/host_tier.h"
#include "staging/side_channel.h"
#include "tests/testing/daemon_fixture.h"

namespace kvstow::testing {

class StagingListenerTest : public ::testing::Test {
 protected:
  StagingListenerTest()
      : tier_(*HostTier::Create(1 << 20)),
        store_(StoreOptions{}, {tier_.get()}, &clock_, &random_, &stats_),
        pool_(1),
        codec_(CpuCodec(), &pool_, &clock_, &stats_),
        service_(ServiceLimits{}, {&store_, &codec_, &pool_, &clock_, &random_, &stats_}) {}
  ~StagingListenerTest() override { pool_.Drain(); }

  absl::StatusOr<GrantedRegion> Ask(const SessionId& session) {
    return RequestRegion(SideChannelPath(socket_), {session.bytes, 64 << 10}, absl::Seconds(60));
  }
  SessionId Begin() { return (*service_.BeginSession(kDefaultTenant, ""))->id(); }

  TempDir dir_;
  const std::string socket_ = dir_.path() + "/d.sock";
  const std::unique_ptr<Tenants> tenants_ = *Tenants::Create({}, "");
  SteadyClock clock_;
  SystemRandom random_;
  RecordingStats stats_;
  std::unique_ptr<HostTier> tier_;
  Store store_;
  ThreadPool pool_;
  TiledPlaneCodec codec_;
  Service service_;
  const StagingOptions options_{.budget_bytes = 1 << 20,
                                .session_bytes = 64 << 10,
                                .max_connections = 8,
                                .patience = absl::Milliseconds(200)};
  std::unique_ptr<StagingListener> listener_ =
      *StagingListener::Start(socket_, options_, &service_, tenants_.get(), &clock_, &random_);
};

}  // namespace kvstow::testing
