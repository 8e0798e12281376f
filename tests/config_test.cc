#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/app/config.h"
#include "server/auth/testing/certificates.h"
#include "tests/testing/daemon_fixture.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;

class ConfigTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& text) {
    const std::string path = dir_.path() + "/kvstowd.textproto";
    std::ofstream(path) << text;
    return path;
  }
  void ExpectRefused(const std::string& text, const std::string& what) {
    const auto config = LoadConfig(Write(text), {});
    ASSERT_FALSE(config.ok()) << text;
    const std::string message(config.status().message());
    EXPECT_THAT(message, HasSubstr(what));
    EXPECT_THAT(message, HasSubstr("kvstowd.textproto")) << "the file must be named";
  }
  TempDir dir_;
};

TEST_F(ConfigTest, DefaultsAreSound) {
  const auto config = LoadConfig("", {});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->source, "embedded defaults");
  EXPECT_EQ(config->host_tier_bytes, uint64_t{1} << 30);
  EXPECT_EQ(config->rpc.unix_socket, "/run/kvstow/kvstowd.sock");
  EXPECT_TRUE(config->rpc.tcp_address.empty());
  EXPECT_GE(config->threads, 1u);
}

TEST_F(ConfigTest, FlagsOverrideTheFileAndTheFileTheDefaults) {
  const std::string file = Write("host_tier: '2GiB' threads: 3 limits { max_sessions: 7 }");
  ConfigOverrides flags;
  flags.threads = 5;
  const auto config = LoadConfig(file, flags);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->host_tier_bytes, uint64_t{2} << 30);
  EXPECT_EQ(config->threads, 5u);
  EXPECT_EQ(config->limits.max_sessions, 7u);
  EXPECT_EQ(config->limits.max_blocks_per_put, 256u)
      << "what the file leaves out keeps its default";
}

TEST_F(ConfigTest, NamesADevice) {
  using Device = DaemonConfig::Device;
  EXPECT_EQ(LoadConfig("", {})->device, Device::kAuto);
  EXPECT_EQ(LoadConfig(Write("device: 'cpu'"), {})->device, Device::kCpu);
  const auto second = LoadConfig(Write("device: 'cuda:1' gpu_tier: '2GiB'"), {});
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->device, Device::kCuda);
  EXPECT_EQ(second->device_index, 1);
  EXPECT_EQ(second->gpu_tier_bytes, uint64_t{2} << 30);
}

TEST_F(ConfigTest, TenantsAndTheirQuotas) {
  std::ofstream(dir_.path() + "/token") << "a-token-that-is-long-enough\n";
  const auto config = LoadConfig(
      Write(absl::StrCat("tenant { name: 'a' token_file: '", dir_.path(),
                         "/token' user: 7 admin: true quota { host_tier: '1MiB' leased: '10KiB' "
                         "streams: 3 requests_per_second: 0.5 sessions: 2 } } tenant { name: 'b' } "
                         "unix_tenant: 'b'")),
      {});
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->tenants.size(), 2u);
  EXPECT_EQ(config->tenants[0].users, std::vector<uid_t>{7});
  EXPECT_TRUE(config->tenants[0].admin);
  EXPECT_FALSE(config->tenants[1].admin);
  EXPECT_EQ(config->unix_tenant, "b");
  EXPECT_EQ(config->store.quotas[0].host_bytes, 1u << 20);
  EXPECT_EQ(config->store.quotas[0].gpu_bytes, UINT64_MAX);
  EXPECT_EQ(config->store.quotas[0].leased_bytes, 10u << 10);
  EXPECT_EQ(config->rpc.tenants[0].streams, 3u);
  EXPECT_EQ(config->rpc.tenants[0].requests_per_second, 0.5);
  EXPECT_EQ(config->rpc.tenants[1].streams, 0u);
  EXPECT_EQ(config->limits.tenant_sessions, (std::vector<uint32_t>{2, 0}));
}

TEST_F(ConfigTest, MistakesAboutTenantsAreNamed) {
  ExpectRefused("tenant { name: 'a b' }", "a name has 1 to 64 letters");
  ExpectRefused("tenant { name: 'a' }", "nobody can be it");
  ExpectRefused("tenant { name: 'a' certificate: 'x' }", "tls.client_ca");
  ExpectRefused("tenant { name: 'a' token_file: '/nonexistent' }", "/nonexistent cannot be read");
  ExpectRefused("tenant { name: 'a' } unix_tenant: 'b'", "nobody can be it");
  ExpectRefused("unix_tenant: 'b'", "there is no tenant 'b'");
  ExpectRefused("tenant { name: 'a' } tenant { name: 'a' } unix_tenant: 'a'", "two of that name");
  const std::string quota = "unix_tenant: 'a' tenant { name: 'a' quota { ";
  ExpectRefused(quota + "host_tier: '0' } }", "quota.host_tier: 0 would stop all work");
  ExpectRefused(quota + "leased: 'much' } }", "quota.leased: 'much' is no size");
  ExpectRefused(quota + "streams: 0 } }", "quota.streams: 0 would stop all work");
  ExpectRefused(quota + "sessions: 0 } }", "quota.sessions: 0 would stop all work");
  ExpectRefused(quota + "requests_per_second: 0 } }", "quota.requests_per_second: 0 would stop");
  ExpectRefused(quota + "requests_per_second: nan } }", "quota.requests_per_second: nan");
}

