// Clients that take what there is to take and give nothing: connections in their thousands, bytes
// that trickle. Others are served meanwhile, and the daemon is rid of them in the end.
#include <sys/resource.h>

#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/auth/testing/certificates.h"
#include "tests/testing/bare_connection.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/eventually.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/process.h"
#include "tests/testing/raw_worker.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;

std::vector<Planes> OneBlock() { return {MakeBlock(SmallLayout(), 1)}; }

void ExpectServed(RawWorker& worker, uint32_t prompt) {
  const auto put = worker.Put(SmallKeys(1, prompt), OneBlock());
  EXPECT_TRUE(put.status.ok()) << put.status.error_message();
  EXPECT_EQ(worker.Lookup(SmallKeys(1, prompt)), 1u);
}

// ---- Thousands of connections to a daemon of its own ----

class ManyConnectionsTest : public ::testing::Test {
 protected:
  // As many descriptors as this process may have; how many those are.
  static size_t RaiseDescriptors() {
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    return files.rlim_cur;
  }
  void Start(std::vector<std::string> before = {}) {
    for (const std::string& flag :
         {std::string(KVSTOWD), "--unix_socket=" + socket_, std::string("--metrics=none"),
          std::string("--host_tier=64MiB"), std::string("--device=cpu")}) {
      before.push_back(flag);
    }
    daemon_ = std::make_unique<Process>(before, log_);
    ASSERT_TRUE(Eventually([&] { return Connect(target_); })) << ReadFile(log_);
  }
  size_t DescriptorsOfDaemon() const {
    std::error_code gone;
    const std::filesystem::directory_iterator all(absl::StrCat("/proc/", daemon_->pid(), "/fd"),
                                                  gone);
    return static_cast<size_t>(std::distance(begin(all), end(all)));
  }

  const TempDir dir_;
  const std::string socket_ = dir_.path() + "/d.sock", log_ = dir_.path() + "/log",
                    target_ = "unix:" + socket_;
  std::unique_ptr<Process> daemon_;
};

TEST_F(ManyConnectionsTest, TenThousandThatAreLeftIdle) {
  constexpr size_t kConnections = 10'000;
  const size_t descriptors = RaiseDescriptors();
  if (descriptors < kConnections + 500) {
    GTEST_SKIP() << "this process may open " << descriptors
                 << " files, and needs 10500: raise the hard limit (ulimit -Hn)";
  }
  Start();
  std::vector<OwnedFd> idle;
  for (size_t i = 0; i < kConnections; ++i) {
    idle.push_back(Connect(target_));
    ASSERT_TRUE(idle.back()) << i;
    // One says nothing, one begins, one is a client that has nothing to ask for.
    if (i % 3 == 1) {
      ASSERT_TRUE(Say(idle.back(), "PRI * HT"));
    } else if (i % 3 == 2) {
      ASSERT_TRUE(Say(idle.back(), kHttp2Preface));
    }
  }
  {
    RawWorker worker(target_);
    worker.OpenSmall();
    ExpectServed(worker, 1);
    // It holds those that speak HTTP/2. The others it may have got rid of by now.
    EXPECT_TRUE(Eventually([&] { return DescriptorsOfDaemon() >= kConnections / 3; }));
    idle.clear();
    EXPECT_TRUE(Eventually([&] { return DescriptorsOfDaemon() < 200; })) << "they are not let go";
    ExpectServed(worker, 2);
  }
  daemon_->Signal(SIGTERM);
  EXPECT_EQ(daemon_->Wait(), 0);
  EXPECT_THAT(ReadFile(log_), ::testing::Not(HasSubstr("descriptors are used up")));
}

// More than there are descriptors for: those that are there go on, what comes is turned away and
// counted in the log, and when there is room again everything is as before.
TEST_F(ManyConnectionsTest, MoreThanThereAreDescriptors) {
  RaiseDescriptors();
  if (!IsInPath("prlimit")) GTEST_SKIP() << "prlimit is not installed (Debian: util-linux)";
  Start({"prlimit", "--nofile=300:300"});
  RawWorker early(target_);
  early.OpenSmall();
  std::vector<OwnedFd> idle;
  for (int i = 0; i < 400; ++i) {
    idle.push_back(Connect(target_));
    if (idle.back()) Say(idle.back(), kHttp2Preface);
  }
  EXPECT_TRUE(Eventually([&] {
    return ReadFile(log_).find("raise the hard limit of open files") != std::string::npos;
  })) << ReadFile(log_);
  ExpectServed(early, 1);
  idle.clear();
  ASSERT_TRUE(Eventually([&] { return DescriptorsOfDaemon() < 100; }));
  RawWorker late(target_);
  late.OpenSmall();
  ExpectServed(late, 2);
  daemon_->Signal(SIGTERM);
  EXPECT_EQ(daemon_->Wait(), 0);
}

