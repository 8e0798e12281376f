// The daemon as a process, and the client library against it: killed, stopped, restarted, told to
// stop. What a worker sees is a miss within its deadline, and its memory stays its own.
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstow/client.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/process.h"
#include "tests/testing/way.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;

// A call may overrun its deadline by the scheduling noise of a busy machine, not by more.
constexpr absl::Duration kSlack = absl::Seconds(5);

SpaceSpec Spec() {
  SpaceSpec spec;
  spec.model = {"process-test", "", ""};
  LayerGroup group;
  group.layers = {0, 1, 2, 3};
  group.kv_heads = 2;
  group.k_dim = group.v_dim = 64;
  spec.groups = {group};
  return spec;
}

// Everything here holds on every data path, whoever codes.
class ProcessTest : public ::testing::TestWithParam<Way> {
 protected:
  void Start() {
    daemon_ = std::make_unique<Process>(
        std::vector<std::string>{KVSTOWD, "--unix_socket=" + socket_, "--metrics=none",
                                 "--host_tier=64MiB", "--shutdown_grace_seconds=2"},
        log_);
  }
  void Connect() {
    ClientOptions options;
    options.target = "unix:" + socket_;
    GetParam().ApplyTo(&options);
    options.connect_wait = absl::Seconds(20);
    options.lookup_deadline = absl::Seconds(20);
    options.get_deadline = absl::Seconds(20);
    options.put_deadline = absl::Seconds(20);
    options.breaker_failures = 1000;  // the breaker has its own tests
    client_ = Client::Create(options);
    space_ = *client_->OpenSpace(Spec());
    std::vector<uint32_t> tokens(4 * 128);
    std::iota(tokens.begin(), tokens.end(), 0u);
    keys_ = space_->Keys(tokens);
    for (size_t b = 0; b < keys_.size(); ++b) blocks_.push_back(MakeBlock(space_->layout(), b));
  }
  void SetUp() override {
    Start();
    Connect();
  }
  void TearDown() override {
    client_.reset();
    daemon_.reset();
  }

  size_t PlaneIndex(const PlaneSpec& plane) const {
    return static_cast<size_t>(&plane - space_->layout().planes().data());
  }
  PutBlocksRequest PutRequest() {
    PutBlocksRequest request;
    request.keys = keys_;
    request.source = [this](const PlaneSpec& plane, size_t block) {
      return std::span<const std::byte>(blocks_[block][PlaneIndex(plane)]);
    };
    return request;
  }
  // Puts until the daemon takes it: right after a start it may not listen yet.
  void PutAll() {
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    while (absl::Now() < deadline) {
      const auto put = space_->PutBlocks(PutRequest());
      if (put.stored + put.existed == keys_.size()) return;
    }
    FAIL() << "the daemon never stored the blocks: " << ReadFile(log_);
  }
  GetBlocksRequest GetRequest() {
    got_.assign(keys_.size(),
                std::vector<std::vector<std::byte>>(space_->layout().planes().size()));
    GetBlocksRequest request;
    request.keys = keys_;
    request.destination = [this](const PlaneSpec& plane, size_t block) {
      auto& bytes = got_[block][PlaneIndex(plane)];
      bytes.resize(plane.raw_bytes);
      return std::span<std::byte>(bytes);
    };
    return request;
  }

  TempDir dir_;
  const std::string socket_ = dir_.path() + "/d.sock", log_ = dir_.path() + "/log";
  std::unique_ptr<Process> daemon_;
  std::unique_ptr<Client> client_;
  std::shared_ptr<Space> space_;
  std::vector<BlockKey> keys_;
  std::vector<std::vector<std::vector<std::byte>>> blocks_, got_;
};

INSTANTIATE_TEST_SUITE_P(Paths, ProcessTest, AllWays(), ::testing::PrintToStringParamName());

