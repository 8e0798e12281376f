// TCP behind TLS: who may talk to whom, and what renewing certificates under a running daemon does.
#include <fstream>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "client/channel.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "kvstow/client.h"
#include "server/auth/testing/certificates.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/raw_worker.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;

constexpr char kTokenB[] = "token-of-b-0123456789abcdef";

SpaceSpec OneLayer() {
  SpaceSpec spec;
  spec.model = {"tls-test", "", ""};
  LayerGroup group;
  group.layers = {0};
  group.kv_heads = 2;
  group.k_dim = group.v_dim = 64;
  spec.groups = {group};
  return spec;
}

// Tenant "a" is known by its certificate, "b" by its token.
class TlsTest : public DaemonTest {
 protected:
  TlsTest() {
    authority_.WriteCertificate(File("ca"));
    stranger_.WriteCertificate(File("other-ca"));
    authority_.Issue({"kvstowd", "DNS:localhost,IP:127.0.0.1"}, File("daemon"), File("daemon.key"));
    authority_.Issue({"worker of a", "URI:spiffe://test/a"}, File("a"), File("a.key"));
    std::ofstream(File("b.token")) << kTokenB;
    config_.rpc.tcp_address = "127.0.0.1:0";
    config_.rpc.tls = {.certificate = File("daemon"),
                       .key = File("daemon.key"),
                       .client_ca = File("ca"),
                       .require_client_certificate = false,
                       .reload_interval = absl::Seconds(1)};
    config_.tenants = {{.name = "a", .certificate_names = {"spiffe://test/a"}, .admin = true},
                       {.name = "b", .token_file = File("b.token"), .admin = true}};
  }

  std::string File(const std::string& name) const { return dir_.path() + "/" + name; }
  std::string Target() const { return daemon_->listeners()[1]; }
  ClientSecurity WithCertificate(const std::string& name) const {
    return {.ca_file = File("ca"), .certificate_file = File(name), .key_file = File(name + ".key")};
  }
  // How a call that any tenant may make ends.
  grpc::Status Call(const ClientSecurity& security) const {
    const auto stub = v1::Kvstow::NewStub(client::MakeChannel(Target(), security));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::StatsResponse response;
    return stub->Stats(&context, {}, &response);
  }
  void ExpectNoConnection(const ClientSecurity& security, const std::string& why) const {
    // Now and then gRPC tells of the socket that was closed for it, and not why.
    std::string told;
    for (int call = 0; call < 10 && told.find(why) == std::string::npos; ++call) {
      const grpc::Status status = Call(security);
      ASSERT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
      told = status.error_message();
    }
    EXPECT_THAT(told, HasSubstr(why));
  }

  const Authority authority_{"test authority"}, stranger_{"another authority"};
};

TEST_F(TlsTest, CertificatesAndTokensTellWhoCalls) {
  StartDaemon();
  EXPECT_EQ(Call(WithCertificate("a")).error_message(), "");
  EXPECT_EQ(Call({.ca_file = File("ca"), .token_file = File("b.token")}).error_message(), "");
  // The two are two.
  RawWorker a(client::MakeChannel(Target(), WithCertificate("a")));
  a.OpenSmall();
  RawWorker b(
      client::MakeChannel(Target(), {.ca_file = File("ca"), .token_file = File("b.token")}));
  b.OpenSmall();
  ASSERT_TRUE(a.Put(SmallKeys(1), {Planes(4, std::vector<std::byte>(32 << 10))}).status.ok());
  EXPECT_EQ(a.Lookup(SmallKeys(1)), 1u);
  EXPECT_EQ(b.Lookup(SmallKeys(1)), 0u);
}