// ---- Bytes that trickle ----

class SlowClientTest : public DaemonTest {
 protected:
  SlowClientTest() {
    config_.rpc.tcp_address = "127.0.0.1:0";
    config_.rpc.handshake_timeout = absl::Milliseconds(500);
  }
  // Says `bytes` over and over, one at a time; whether the daemon hung up.
  static bool HungUpOn(const OwnedFd& fd, absl::string_view bytes) {
    size_t next = 0;
    return Eventually([&] {
      return !Say(fd, bytes.substr(next++ % bytes.size(), 1)) || !Listen(fd, /*timeout_ms=*/20);
    });
  }
};

TEST_F(SlowClientTest, APrefaceThatTrickles) {
  StartDaemon();
  RawWorker worker(target());
  worker.OpenSmall();
  for (const std::string& listener : daemon_->listeners()) {
    const OwnedFd slow = Connect(listener);
    ASSERT_TRUE(slow);
    ExpectServed(worker, 1);
    // So long that at one byte a turn it does not end before the daemon's patience.
    EXPECT_TRUE(HungUpOn(slow, kHttp2Preface)) << listener;
  }
  ExpectServed(worker, 2);
}

TEST_F(SlowClientTest, ATlsHandshakeThatTrickles) {
  const Authority authority("test");
  const std::string certificate = dir_.path() + "/crt", key = dir_.path() + "/key";
  authority.Issue({"kvstowd", "IP:127.0.0.1"}, certificate, key);
  config_.rpc.tls = {.certificate = certificate, .key = key, .client_ca = ""};
  StartDaemon();
  const OwnedFd slow = Connect(daemon_->listeners()[1]);
  ASSERT_TRUE(slow);
  // A record of a handshake, 16 KiB long by its own word.
  EXPECT_TRUE(
      HungUpOn(slow, absl::string_view("\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03", 11)));
  RawWorker worker(target());
  worker.OpenSmall();
  ExpectServed(worker, 1);
}

// HTTP/2 has begun and then a request's headers never end. They cost a connection and nothing that
// anybody waits for.
TEST_F(SlowClientTest, HeadersThatNeverEnd) {
  config_.rpc.max_bulk_streams = 1;
  StartDaemon();
  std::vector<OwnedFd> slow;
  for (int i = 0; i < 100; ++i) {
    slow.push_back(Connect(daemon_->listeners()[i % 2]));
    ASSERT_TRUE(Say(slow.back(), kHttp2Preface));
    // HEADERS of stream 1, 4096 bytes, of which three come.
    ASSERT_TRUE(Say(slow.back(), absl::string_view("\0\x10\0\1\4\0\0\0\1\x82\x86\x84", 12)));
  }
  RawWorker worker(target());
  worker.OpenSmall();
  ExpectServed(worker, 1);
}

// A byte now and then is no progress: others want the stream.
TEST_F(SlowClientTest, APutThatTrickles) {
  config_.rpc.max_bulk_streams = 1;
  config_.rpc.stall_timeout = absl::Milliseconds(500);
  StartDaemon();
  RawWorker worker(target()), slow(target());
  worker.OpenSmall();
  slow.OpenSmall();
  auto context = slow.Context(120);
  auto stream = slow.stub().Put(context.get());
  ASSERT_TRUE(stream->Write(slow.Announce(SmallKeys(1))));
  v1::PutResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(worker.Get(SmallKeys(1)).status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  uint32_t sent = 0;
  const uint32_t plane = 32 << 10;
  const bool ended = Eventually([&] {
    // Each byte takes the others some round trips.
    for (int i = 0; i < 10; ++i) worker.Stats();
    if (sent == plane) return true;
    return !stream->Write(RawWorker::ChunkOf(0, v1::PLANE_K, 0, sent++, plane, "x"));
  });
  EXPECT_TRUE(ended);
  EXPECT_LT(sent, plane) << "it went on to the end";
  EXPECT_FALSE(stream->Finish().ok());
  EXPECT_TRUE(Eventually([&] { return worker.Put(SmallKeys(1, 1), OneBlock()).status.ok(); }));
  EXPECT_EQ(worker.Lookup(SmallKeys(1, 1)), 1u);
}

}  // namespace
}  // namespace kvstow::testing
