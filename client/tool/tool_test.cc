// The tool as a user meets it: the real binary, its words and exit codes. Without a daemon, and
// with the scripted one.
#include <gmock/gmock.h>
#include <stdio.h>
#include <sys/wait.h>

#include <array>
#include <fstream>
#include <string>

#include "client/testing/fake_daemon.h"
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
  for (const char* word : {"health", "stats", "put", "lookup", "get", "inspect", "drop", "watch",
                           "bench", "Examples:", "Exit codes:", "--target"}) {
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
                         ::testing::Values("health", "stats", "put", "lookup", "get", "inspect",
                                           "drop", "watch", "bench"),
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
