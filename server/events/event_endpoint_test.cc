#include "server/events/event_endpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvstow {
namespace {

using testing::HasSubstr;

TEST(EventEndpointTest, ThisHostIsReadWithoutAsking) {
  for (const char* good : {"ipc:///run/kvstow/events.sock", "tcp://127.0.0.1:5557",
                           "tcp://127.9.9.9:0", "tcp://[::1]:5557"}) {
    EXPECT_TRUE(CheckEventEndpoint(good, false).ok()) << good;
  }
}

TEST(EventEndpointTest, OthersHaveToBeAskedFor) {
  for (const char* open : {"tcp://0.0.0.0:5557", "tcp://*:5557", "tcp://10.0.0.7:5557",
                           "tcp://[::]:5557", "tcp://[2001:db8::1]:5557"}) {
    const absl::Status status = CheckEventEndpoint(open, false);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << open;
    EXPECT_THAT(std::string(status.message()), HasSubstr("--insecure"));
    EXPECT_TRUE(CheckEventEndpoint(open, true).ok()) << open;
  }
}

TEST(EventEndpointTest, WhatIsNoEndpointIsNamed) {
  for (const char* bad :
       {"", "events", "udp://127.0.0.1:5557", "inproc://events", "tcp://127.0.0.1",
        "tcp://127.0.0.1:99999", "tcp://127.0.0.1:x", "tcp://localhost:5557", "tcp://eth0:5557",
        "tcp://::1:5557", "tcp://:5557", "ipc://", "ipc://*", "ipc://@events", "ipc://events"}) {
    const absl::Status status = CheckEventEndpoint(bad, true);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string("'") + bad + "'"));
  }
  EXPECT_THAT(std::string(CheckEventEndpoint("ipc:///" + std::string(200, 'x'), true).message()),
              HasSubstr("longer than the 107 bytes"));
}

}  // namespace
}  // namespace kvstow
