// A real daemon in this process, on a Unix socket in a folder of its own.
#pragma once

#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "server/app/daemon.h"
#include "tests/testing/temp_dir.h"

namespace kvstow::testing {

class DaemonTest : public ::testing::Test {
 protected:
  DaemonTest() {
    ConfigOverrides overrides;
    overrides.unix_socket = dir_.path() + "/d.sock";
    overrides.host_tier = "64MiB";
    overrides.metrics = "none";
    overrides.log_level = "warn";
    overrides.threads = 2;
    overrides.device = "cpu";  // also where there is a GPU: its tests say so
    config_ = *LoadConfig("", overrides);
  }

  void StartDaemon() {
    auto daemon = Daemon::Start(config_);
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
  }
  const std::string& target() const { return daemon_->listeners().front(); }

  TempDir dir_;
  DaemonConfig config_;
  std::unique_ptr<Daemon> daemon_;
};

}  // namespace kvstow::testing