TEST_P(ProcessTest, PutThenGetGivesEverythingBack) {
  PutAll();
  EXPECT_EQ(space_->Lookup(keys_).blocks, keys_.size());
  std::vector<uint32_t> layers;
  GetBlocksRequest request = GetRequest();
  request.on_layer = [&](uint32_t layer, size_t usable) {
    EXPECT_EQ(usable, keys_.size());
    layers.push_back(layer);
  };
  const auto get = space_->GetBlocks(request);
  EXPECT_EQ(get.usable, keys_.size()) << get.status;
  EXPECT_EQ(get.path, GetParam().path);
  EXPECT_EQ(layers, (std::vector<uint32_t>{0, 1, 2, 3}));
  for (size_t b = 0; b < keys_.size(); ++b) {
    for (size_t p = 0; p < blocks_[b].size(); ++p) {
      EXPECT_LT(Nmse(blocks_[b][p], got_[b][p]), 0.1);
    }
  }
}

TEST_P(ProcessTest, DaemonKilledDuringPut) {
  PutAll();
  space_->DropAll().IgnoreError();
  PutBlocksRequest request = PutRequest();
  request.deadline = absl::Seconds(2);
  const auto source = request.source;
  request.source = [&](const PlaneSpec& plane, size_t block) {
    if (plane.layer == 2 && daemon_->running()) {
      daemon_->Signal(SIGKILL);
      daemon_->Wait();
    }
    return source(plane, block);
  };
  const absl::Time start = absl::Now();
  const auto put = space_->PutBlocks(request);
  EXPECT_LT(absl::Now() - start, absl::Seconds(2) + kSlack);
  EXPECT_EQ(put.stored, 0u);
  EXPECT_FALSE(put.status.ok());
}

TEST_P(ProcessTest, DaemonKilledDuringGet) {
  PutAll();
  GetBlocksRequest request = GetRequest();
  request.deadline = absl::Seconds(2);
  bool killed = false;
  const auto destination = request.destination;
  request.destination = [&](const PlaneSpec& plane, size_t block) {
    if (!killed) {
      daemon_->Signal(SIGKILL);
      daemon_->Wait();
      killed = true;
    }
    return destination(plane, block);
  };
  const absl::Time start = absl::Now();
  const auto get = space_->GetBlocks(request);
  EXPECT_LT(absl::Now() - start, absl::Seconds(2) + kSlack);
  // What had already travelled may be complete; then it is right, and the call says so.
  if (get.usable < keys_.size()) {
    EXPECT_FALSE(get.status.ok());
  }
  for (size_t b = 0; b < get.usable; ++b) {
    for (size_t p = 0; p < blocks_[b].size(); ++p) EXPECT_LT(Nmse(blocks_[b][p], got_[b][p]), 0.1);
  }
}

TEST_P(ProcessTest, DaemonStoppedDuringGetWritesNothingLate) {
  PutAll();
  daemon_->Signal(SIGSTOP);
  GetBlocksRequest request = GetRequest();
  request.deadline = absl::Milliseconds(300);
  const absl::Time start = absl::Now();
  const auto get = space_->GetBlocks(request);
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(300) + kSlack);
  EXPECT_EQ(get.usable, 0u);
  // The worker reuses its pages.
  for (auto& block : got_) {
    for (auto& plane : block) std::fill(plane.begin(), plane.end(), std::byte{0xa5});
  }
  daemon_->Signal(SIGCONT);
  EXPECT_EQ(space_->Lookup(keys_).blocks, keys_.size()) << "the daemon goes on";
  for (const auto& block : got_) {
    for (const auto& plane : block) {
      for (std::byte b : plane) ASSERT_EQ(b, std::byte{0xa5}) << "written after the call returned";
    }
  }
}

TEST_P(ProcessTest, DaemonStoppedDuringPutStoresNothingLate) {
  PutAll();
  ASSERT_TRUE(space_->DropAll().ok());
  PutBlocksRequest request = PutRequest();
  request.deadline = absl::Milliseconds(300);
  const auto source = request.source;
  request.source = [&](const PlaneSpec& plane, size_t block) {
    if (plane.layer == 1) daemon_->Signal(SIGSTOP);
    return source(plane, block);
  };
  const absl::Time start = absl::Now();
  const auto put = space_->PutBlocks(request);
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(300) + kSlack);
  EXPECT_EQ(put.stored, 0u);
  daemon_->Signal(SIGCONT);
  EXPECT_EQ(space_->Lookup(keys_).blocks, 0u) << "a Put that was given up became visible";
}