TEST_F(ConfigTest, MistakesAboutTlsAreNamed) {
  const Authority authority("test");
  const std::string crt = dir_.path() + "/crt", key = dir_.path() + "/key";
  const std::string tcp = "tcp: '0.0.0.0:7411' tls { ";
  authority.Issue({"kvstowd", ""}, crt, key);
  const auto good = LoadConfig(Write(absl::StrCat(tcp, "certificate: '", crt, "' key: '", key,
                                                  "' client_ca: '", crt, "' }")),
                               {});
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_TRUE(good->rpc.tls.require_client_certificate) << "there is nothing else to tell by";
  EXPECT_FALSE(good->insecure);
  ExpectRefused(absl::StrCat("tls { certificate: '", crt, "' key: '", key, "' }"),
                "tcp is not set");
  ExpectRefused(absl::StrCat(tcp, "certificate: '", crt, "' }"), "go together");
  ExpectRefused(absl::StrCat(tcp, "certificate: '", crt, "' key: '", crt, "' }"),
                "holds no PEM private key");
  ExpectRefused(absl::StrCat(tcp, "certificate: '/nonexistent' key: '", key, "' }"),
                "/nonexistent: cannot be read");
  ExpectRefused(
      absl::StrCat(tcp, "certificate: '", crt, "' key: '", key, "' client_ca: '/nonexistent' }"),
      "tls.client_ca: /nonexistent: cannot be read");
  authority.Issue({"kvstowd", "", -absl::Hours(2), -absl::Hours(1)}, crt, key);
  ExpectRefused(absl::StrCat(tcp, "certificate: '", crt, "' key: '", key, "' }"), "has expired");
  ExpectRefused(absl::StrCat("metrics_security { certificate: '", crt, "' }"),
                "metrics_security.certificate");
  ExpectRefused("metrics_security { user: 'p' }", "go together");
  ExpectRefused("metrics_security { user: 'p' password_file: '/nonexistent' }",
                "has no first line");
  ExpectRefused("overwrite_slack: 'maybe'", "use on or off");
  ExpectRefused("overwrite_scratch: 'maybe'", "use on or off");
}

TEST_F(ConfigTest, StreamsOfEvents) {
  std::ofstream(dir_.path() + "/token") << "a-token-that-is-long-enough\n";
  const auto config = LoadConfig(
      Write(absl::StrCat(
          "tenant { name: 'a' token_file: '", dir_.path(),
          "/token' } tenant { name: 'b' } unix_tenant: 'b' "
          "events { endpoint: 'ipc:///run/e' replay_endpoint: 'tcp://127.0.0.1:5558' topic: "
          "'kv@p@m' "
          "replay_buffer: '1MiB' tenant: 'b' model: 'm' form: 'array' block_hash: 'int' "
          "medium: 'CPU' dp_rank: 3 } events { endpoint: 'tcp://127.0.0.1:0' tenant: 'a' }")),
      {});
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->events.size(), 2u);
  const EventStreamOptions& b = config->events[0];
  EXPECT_EQ(b.endpoint, "ipc:///run/e");
  EXPECT_EQ(b.replay_endpoint, "tcp://127.0.0.1:5558");
  EXPECT_EQ(b.replay_bytes, 1u << 20);
  EXPECT_EQ(b.topic, "kv@p@m");
  EXPECT_EQ(b.tenant, TenantId{1});
  EXPECT_EQ(b.model, "m");
  EXPECT_EQ(b.medium, "CPU");
  EXPECT_EQ(b.format.form, EventFormat::Form::kArray);
  EXPECT_EQ(b.format.hash, EventFormat::Hash::kInteger);
  EXPECT_EQ(b.format.dp_rank, 3u);
  const EventStreamOptions& a = config->events[1];
  EXPECT_EQ(a.tenant, TenantId{0});
  EXPECT_EQ(a.format.form, EventFormat::Form::kMap);
  EXPECT_EQ(a.format.hash, EventFormat::Hash::kBytes);
  EXPECT_TRUE(a.replay_endpoint.empty());
  EXPECT_TRUE(LoadConfig("", {})->events.empty()) << "nobody is told without being asked for";
}

