// The tool as a user meets it: the real binary, its words and exit codes. Without a daemon, and
// with the scripted one.
#include <gmock/gmock.h>
#include <stdio.h>
#include <sys/wait.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <string>

#include "client/testing/fake_daemon.h"
#include "client/tool/doctor/machine.h"
#include "client/tool/flag_set.h"
#include "client/tool/format.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace kvstow::tool {
namespace {

using ::testing::HasSubstr;

struct Ran {
  int code = -1;
  std::string output;  // stdout and stderr
};

Ran Kvstow(const std::string& args) {
  Ran ran;
  FILE* pipe = popen((std::string(KVSTOW_TOOL) + " " + args + " 2>&1").c_str(), "r");
  std::array<char, 4096> buffer;
  while (const size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) {
    ran.output.append(buffer.data(), n);
  }
  const int status = pclose(pipe);
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return ran;
}

constexpr char kNobody[] = "--target=unix:/nonexistent/kvstowd.sock";
const std::string kTraces = std::string(KVSTOW_SOURCE_DIR) + "/testdata/kv-traces/";

TEST(ToolTest, HelpTeaches) {
  const Ran help = Kvstow("--help");
  EXPECT_EQ(help.code, 0);
  for (const char* word : {"health", "doctor", "stats", "put", "lookup", "get", "inspect", "drop",
                           "watch", "bench", "Examples:", "Exit codes:", "--target"}) {
    EXPECT_THAT(help.output, HasSubstr(word));
  }
}

class CommandTest : public ::testing::TestWithParam<const char*> {};

TEST_P(CommandTest, HasHelpAndRefusesUnknownFlags) {
  const std::string name = GetParam();
  const Ran help = Kvstow(name + " --help");
  EXPECT_EQ(help.code, 0);
  EXPECT_THAT(help.output, HasSubstr("kvstow " + name));
  EXPECT_THAT(help.output, HasSubstr("--target"));
  EXPECT_THAT(help.output, HasSubstr("Exit codes:"));
  const Ran unknown = Kvstow(name + " --no_such_flag=1");
  EXPECT_EQ(unknown.code, 64);
  EXPECT_THAT(unknown.output, HasSubstr("unknown flag --no_such_flag"));
}

INSTANTIATE_TEST_SUITE_P(Commands, CommandTest,
                         ::testing::Values("health", "doctor", "stats", "put", "lookup", "get",
                                           "inspect", "drop", "watch", "bench"),
                         [](const auto& info) { return std::string(info.param); });

TEST(ToolTest, BadUsage) {
  const std::string space = " --model=m --layers=2 --kv_heads=2 --k_dim=64";
  const std::vector<std::string> bad = {
      "",
      "nonsense",
      "stats stray",
      "stats --deadline",
      "stats --deadline=soon",
      "stats --json=maybe",
      "lookup",
      "lookup --model=m",
      "lookup" + space,
      "lookup --tokens=/nonexistent.npy" + space,
      "lookup --space=/nonexistent --tokens=x",
      "lookup --dtype=fp8" + space,
      "lookup --bits=5 --tokens=x" + space,
      "put --k=/nonexistent.npy --v=/nonexistent.npy --model=m",
      "put --k=" + kTraces + "text_tokens.npy --v=" + kTraces + "text_v.npy --model=m",
      "inspect --key=abc" + space,
      "drop" + space,
      "drop --all --key=00" + space,
      "bench --mix=put,swim",
      "bench --threads=0",
  };
  for (const std::string& args : bad) {
    const Ran ran = Kvstow(args);
    EXPECT_EQ(ran.code, 64) << args << "\n" << ran.output;
    EXPECT_THAT(ran.output, HasSubstr("kvstow")) << args;
  }
}

TEST(ToolTest, NoDaemonSaysWhatToDo) {
  for (const std::string command :
       {"health", "stats", "drop --all --model=m --layers=2 --kv_heads=2 --k_dim=64",
        "watch --model=m --layers=2 --kv_heads=2 --k_dim=64",
        "bench --layers=1 --kv_heads=1 --blocks=1 --seconds=1"}) {
    const Ran ran = Kvstow(command + " " + kNobody);
    EXPECT_EQ(ran.code, 2) << command;
    EXPECT_THAT(ran.output, HasSubstr("no daemon at unix:/nonexistent/kvstowd.sock")) << command;
    EXPECT_THAT(ran.output, HasSubstr("start kvstowd")) << command;
  }
}

TEST(ToolTest, PutLookupGetDrop) {
  client::testing::FakeDaemon daemon;
  const testing::TempDir dir;
  const std::string& folder = dir.path();
  const std::string target = " --target=" + daemon.target();
  const std::string space = folder + "/tool_test_space.textproto";
  const std::string prompt = " --tokens=" + kTraces + "text_tokens.npy --space=" + space + target;
  const std::string put = "put --k=" + kTraces + "text_k.npy --v=" + kTraces +
                          "text_v.npy --tokens=" + kTraces +
                          "text_tokens.npy --model=m --inv_freq=" + kTraces +
                          "inv_freq.npy --codec=raw --write_space=" + space + target;
  const Ran stored = Kvstow(put);
  EXPECT_EQ(stored.code, 0) << stored.output;
  EXPECT_THAT(stored.output, HasSubstr("8 stored"));
  EXPECT_THAT(Kvstow(put).output, HasSubstr("8 existed"));
  const Ran found = Kvstow("lookup" + prompt);
  EXPECT_EQ(found.code, 0) << found.output;
  EXPECT_THAT(found.output, HasSubstr("8 of 8 blocks, 1024 tokens"));
  const Ran both = Kvstow("lookup --codec=raw" + prompt);
  EXPECT_EQ(both.code, 64);
  const Ran dropped = Kvstow("drop --all --space=" + space + target);
  EXPECT_EQ(dropped.code, 0) << dropped.output;
  EXPECT_EQ(Kvstow("drop --all --space=" + space + target).code, 1);
  EXPECT_EQ(Kvstow("lookup" + prompt).code, 1);
  EXPECT_EQ(Kvstow("get" + prompt).code, 1);
}

TEST(ToolTest, StalledDaemonEndsWithTheDeadline) {
  client::testing::FakeDaemon daemon;
  daemon.hooks().session = [&](auto* context) { return daemon.Stall(context); };
  const Ran ran =
      Kvstow("drop --all --model=m --layers=2 --kv_heads=2 --k_dim=64 --deadline=200ms" +
             (" --target=" + daemon.target()));
  EXPECT_EQ(ran.code, 2);
  EXPECT_THAT(ran.output, HasSubstr("did not answer within 200ms"));
}

TEST(ToolTest, DoctorKnowsAnotherVersion) {
  client::testing::FakeDaemon daemon;
  const Ran ran = Kvstow("doctor --target=" + daemon.target());
  EXPECT_THAT(ran.output, HasSubstr("warn  version        kvstowd is 0.0.1, this tool "));
  // Which has no Stats, and says so.
  EXPECT_THAT(ran.output, HasSubstr("FAIL  store          UNIMPLEMENTED"));
  EXPECT_EQ(ran.code, 1) << ran.output;
}

TEST(ToolTest, DoctorOfADaemonThatDoesNotOpenSessions) {
  client::testing::FakeDaemon daemon;
  daemon.hooks().session = [&](auto* context) { return daemon.Stall(context); };
  const Ran ran = Kvstow("doctor --deadline=200ms --target=" + daemon.target());
  EXPECT_THAT(ran.output, HasSubstr("FAIL  session        DEADLINE_EXCEEDED"));
  EXPECT_EQ(ran.code, 1) << ran.output;
}

// What the kernel would say of a container, in a folder.
class DoctorMemoryTest : public ::testing::Test {
 protected:
  void Write(const std::string& file, const std::string& text) const {
    const std::filesystem::path path = root() + file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text << "\n";
  }
  std::string root() const { return dir_.path(); }
  std::string LineOf(const std::string& check, const DaemonNeeds& daemon) const {
    std::string line;
    Checkup checkup([&](const Finding& f) {
      if (f.check == check) line = Name(f.level) + " " + f.found + " -> " + f.change;
    });
    CheckMemory(daemon, &checkup, root());
    return line;
  }
  const testing::TempDir dir_;
};

TEST_F(DoctorMemoryTest, TheTightestGroupBounds) {
  EXPECT_FALSE(ReadMemoryBound("self", root()));
  EXPECT_THAT(LineOf("memory", {}), HasSubstr("skip no cgroup v2"));
  Write("/proc/self/cgroup", "0::/pod/container");
  Write("/sys/fs/cgroup/pod/memory.max", "1073741824");
  Write("/sys/fs/cgroup/pod/memory.current", "1048576");
  Write("/sys/fs/cgroup/pod/container/memory.max", "max");
  Write("/sys/fs/cgroup/pod/container/memory.current", "4096");
  const auto bound = ReadMemoryBound("self", root());
  ASSERT_TRUE(bound);
  EXPECT_EQ(bound->limit, uint64_t{1} << 30);
  EXPECT_EQ(bound->used, uint64_t{1} << 20);
  EXPECT_THAT(LineOf("memory", {}), HasSubstr("ok 1.00 MiB of this container's limit of 1.00 GiB"));
  Write("/sys/fs/cgroup/pod/memory.current", "1000000000");
  EXPECT_THAT(LineOf("memory", {}), HasSubstr("raise the memory limit"));
}

// In a container's own namespace its group is the top, whatever the path.
TEST_F(DoctorMemoryTest, AContainersOwnGroup) {
  Write("/proc/self/cgroup", "0::/../elsewhere");
  Write("/sys/fs/cgroup/memory.max", "1073741824");
  Write("/sys/fs/cgroup/memory.current", "0");
  EXPECT_EQ(ReadMemoryBound("self", root())->limit, uint64_t{1} << 30);
  Write("/sys/fs/cgroup/memory.max", "max");
  EXPECT_FALSE(ReadMemoryBound("self", root())->limit);
  EXPECT_THAT(LineOf("memory", {}), HasSubstr("no memory limit"));
}

TEST_F(DoctorMemoryTest, TheDaemonsLimitIsHeldToItsTiers) {
  Write("/proc/self/cgroup", "0::/pod");
  Write("/proc/7/cgroup", "0::/pod");
  Write("/proc/8/cgroup", "0::/other");
  Write("/proc/meminfo", "MemTotal:       16777216 kB");
  Write("/sys/fs/cgroup/pod/memory.max", std::to_string(uint64_t{8} << 30));
  Write("/sys/fs/cgroup/pod/memory.current", "0");
  const auto line = [&](const DaemonNeeds& daemon) { return LineOf("daemon memory", daemon); };
  EXPECT_THAT(line({.reached = false}), HasSubstr("skip no daemon"));
  EXPECT_THAT(line({.reached = true, .process = 0}), HasSubstr("not of this container"));
  EXPECT_THAT(line({.reached = true, .process = 8}), HasSubstr("not of this container"));
  EXPECT_THAT(line({.reached = true, .process = 7}), HasSubstr("for admins to see"));
  DaemonNeeds daemon{.reached = true, .process = 7, .host_tier = uint64_t{5} << 30};
  EXPECT_THAT(line(daemon), HasSubstr("ok limit 8.00 GiB; a host tier of 5.00 GiB"));
  daemon.uses_gpu = true;
  EXPECT_THAT(line(daemon), HasSubstr("FAIL limit 8.00 GiB"));
  daemon = {.reached = true, .process = 7, .host_tier = uint64_t{8} << 30};
  EXPECT_THAT(line(daemon), HasSubstr("needs 10.75 GiB -> raise the memory limit"));
  Write("/sys/fs/cgroup/pod/memory.max", "max");
  EXPECT_THAT(line(daemon), HasSubstr("ok memory of the machine 16.00 GiB"));
}

TEST(FlagSetTest, Forms) {
  std::string text = "default";
  bool on = false;
  uint32_t number = 0;
  absl::Duration time;
  FlagSet flags;
  flags.Add("text", &text, "");
  flags.Add("on", &on, "");
  flags.Add("number", &number, "");
  flags.Add("time", &time, "");
  EXPECT_TRUE(flags.Parse({"--text", "a=b", "--on", "--number=7", "--time=1.5"}).ok());
  EXPECT_EQ(text, "a=b");
  EXPECT_TRUE(on);
  EXPECT_EQ(number, 7u);
  EXPECT_EQ(time, absl::Milliseconds(1500));
  EXPECT_TRUE(flags.given("on"));
  EXPECT_TRUE(flags.Parse({"--on=false", "--time=20ms"}).ok());
  EXPECT_FALSE(on);
  for (const char* bad :
       {"--number=-1", "--number=x", "--time=-1s", "--on=7x", "-x", "--", "--text"}) {
    EXPECT_FALSE(flags.Parse({bad}).ok()) << bad;
  }
}

TEST(FormatTest, Numbers) {
  EXPECT_EQ(Bytes(1023), "1023 B");
  EXPECT_EQ(Bytes(1536), "1.50 KiB");
  EXPECT_EQ(Bytes(uint64_t{3} << 40), "3.00 TiB");
  EXPECT_EQ(Count(0), "0");
  EXPECT_EQ(Count(999), "999");
  EXPECT_EQ(Count(1234567), "1,234,567");
  Table table({"a", "bb"});
  table.Row({"ccc", "d"});
  EXPECT_EQ(table.Render(), "a    bb\nccc   d\n");
}

}  // namespace
}  // namespace kvstow::tool