// Everything has been handed over, the commit included, and the daemon has not read it yet: what it
// reads later must be what was put, whatever the worker does with its memory meanwhile.
TEST_P(ProcessTest, DaemonStoppedBeforeItReadsStoresNothingForeign) {
  PutAll();
  ASSERT_TRUE(space_->DropAll().ok());
  const auto original = blocks_;
  PutBlocksRequest request = PutRequest();
  request.deadline = absl::Milliseconds(300);
  const auto source = request.source;
  request.source = [&](const PlaneSpec& plane, size_t block) {
    if (plane.layer == 0 && block == 0 && plane.kind == PlaneKind::kK) daemon_->Signal(SIGSTOP);
    return source(plane, block);
  };
  EXPECT_EQ(space_->PutBlocks(request).stored, 0u);
  // The worker reuses its pages, for the same keys' neighbours and for anything else.
  for (auto& block : blocks_) {
    for (auto& plane : block) std::fill(plane.begin(), plane.end(), std::byte{0x3c});
  }
  daemon_->Signal(SIGCONT);
  const auto keys = keys_;
  std::vector<uint32_t> tokens(4 * 128, 99);
  keys_ = space_->Keys(tokens);
  PutAll();
  keys_ = keys;
  const size_t matched = space_->Lookup(keys_).blocks;
  const auto get = space_->GetBlocks(GetRequest());
  ASSERT_GE(get.usable, matched);
  for (size_t b = 0; b < get.usable; ++b) {
    for (size_t p = 0; p < original[b].size(); ++p) {
      EXPECT_LT(Nmse(original[b][p], got_[b][p]), 0.1) << "foreign bytes under an old key";
    }
  }
}

// However many planes there are, and however small: none costs the daemon stack or a chunk of its
// own.
TEST_P(ProcessTest, VeryManyVerySmallPlanes) {
  PutAll();
  SpaceSpec spec;
  spec.model = {"small-planes", "", ""};
  LayerGroup group;
  for (uint32_t layer = 0; layer < 1024; ++layer) group.layers.push_back(layer);
  group.kind = LayerGroup::Kind::kOpaque;
  group.opaque_bytes = 1;
  spec.groups = {group};
  const auto space = client_->OpenSpace(spec);
  ASSERT_TRUE(space.ok()) << space.status();
  constexpr size_t kBlocks = 48;
  const auto keys = (*space)->Keys(std::vector<uint32_t>(kBlocks * 128, 5));
  std::byte value;
  const auto put =
      (*space)->PutBlocks({.keys = keys, .source = [&](const PlaneSpec& plane, size_t block) {
                             value = static_cast<std::byte>(plane.layer + block);
                             return std::span<const std::byte>(&value, 1);
                           }});
  ASSERT_EQ(put.stored, kBlocks) << put.status;
  std::vector<std::vector<std::byte>> got(kBlocks, std::vector<std::byte>(1024));
  GetBlocksRequest request;
  request.keys = keys;
  request.destination = [&](const PlaneSpec& plane, size_t block) {
    return std::span<std::byte>(&got[block][plane.layer], 1);
  };
  const auto get = (*space)->GetBlocks(request);
  EXPECT_EQ(get.usable, kBlocks) << get.status;
  EXPECT_EQ(got[7][1000], static_cast<std::byte>(1007));
  EXPECT_TRUE(daemon_->running());
}

TEST_P(ProcessTest, RestartIsAMissAndThenWorksAgain) {
  PutAll();
  const std::string before = client_->health().instance_id;
  daemon_->Signal(SIGKILL);
  daemon_->Wait();
  const absl::Time start = absl::Now();
  LookupOptions soon;
  soon.deadline = absl::Milliseconds(200);
  EXPECT_EQ(space_->Lookup(keys_, soon).blocks, 0u);
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(200) + kSlack);
  Start();
  PutAll();
  EXPECT_EQ(space_->Lookup(keys_).blocks, keys_.size());
  EXPECT_NE(client_->health().instance_id, before);
  EXPECT_GE(client_->health().sessions, 2u);
}

TEST_P(ProcessTest, SigtermExitsZero) {
  PutAll();
  daemon_->Signal(SIGTERM);
  EXPECT_EQ(daemon_->Wait(), 0) << ReadFile(log_);
  EXPECT_THAT(ReadFile(log_), HasSubstr("kvstowd started"));
  EXPECT_THAT(ReadFile(log_), HasSubstr("kvstowd stopped"));
}

