// The wall clock of the machine is set, back and forth, under a running daemon. Nothing that it
// does goes by that clock, but for the times in its log and in certificates.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/channel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/auth/testing/certificates.h"
#include "tests/testing/eventually.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/process.h"
#include "tests/testing/raw_worker.h"
#include "tests/testing/temp_dir.h"

namespace kvstow::testing {
namespace {

constexpr int64_t kDay = 24 * 60 * 60;

class ClockStepTest : public ::testing::Test {
 protected:
  ClockStepTest() {
    std::ofstream(File("step")) << std::string(sizeof(int64_t), '\0');
    const int fd = open(File("step").c_str(), O_RDWR | O_CLOEXEC);
    step_ = static_cast<volatile int64_t*>(
        mmap(nullptr, sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    close(fd);
    authority_.Issue({"kvstowd", "IP:127.0.0.1", -absl::Hours(100), absl::Hours(100)}, File("crt"),
                     File("key"));
    authority_.WriteCertificate(File("ca"));
    WriteTokens(first_ + "\n" + second_ + "\n");
    std::ofstream(File("config"))
        << "unix_socket: '" << File("d.sock") << "' metrics: 'none' device: 'cpu'\n"
        << "host_tier: '64MiB' shutdown_grace_seconds: 10 tcp: '127.0.0.1:0'\n"
        << "tls { certificate: '" << File("crt") << "' key: '" << File("key") << "' }\n"
        << "tenant { name: 'a' token_file: '" << File("tokens") << "' admin: true }\n"
        << "limits { stall_timeout_seconds: 1 }\n";
    std::ofstream(File("first")) << first_;
    std::ofstream(File("second")) << second_;
  }
  ~ClockStepTest() override { munmap(const_cast<int64_t*>(step_), sizeof(int64_t)); }

  std::string File(const std::string& name) const { return dir_.path() + "/" + name; }
  void WriteTokens(const std::string& text) const {
    std::ofstream(File("tokens.new")) << text;
    ASSERT_EQ(rename(File("tokens.new").c_str(), File("tokens").c_str()), 0);
  }
  // The clock of a daemon that is ahead of the kernel's was, to its waits, set back by so much.
  void Start() {
    daemon_ =
        std::make_unique<Process>(std::vector<std::string>{"env", "LD_PRELOAD=" STEPPED_CLOCK,
                                                           "KVSTOW_CLOCK_STEP=" + File("step"),
                                                           KVSTOWD, "--config=" + File("config")},
                                  File("log"));
    ASSERT_TRUE(Eventually([&] { return Code("first") == grpc::StatusCode::OK; }))
        << ReadFile(File("log"));
  }
  std::shared_ptr<grpc::Channel> Channel(const std::string& token) const {
    return client::MakeChannel("unix:" + File("d.sock"), {.token_file = File(token)});
  }
  grpc::StatusCode Code(const std::string& token) const {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    v1::StatsResponse response;
    return v1::Kvstow::NewStub(Channel(token))->Stats(&context, {}, &response).error_code();
  }

  const TempDir dir_;
  const Authority authority_{"test"};
  const std::string first_ = "first-0123456789abcdefghij", second_ = "second-0123456789abcdefghij";
  volatile int64_t* step_ = nullptr;
  std::unique_ptr<Process> daemon_;
};

// For each step: what lasts goes on, and what ends by time does end.
TEST_F(ClockStepTest, StepsChangeNothing) {
  Start();
  RawWorker worker(Channel("second"));
  worker.OpenSmall();
  const std::vector<Planes> block = {MakeBlock(SmallLayout(), 1)};
  uint32_t prompt = 0;
  for (const int64_t step : {3 * kDay, -3 * kDay, kDay}) {
    // A lease of ten minutes, and the token that the worker does not use.
    uint64_t lasting = 0, short_lived = 0;
    const auto keys = SmallKeys(1, ++prompt);
    ASSERT_TRUE(worker.Put(keys, block).status.ok());
    ASSERT_EQ(worker.Lookup(keys, 600'000, &lasting), 1u);
    *step_ = step;
    ASSERT_EQ(worker.Lookup(keys, 1, &short_lived), 1u);
    EXPECT_TRUE(Eventually([&] { return worker.Stats().leases() == 1; })) << "step " << step;
    // A Put that stalls is ended.
    const absl::Time stalled = absl::Now();
    auto context = worker.Context(120);
    auto stream = worker.stub().Put(context.get());
    stream->Write(worker.Announce(SmallKeys(1, 1000 + prompt)));
    v1::PutResponse response;
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_FALSE(stream->Read(&response));
    stream->Finish();
    EXPECT_LT(absl::Now() - stalled, absl::Seconds(60)) << "only its own deadline ended it";
    // A token that is revoked is worth nothing soon.
    WriteTokens(second_ + "\n");
    EXPECT_TRUE(Eventually([&] { return Code("first") == grpc::StatusCode::UNAUTHENTICATED; }));
    WriteTokens(first_ + "\n" + second_ + "\n");
    EXPECT_TRUE(Eventually([&] { return Code("first") == grpc::StatusCode::OK; }));
    EXPECT_EQ(worker.Stats().leases(), 1u) << "a lease was cut short by step " << step;
    v1::ReleaseRequest release;
    v1::ReleaseResponse released;
    release.set_session_id(worker.session());
    release.add_leases(lasting);
    worker.stub().Release(worker.Context().get(), release, &released);
  }
}

// Set back while it drains: it ends by its grace period, with a client that stays in its way.
TEST_F(ClockStepTest, ADrainEndsInTime) {
  *step_ = kDay;
  Start();
  RawWorker worker(Channel("first"));
  worker.OpenSmall();
  const absl::Time told = absl::Now();
  daemon_->Signal(SIGTERM);
  EXPECT_EQ(daemon_->Wait(), 0) << ReadFile(File("log"));
  EXPECT_LT(absl::Now() - told, absl::Seconds(20));
}

}  // namespace
}  // namespace kvstow::testing
