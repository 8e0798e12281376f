// `kvstow bench` on each data path against a real daemon, whose GPU, like the tool's, is the fake
// plugin's. The real binary.
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/process.h"

namespace kvstow::testing {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

class BenchCommandTest : public DaemonTest {
 protected:
  BenchCommandTest() {
    config_.device = DaemonConfig::Device::kCuda;
    config_.gpu_plugin = FAKE_PLUGIN;
  }
  struct Ran {
    int code = -1;
    std::string output;
  };
  // A few operations of every kind.
  Ran Bench(const std::vector<std::string>& flags) const {
    std::vector<std::string> argv = {KVSTOW,           "bench",       "--target=" + target(),
                                     "--ops=12",       "--threads=2", "--seconds=60",
                                     "--deadline=30s", "--layers=2",  "--kv_heads=2",
                                     "--k_dim=64",     "--v_dim=64",  "--blocks=2",
                                     "--json"};
    argv.insert(argv.end(), flags.begin(), flags.end());
    const std::string out = dir_.path() + "/bench.out";
    std::filesystem::remove(out);
    const int code = Process(argv, out).Wait();
    return {code, ReadFile(out)};
  }
  static std::string Plugin() { return absl::StrCat("--gpu_plugin=", FAKE_PLUGIN); }
};

TEST_F(BenchCommandTest, MeasuresEveryPath) {
  StartDaemon();
  for (const std::string path : {"grpc", "shm", "cuda"}) {
    const Ran ran = Bench({"--path=" + path, Plugin()});
    EXPECT_EQ(ran.code, 0) << path << "\n" << ran.output;
    EXPECT_THAT(ran.output, HasSubstr(absl::StrCat("\"path\":\"", path, "\""))) << path;
    for (const std::string op : {"put", "get", "lookup"}) {
      EXPECT_THAT(ran.output, ContainsRegex(absl::StrCat(
                                  "\"", op, "\":\\{\"count\":[1-9]\\d*,\"failures\":0,")))
          << path;
    }
  }
}

TEST_F(BenchCommandTest, SaysWhyItHasNoDeviceMemory) {
  StartDaemon();
  const Ran no_plugin = Bench({"--path=cuda", "--gpu_plugin=/none"});
  EXPECT_EQ(no_plugin.code, 2);
  EXPECT_THAT(no_plugin.output, AllOf(HasSubstr("no device memory for --path=cuda"),
                                      HasSubstr("cannot load the GPU plugin")));
  daemon_.reset();
  config_.staging.device_budget_bytes = 0;
  StartDaemon();
  const Ran none_shared = Bench({"--path=cuda", Plugin()});
  EXPECT_EQ(none_shared.code, 2);
  EXPECT_THAT(none_shared.output, HasSubstr("shares none"));
}

TEST_F(BenchCommandTest, NoPathButItsOwn) {
  StartDaemon();
  EXPECT_EQ(Bench({"--path=cuda", "--coding=worker", Plugin()}).code, 64);
  EXPECT_EQ(Bench({"--path=nvlink"}).code, 64);
}

}  // namespace
}  // namespace kvstow::testing
