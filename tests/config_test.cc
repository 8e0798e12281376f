#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/app/config.h"
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
