#include "staging/side_channel.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <thread>

#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace kvstow {
namespace {

OwnedFd Accept(const OwnedFd& listener) {
  int fd = -1;
  while (fd < 0) fd = accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  return OwnedFd(fd);
}

StagingRequest Await(const OwnedFd& connection) {
  for (;;) {
    auto request = ReceiveRequest(connection);
    EXPECT_TRUE(request.ok()) << request.status();
    if (!request.ok() || *request) return request.ok() ? **request : StagingRequest();
  }
}

class SideChannelTest : public ::testing::Test {
 protected:
  const testing::TempDir dir_;
  const std::string path_ = dir_.path() + "/side";
  OwnedFd listener_ = *ListenSideChannel(path_);
};

TEST_F(SideChannelTest, PassesMemory) {
  std::thread daemon([this] {
    const OwnedFd connection = Accept(listener_);
    const StagingRequest request = Await(connection);
    EXPECT_EQ(request.session[3], 9);
    EXPECT_EQ(request.bytes, 1u << 20);
    auto made = SharedRegion::Create(1 << 16);
    made->first.bytes()[5] = std::byte{99};
    SendGrant(connection, {.region = 3, .bytes = 1 << 16}, made->second.get());
  });
  StagingRequest request;
  request.session[3] = 9;
  request.bytes = 1 << 20;
  auto granted = RequestRegion(path_, request, absl::Seconds(30));
  daemon.join();
  ASSERT_TRUE(granted.ok()) << granted.status();
  EXPECT_EQ(granted->region, 3u);
  EXPECT_EQ(granted->memory.bytes().size(), 1u << 16);
  EXPECT_EQ(granted->memory.bytes()[5], std::byte{99});
}

TEST_F(SideChannelTest, RefusalsKeepTheirWords) {
  std::thread daemon([this] {
    const OwnedFd connection = Accept(listener_);
    Await(connection);
    SendRefusal(connection, absl::ResourceExhaustedError(std::string(1000, 'x')));
  });
  auto granted = RequestRegion(path_, {}, absl::Seconds(30));
  daemon.join();
  EXPECT_EQ(granted.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(granted.status().message(), std::string(215, 'x'));
}

TEST_F(SideChannelTest, NobodyThere) {
  EXPECT_EQ(RequestRegion(dir_.path() + "/nobody", {}, absl::Seconds(1)).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(RequestRegion(std::string(200, 'x'), {}, absl::Seconds(1)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(SideChannelTest, DaemonThatDoesNotAnswer) {
  EXPECT_EQ(RequestRegion(path_, {}, absl::Milliseconds(1)).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(SideChannelTest, DaemonThatHangsUpOrLies) {
  std::thread daemon([this] {
    { const OwnedFd connection = Accept(listener_); }
    const OwnedFd second = Accept(listener_);
    send(second.get(), "hello", 5, MSG_NOSIGNAL);
    const OwnedFd third = Accept(listener_);
    Await(third);
    // A grant that claims more than it is.
    auto made = SharedRegion::Create(1 << 16);
    SendGrant(third, {.region = 1, .bytes = 1 << 20}, made->second.get());
  });
  EXPECT_EQ(RequestRegion(path_, {}, absl::Seconds(30)).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(RequestRegion(path_, {}, absl::Seconds(30)).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(RequestRegion(path_, {}, absl::Seconds(30)).status().code(),
            absl::StatusCode::kFailedPrecondition);
  daemon.join();
}

// The daemon's half of device memory, with a descriptor of anything.
class DeviceRegionTest : public SideChannelTest {
 protected:
  static constexpr StagingProbe kProbe = {{1, 2, 3}};

  StagingRequest OfferMemory(const OwnedFd& connection, const OwnedFd& memory) {
    const StagingRequest request = Await(connection);
    SendProbe(connection, 1 << 21, kProbe, memory.get());
    return request;
  }
  absl::StatusOr<std::optional<absl::Status>> AwaitProof(const OwnedFd& connection) {
    for (;;) {
      auto proof = ReceiveProof(connection);
      if (!proof.ok() || *proof) return proof;
    }
  }
  absl::StatusOr<StagingGrant> Ask(ProveMemory prove) {
    StagingRequest request{.session = {7}, .bytes = 1 << 21, .gpu = SideChannelUuid{9}};
    return RequestDeviceRegion(path_, request, absl::Seconds(30), prove);
  }
};

TEST_F(DeviceRegionTest, IsGrantedOnceItIsProved) {
  std::thread daemon([this] {
    const OwnedFd connection = Accept(listener_);
    const OwnedFd memory(memfd_create("any", 0));
    EXPECT_EQ(OfferMemory(connection, memory).gpu, SideChannelUuid{9});
    const auto proof = AwaitProof(connection);
    ASSERT_TRUE(proof.ok() && *proof);
    EXPECT_TRUE((*proof)->ok()) << **proof;
    SendProved(connection, {.region = 5});
  });
  auto granted = Ask([](const OwnedFd& memory, uint64_t bytes, const StagingProbe& probe) {
    EXPECT_TRUE(memory);
    EXPECT_EQ(bytes, 1u << 21);
    EXPECT_EQ(probe, kProbe);
    return absl::OkStatus();
  });
  daemon.join();
  ASSERT_TRUE(granted.ok()) << granted.status();
  EXPECT_EQ(granted->region, 5u);
  EXPECT_EQ(granted->bytes, 1u << 21);
}

TEST_F(DeviceRegionTest, TheDaemonHearsWhyAWorkerCannotUseIt) {
  std::thread daemon([this] {
    const OwnedFd connection = Accept(listener_);
    const OwnedFd memory(memfd_create("any", 0));
    OfferMemory(connection, memory);
    const auto proof = AwaitProof(connection);
    ASSERT_TRUE(proof.ok() && *proof);
    EXPECT_EQ(**proof, absl::FailedPreconditionError("not there"));
  });
  auto granted = Ask([](const OwnedFd&, uint64_t, const StagingProbe&) {
    return absl::FailedPreconditionError("not there");
  });
  daemon.join();
  EXPECT_EQ(granted.status(), absl::FailedPreconditionError("not there"));
}

TEST_F(DeviceRegionTest, TheDaemonMayRefuseWhatItFinds) {
  std::thread daemon([this] {
    const OwnedFd connection = Accept(listener_);
    const OwnedFd memory(memfd_create("any", 0));
    OfferMemory(connection, memory);
    AwaitProof(connection).IgnoreError();
    SendRefusal(connection, absl::FailedPreconditionError("no answer in it"));
  });
  auto granted =
      Ask([](const OwnedFd&, uint64_t, const StagingProbe&) { return absl::OkStatus(); });
  daemon.join();
  EXPECT_EQ(granted.status(), absl::FailedPreconditionError("no answer in it"));
}

TEST(StagingProbeTest, AnAnswerIsNoProbe) {
  const StagingProbe probe = {{0, 255, 7}};
  EXPECT_NE(probe.Answer(), probe);
  EXPECT_EQ(probe.Answer().Answer(), probe);
}

TEST_F(SideChannelTest, WhatIsNoRequestIsRefused) {
  OwnedFd worker(socket(AF_UNIX, SOCK_SEQPACKET, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path_.data(), path_.size());
  ASSERT_EQ(connect(worker.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const OwnedFd daemon = Accept(listener_);
  auto nothing_yet = ReceiveRequest(daemon);
  ASSERT_TRUE(nothing_yet.ok());
  EXPECT_FALSE(nothing_yet->has_value());
  const std::string long_garbage(5000, 'g');
  for (const std::string& garbage : {std::string("x"), std::string(32, 'g'), long_garbage}) {
    send(worker.get(), garbage.data(), garbage.size(), 0);
    EXPECT_EQ(ReceiveRequest(daemon).status().code(), absl::StatusCode::kInvalidArgument);
  }
  const uint32_t other_version[8] = {0x5353564b, 1};
  send(worker.get(), other_version, sizeof(other_version), 0);
  EXPECT_EQ(ReceiveRequest(daemon).status().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace kvstow
