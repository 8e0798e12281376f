// A daemon that is stopped (SIGSTOP) reads nothing, so that requests fill its socket: every call
// still returns by its deadline, and so does the end of the client.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "absl/time/clock.h"
#include "client/convert.h"
#include "client/testing/fake_daemon.h"
#include "kvstow/client.h"

namespace kvstow {
namespace {

constexpr absl::Duration kShort = absl::Milliseconds(50);
constexpr absl::Duration kSlack = absl::Seconds(5);  // what a loaded machine may add

class DaemonProcess {
 public:
  DaemonProcess() {
    int in[2], out[2];
    if (pipe(in) != 0 || pipe(out) != 0) abort();
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_addclose(&actions, in[1]);
    char name[] = FAKE_DAEMON;
    char* argv[] = {name, nullptr};
    if (posix_spawn(&pid_, name, &actions, nullptr, argv, environ) != 0) abort();
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    stdin_ = in[1];
    for (char c; read(out[0], &c, 1) == 1 && c != '\n';) target_.push_back(c);
    close(out[0]);
  }
  ~DaemonProcess() {
    kill(pid_, SIGCONT);
    close(stdin_);
    waitpid(pid_, nullptr, 0);
  }
  // Returns once every thread has stopped.
  void Stop() {
    kill(pid_, SIGSTOP);
    siginfo_t info = {};
    if (waitid(P_PID, pid_, &info, WSTOPPED | WNOWAIT) != 0) abort();
  }
  const std::string& target() const { return target_; }

 private:
  pid_t pid_ = 0;
  int stdin_ = -1;
  std::string target_;
};

TEST(StoppedDaemonTest, EveryCallReturnsByItsDeadline) {
  DaemonProcess daemon;
  ClientOptions options;
  options.target = daemon.target();
  options.connect_wait = options.control_deadline = absl::Seconds(20);
  options.breaker_failures = 0;  // every call is made
  auto client = Client::Create(options);
  auto space = client->OpenSpace(client::FromProto(client::testing::SmallSpec()).value()).value();
  // Quarter of a megabyte a request, more than a socket buffers.
  const std::vector<BlockKey> keys = space->Keys(std::vector<uint32_t>(8192 * 128, 1));
  ASSERT_TRUE(space->Lookup(keys, {.deadline = absl::Seconds(20)}).status.ok());
  daemon.Stop();
  std::vector<std::byte> plane(space->layout().planes()[0].raw_bytes);
  const absl::Time start = absl::Now();
  for (int round = 0; round < 5; ++round) {
    EXPECT_EQ(space->Lookup(keys, {.deadline = kShort}).blocks, 0u);
    GetBlocksRequest get;
    get.keys = keys;
    get.destination = [&](const PlaneSpec&, size_t) { return std::span(plane); };
    get.deadline = kShort;
    EXPECT_EQ(space->GetBlocks(get).usable, 0u);
    PutBlocksRequest put;
    put.keys = keys;
    put.source = [&](const PlaneSpec&, size_t) { return std::span<const std::byte>(plane); };
    put.deadline = kShort;
    EXPECT_EQ(space->PutBlocks(put).stored, 0u);
  }
  space.reset();
  client.reset();
  EXPECT_LT(absl::Now() - start, 15 * kShort + kSlack);
}

}  // namespace
}  // namespace kvstow