TEST_P(ProcessTest, StartUpLineSaysWhatWasChosen) {
  PutAll();
  const std::string log = ReadFile(log_);
  for (const char* part : {"config=\"embedded defaults\"", "device=cpu", "tiers=host:64MiB",
                           "listeners=unix:", "metrics=none", "threads="}) {
    EXPECT_THAT(log, HasSubstr(part));
  }
}

// The C ABI, in a process of its own (tests/c_api_test.c).
TEST_P(ProcessTest, ACProgramWorksWithTheDaemon) {
  PutAll();
  const std::string out = dir_.path() + "/c";
  EXPECT_EQ(Process({C_PROGRAM, "unix:" + socket_}, out).Wait(), 0) << ReadFile(out);
}

TEST(DaemonCommandTest, ChecksItsConfiguration) {
  TempDir dir;
  const std::string out = dir.path() + "/out", config = dir.path() + "/c.textproto";
  EXPECT_EQ(Process({KVSTOWD, "--check_config"}, out).Wait(), 0);
  EXPECT_THAT(ReadFile(out), HasSubstr("is sound"));
  std::ofstream(config) << "host_tier: 'much'";
  EXPECT_EQ(Process({KVSTOWD, "--check_config", "--config=" + config}, out).Wait(), 78);
  EXPECT_THAT(ReadFile(out), HasSubstr("host_tier"));
  EXPECT_EQ(Process({KVSTOWD, "--tcp=127.0.0.1:0", "--check_config"}, out).Wait(), 78);
  EXPECT_THAT(ReadFile(out), HasSubstr("--insecure"));
  EXPECT_EQ(Process({KVSTOWD, "--tcp=127.0.0.1:0", "--insecure", "--reflection", "--check_config"})
                .Wait(),
            0);
  EXPECT_EQ(Process({KVSTOWD, "surplus"}, out).Wait(), 64);
  EXPECT_NE(Process({KVSTOWD, "--no_such_flag"}, out).Wait(), 0);
}

// A configuration that cannot be used is refused with file and field before anything is bound: not
// even the socket of a daemon that is there before is touched.
TEST(DaemonCommandTest, AWrongConfigurationBindsNothing) {
  const TempDir dir;
  const std::string config = dir.path() + "/c.textproto", socket = dir.path() + "/d.sock";
  const std::string tcp = "tcp: '127.0.0.1:0' ";
  for (const auto& [text, field] : std::vector<std::pair<std::string, std::string>>{
           {"host_tier: 'much'", "host_tier"},
           {tcp, "insecure"},
           {tcp + "tls { certificate: '/nowhere' key: '/nowhere' }", "tls"},
           {"tenant { name: 'a' token_file: '/nowhere' }", "token_file"},
           {"tenant { name: 'a' quota { host_tier: '0' } } unix_tenant: 'a'", "quota.host_tier"},
           {"metrics: 'nonsense'", "metrics"}}) {
    const std::string out = dir.path() + "/out";
    std::filesystem::remove(out);
    std::ofstream(config) << text;
    std::ofstream(socket) << "somebody's";
    EXPECT_EQ(Process({KVSTOWD, "--config=" + config, "--unix_socket=" + socket}, out).Wait(), 78);
    EXPECT_THAT(ReadFile(out), ::testing::AllOf(HasSubstr(config), HasSubstr(field))) << text;
    EXPECT_EQ(ReadFile(socket), "somebody's");
    std::filesystem::remove(socket);
    EXPECT_EQ(Process({KVSTOWD, "--config=" + config, "--unix_socket=" + socket}, out).Wait(), 78);
    EXPECT_FALSE(std::filesystem::exists(socket));
    EXPECT_FALSE(std::filesystem::exists(socket + ".staging"));
  }
}

// What --print_config prints is a configuration file.
TEST(DaemonCommandTest, PrintedDefaultsAreAConfiguration) {
  TempDir dir;
  const std::string config = dir.path() + "/c.textproto";
  EXPECT_EQ(Process({KVSTOWD, "--print_config"}, config).Wait(), 0);
  EXPECT_EQ(Process({KVSTOWD, "--check_config", "--config=" + config}).Wait(), 0);
}