TEST_F(ConfigTest, AFlagReplacesTheStreamsOfTheFile) {
  const std::string file =
      Write("events { endpoint: 'ipc:///run/a' } events { endpoint: 'ipc:///run/b' }");
  EXPECT_EQ(LoadConfig(file, {})->events.size(), 2u);
  ConfigOverrides flags;
  flags.events = "ipc:///run/c";
  ASSERT_EQ(LoadConfig(file, flags)->events.size(), 1u);
  EXPECT_EQ(LoadConfig(file, flags)->events[0].endpoint, "ipc:///run/c");
  flags.events = "none";
  EXPECT_TRUE(LoadConfig(file, flags)->events.empty());
}

TEST_F(ConfigTest, MistakesAboutEventsAreNamed) {
  ExpectRefused("events { }", "events[0].endpoint: '' is no endpoint");
  ExpectRefused("events { endpoint: 'ipc:///run/e' } events { endpoint: 'tcp://*:5557' }",
                "events[1].endpoint: 'tcp://*:5557' can be read by everybody");
  ExpectRefused("events { endpoint: 'ipc:///run/e' replay_endpoint: 'tcp://10.0.0.1:5558' }",
                "events[0].replay_endpoint: 'tcp://10.0.0.1:5558' can be read by everybody");
  EXPECT_TRUE(LoadConfig(Write("insecure: true events { endpoint: 'tcp://*:5557' }"), {}).ok());
  const std::string events = "events { endpoint: 'ipc:///run/e' ";
  ExpectRefused(events + "} " + events + "}",
                "events[1].endpoint: ipc:///run/e is events[0].endpoint");
  ExpectRefused(events + "replay_endpoint: 'ipc:///run/e' }", "is events[0].endpoint, too");
  ExpectRefused(events + "replay_buffer: '1MiB' }",
                "replay_buffer: nobody could ask for it; set replay_endpoint");
  ExpectRefused(events + "replay_endpoint: 'ipc:///run/r' replay_buffer: 'much' }",
                "replay_buffer: 'much' is no size");
  ExpectRefused(events + "form: 'json' }", "events[0].form: 'json'; use map or array");
  ExpectRefused(events + "block_hash: 'hex' }", "events[0].block_hash: 'hex'; use bytes or int");
  ExpectRefused(events + "tenant: 'a' }", "name the one whose blocks are told: default");
  ExpectRefused(events + "topic: '" + std::string(300, 'x') + "' }",
                "events[0].topic: has 300 bytes");
  std::ofstream(dir_.path() + "/token") << "a-token-that-is-long-enough\n";
  const std::string tenants = absl::StrCat("tenant { name: 'a' token_file: '", dir_.path(),
                                           "/token' } tenant { name: 'b' } unix_tenant: 'b' ");
  ExpectRefused(tenants + events + "}", "name the one whose blocks are told: a, b");
  ExpectRefused(tenants + events + "tenant: 'c' }", "'c' is none of the tenants");
}

TEST_F(ConfigTest, MistakesAreNamed) {
  ExpectRefused("no_such_field: 1", "line 1");
  ExpectRefused("\nhost_tier: 5", "line 2");
  ExpectRefused("host_tier: 'lots'", "host_tier");
  ExpectRefused("host_tier: '10KiB'", "holds no block");
  ExpectRefused("device: 'tpu'", "device: 'tpu'; use auto");
  ExpectRefused("device: 'cuda:x'", "use auto, cpu, cuda");
  ExpectRefused("device: 'cpu' gpu_tier: '1GiB'", "needs a GPU");
  ExpectRefused("gpu_tier: '5KiB'", "gpu_tier: less than 1MiB");
  ExpectRefused("tcp: '127.0.0.1:7411'", "--insecure");
  ExpectRefused("tcp: 'nonsense' insecure: true", "not host:port");
  ExpectRefused("tcp: '127.0.0.1:99999' insecure: true", "not host:port");
  ExpectRefused("unix_socket: 'none'", "no listener is left");
  ExpectRefused("metrics: '9464'", "metrics");
  ExpectRefused("log_level: 'loud'", "log_level");
  ExpectRefused("threads: 5000", "threads");
  ExpectRefused("limits { max_leased_fraction: 2 }", "max_leased_fraction");
  ExpectRefused("limits { inflight: '0B' }", "limits.inflight");
  ExpectRefused("eviction { low_watermark: 0.99 }", "low_watermark");
}

TEST_F(ConfigTest, MissingFileIsNamed) {
  const auto config = LoadConfig("/nowhere/kvstowd.textproto", {});
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("/nowhere/kvstowd.textproto"));
}

TEST_F(ConfigTest, Sizes) {
  EXPECT_EQ(*ParseSize("5"), 5u);
  EXPECT_EQ(*ParseSize("5B"), 5u);
  EXPECT_EQ(*ParseSize("1KiB"), 1024u);
  EXPECT_EQ(*ParseSize("1.5GiB"), uint64_t{3} << 29);
  EXPECT_EQ(*ParseSize("2T"), uint64_t{2} << 40);
  for (const char* bad : {"", "GiB", "1 GiB", "-1", "1e3", "5PiB", "99999999999TiB"}) {
    EXPECT_FALSE(ParseSize(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace kvstow::testing