TEST_F(TlsTest, ACertificateThatIsNoTenantsIsRefused) {
  authority_.Issue({"worker of c", "URI:spiffe://test/c"}, File("c"), File("c.key"));
  StartDaemon();
  const grpc::Status status = Call(WithCertificate("c"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(status.error_message(), HasSubstr("certificate is no tenant's"));
  EXPECT_EQ(Call({.ca_file = File("ca")}).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(TlsTest, AStrangersCertificateIsRefused) {
  // Says that it is a; somebody else says so.
  stranger_.Issue({"worker of a", "URI:spiffe://test/a"}, File("fake"), File("fake.key"));
  authority_.Issue({"worker of a", "URI:spiffe://test/a", -absl::Hours(2), -absl::Hours(1)},
                   File("late"), File("late.key"));
  StartDaemon();
  EXPECT_EQ(Call(WithCertificate("fake")).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(WithCertificate("late")).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(Call(WithCertificate("a")).ok());
}

TEST_F(TlsTest, WithoutOneWhereAllMustHaveOne) {
  config_.rpc.tls.require_client_certificate = true;
  StartDaemon();
  EXPECT_EQ(Call({.ca_file = File("ca"), .token_file = File("b.token")}).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(Call(WithCertificate("a")).ok());
}

TEST_F(TlsTest, TheClientKnowsItsDaemon) {
  StartDaemon();
  ClientSecurity security = WithCertificate("a");
  security.ca_file = File("other-ca");
  ExpectNoConnection(security, "certificate verify failed");
  security = WithCertificate("a");
  security.server_name = "kvstow.example";
  ExpectNoConnection(security, "");
  security.server_name = "localhost";
  EXPECT_TRUE(Call(security).ok());
  EXPECT_EQ(Call({}).error_code(), grpc::StatusCode::UNAVAILABLE) << "in clear";
}

TEST_F(TlsTest, AnExpiredDaemonIsRefused) {
  authority_.Issue({"kvstowd", "IP:127.0.0.1", -absl::Hours(2), -absl::Hours(1)}, File("daemon"),
                   File("daemon.key"));
  StartDaemon();  // which checks only its configuration file
  ExpectNoConnection(WithCertificate("a"), "certificate verify failed");
}

TEST_F(TlsTest, CertificatesAreRenewedUnderARunningDaemon) {
  StartDaemon();
  RawWorker before(client::MakeChannel(Target(), WithCertificate("a")));
  before.OpenSmall();
  // The whole authority changes: what the daemon shows, and whom it trusts.
  stranger_.WriteCertificate(File("ca"));
  stranger_.Issue({"kvstowd", "IP:127.0.0.1"}, File("daemon"), File("daemon.key"));
  stranger_.Issue({"worker of a", "URI:spiffe://test/a"}, File("a"), File("a.key"));
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (!Call(WithCertificate("a")).ok()) ASSERT_LT(absl::Now(), deadline);
  EXPECT_EQ(before.Lookup(SmallKeys(1)), 0u) << "connections made before go on";
}

TEST_F(TlsTest, TheClientLibraryPutsAndGets) {
  StartDaemon();
  ClientOptions options;
  options.target = Target();
  options.security = WithCertificate("a");
  options.connect_wait = options.lookup_deadline = absl::Seconds(20);
  const auto client = Client::Create(options);
  const auto space = *client->OpenSpace(OneLayer());
  const auto keys = space->Keys(std::vector<uint32_t>(128, 7));
  const std::vector<std::byte> values(2 * 128 * 64 * 2, std::byte{60});
  const auto put = space->PutBlocks(
      {.keys = keys, .source = [&](const PlaneSpec&, size_t) { return std::span(values); }});
  EXPECT_EQ(put.stored, 1u) << put.status;
  EXPECT_EQ(put.path, DataPath::kGrpc);
  EXPECT_EQ(space->Lookup(keys).blocks, 1u);
}

TEST_F(TlsTest, TheClientLibrarySaysWhatIsWrongWithItsFiles) {
  StartDaemon();
  ClientOptions options;
  options.target = Target();
  options.security = WithCertificate("a");
  options.security.key_file = File("missing.key");
  options.connect_wait = options.lookup_deadline = absl::Milliseconds(100);
  const auto client = Client::Create(options);
  const auto space = *client->OpenSpace(OneLayer());
  const auto keys = space->Keys(std::vector<uint32_t>(128, 7));
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (!absl::StrContains(client->health().last_error.message(), "missing.key cannot be read")) {
    EXPECT_EQ(space->Lookup(keys).blocks, 0u);
    ASSERT_LT(absl::Now(), deadline) << client->health().last_error;
  }
}

TEST(ClientSecurityTest, WhatCannotWorkIsSaid) {
  const auto message = [](const std::string& target, const ClientSecurity& security) {
    return std::string(client::CheckSecurity(target, security).message());
  };
  EXPECT_EQ(message("unix:/x", {}), "");
  EXPECT_EQ(message("unix:/x", {.token_file = "/dev/null"}), "");
  EXPECT_THAT(message("h:1", {.token_file = "/dev/null"}), HasSubstr("in clear"));
  EXPECT_THAT(message("h:1", {.certificate_file = "/dev/null"}), HasSubstr("go together"));
  EXPECT_THAT(message("h:1", {.certificate_file = "/dev/null", .key_file = "/dev/null"}),
              HasSubstr("needs TLS"));
  EXPECT_THAT(message("unix:/x", {.ca_file = "/dev/null"}), HasSubstr("has no TLS"));
  EXPECT_THAT(message("h:1", {.ca_file = "/nonexistent"}), HasSubstr("cannot be read"));
}

}  // namespace
}  // namespace kvstow::testing