// At the most talkative level, with what belongs to nobody and what does.
TEST(DaemonCommandTest, NoSecretIsEverLogged) {
  TempDir dir;
  const std::string log = dir.path() + "/log", config = dir.path() + "/c.textproto",
                    socket = dir.path() + "/d.sock";
  const std::string token = "token-0123456789abcdefghij", wrong = "wrong-0123456789abcdefghij";
  std::ofstream(dir.path() + "/token") << token << "\n";
  std::ofstream(dir.path() + "/wrong") << wrong << "\n";
  std::ofstream(config) << "tenant { name: 'a' token_file: '" << dir.path() << "/token' }";
  std::vector<BlockKey> keys;
  {
    Process daemon({KVSTOWD, "--config=" + config, "--unix_socket=" + socket, "--metrics=none",
                    "--log_level=trace"},
                   log);
    for (const char* file : {"/wrong", "/token"}) {
      ClientOptions options;
      options.target = "unix:" + socket;
      options.security.token_file = dir.path() + file;
      const auto client = Client::Create(options);
      const auto space = *client->OpenSpace(Spec());
      keys = space->Keys(std::vector<uint32_t>(128, 4711));
      const auto expected = file == std::string("/token") ? absl::StatusCode::kOk
                                                          : absl::StatusCode::kUnauthenticated;
      // It may not listen yet.
      const absl::Time deadline = absl::Now() + absl::Seconds(60);
      while (space->Lookup(keys).status.code() != expected) {
        ASSERT_LT(absl::Now(), deadline) << client->health().last_error;
      }
    }
    std::ofstream(dir.path() + "/token") << "short\n";  // what is wrong with it is logged
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    while (ReadFile(log).find("can be guessed") == std::string::npos) {
      ASSERT_LT(absl::Now(), deadline) << ReadFile(log);
    }
    daemon.Signal(SIGTERM);
    EXPECT_EQ(daemon.Wait(), 0);
  }
  const std::string said = ReadFile(log);
  EXPECT_THAT(said, HasSubstr("tenants=a"));
  for (const std::string& secret : {token, wrong, std::string("short"), Hex(keys[0])}) {
    EXPECT_THAT(said, ::testing::Not(HasSubstr(secret)));
  }
}

TEST(DaemonCommandTest, SlowCallsAreLoggedWithWhereTheirTimeWent) {
  const TempDir folder;
  const std::string config = folder.path() + "/config", log = folder.path() + "/log";
  const std::string socket = folder.path() + "/d.sock";
  std::ofstream(config) << "slow_call_ms: 1\nmetrics: \"none\"\nunix_socket: \"" << socket << "\"";
  {
    Process daemon({KVSTOWD, "--config=" + config}, log);
    ClientOptions options;
    options.target = "unix:" + socket;
    options.connect_wait = absl::Seconds(20);
    options.put_deadline = absl::Seconds(20);
    const auto client = Client::Create(options);
    const auto space = *client->OpenSpace(Spec());
    PutBlocksRequest request;
    request.keys = space->Keys(std::vector<uint32_t>(128));
    const auto block = MakeBlock(space->layout(), 1);
    request.source = [&](const PlaneSpec& plane, size_t) {
      return std::span<const std::byte>(block[&plane - space->layout().planes().data()]);
    };
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    while (space->PutBlocks(request).stored == 0) ASSERT_LT(absl::Now(), deadline);
    daemon.Signal(SIGTERM);
    EXPECT_EQ(daemon.Wait(), 0);
  }
  EXPECT_THAT(ReadFile(log),
              ::testing::ContainsRegex(
                  "warning slow call method=Put path=[a-z]+ tenant=default code=OK took_ms=[0-9.]+ "
                  "wire_ms=[0-9.]+ admission_ms=[0-9.]+ queue_ms=[0-9.]+ copy_ms=[0-9.]+ "
                  "codec_ms=[0-9.]*[1-9][0-9.]* bytes=262144"));
}

TEST(DaemonCommandTest, UnusableSocketPathIsNamed) {
  TempDir dir;
  const std::string out = dir.path() + "/out";
  EXPECT_EQ(Process({KVSTOWD, "--unix_socket=/nowhere/d.sock", "--metrics=none"}, out).Wait(), 1);
  EXPECT_THAT(ReadFile(out), HasSubstr("/nowhere/d.sock"));
}

}  // namespace
}  // namespace kvstow::testing
