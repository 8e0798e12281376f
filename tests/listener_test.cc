// Where the daemon listens and what it serves there besides its own API.
#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/raw_worker.h"

namespace kvstow::testing {
namespace {

// Whether a method exists, by what calling it with nothing gives.
bool IsServed(const std::string& target, const std::string& method) {
  grpc::GenericStub stub(grpc::CreateChannel(target, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  grpc::CompletionQueue queue;
  auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(), &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  return status.error_code() != grpc::StatusCode::UNIMPLEMENTED;
}

constexpr char kReflection[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
constexpr char kHealth[] = "/grpc.health.v1.Health/Check";

using ListenerTest = DaemonTest;

TEST_F(ListenerTest, TcpServesTheSame) {
  config_.rpc.tcp_address = "127.0.0.1:0";
  StartDaemon();
  ASSERT_EQ(daemon_->listeners().size(), 2u);
  EXPECT_THAT(daemon_->listeners()[1], ::testing::StartsWith("127.0.0.1:"));
  RawWorker worker(daemon_->listeners()[1]);
  worker.OpenSmall();
  EXPECT_EQ(worker.Lookup(SmallKeys(2)), 0u);
}

TEST_F(ListenerTest, APortThatIsTakenIsNamed) {
  config_.rpc.tcp_address = "127.0.0.1:0";
  StartDaemon();
  config_.rpc.tcp_address = daemon_->listeners()[1];
  config_.rpc.unix_socket += "2";
  const auto second = Daemon::Start(config_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()),
              ::testing::AllOf(::testing::HasSubstr(config_.rpc.tcp_address),
                               ::testing::HasSubstr("is the port free")));
  EXPECT_FALSE(std::filesystem::exists(config_.rpc.unix_socket)) << "it left its socket behind";
}

TEST_F(ListenerTest, NamesAndAddressesOfOthers) {
  config_.rpc.tcp_address = "localhost:0";
  StartDaemon();
  const std::string address = daemon_->listeners()[1];
  EXPECT_THAT(address, ::testing::StartsWith("localhost:"));
  RawWorker worker(address);
  worker.OpenSmall();
  daemon_.reset();
  config_.rpc.tcp_address = "192.0.2.1:0";
  EXPECT_THAT(std::string(Daemon::Start(config_).status().message()),
              ::testing::HasSubstr("192.0.2.1:0"));
}

TEST_F(ListenerTest, HealthIsServed) {
  StartDaemon();
  EXPECT_TRUE(IsServed(target(), kHealth));
  EXPECT_FALSE(IsServed(target(), "/no.such.Service/Method"));
}

TEST_F(ListenerTest, ReflectionIsBehindItsFlag) {
  StartDaemon();
  EXPECT_FALSE(IsServed(target(), kReflection));
  daemon_.reset();
  config_.rpc.reflection = true;
  StartDaemon();
  EXPECT_TRUE(IsServed(target(), kReflection));
}

}  // namespace
}  // namespace kvstow::testing
