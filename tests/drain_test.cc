// Daemons that are told to stop under load, and started again in turn: what a rollout does. It
// costs their workers misses, and nothing else: no acknowledged block is lost before its daemon
// goes, no call in progress is cut off, nothing wrong is given back, nobody waits beyond a
// deadline.
#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstow/client.h"
#include "tests/testing/eventually.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;

constexpr int kGraceSeconds = 30;
constexpr absl::Duration kDeadline = absl::Seconds(20);
// The scheduling noise of a busy machine.
constexpr absl::Duration kSlack = absl::Seconds(5);
// A test that waits longer than this has failed.
constexpr absl::Duration kPatience = absl::Seconds(120);

// Kept raw: what comes back is what went, bit for bit.
SpaceSpec Spec() {
  SpaceSpec spec;
  spec.model = {"drain-test", "", ""};
  LayerGroup group;
  group.layers = {0, 1};
  group.kv_heads = 2;
  group.k_dim = group.v_dim = 64;
  spec.groups = {group};
  spec.codec.codec = CodecId::kRaw;
  return spec;
}

class RunningDaemon {
 public:
  explicit RunningDaemon(const std::string& folder)
      : socket_(folder + "/d.sock"), log_(folder + "/log") {
    Start();
  }

  std::string target() const { return "unix:" + socket_; }
  std::string log() const { return ReadFile(log_); }
  // Even while a process runs that nobody told to stop; another number for each.
  int phase() const { return phase_; }
  static bool IsStopping(int phase) { return phase % 2 != 0; }

  void Start() {
    process_ = std::make_unique<Process>(
        std::vector<std::string>{KVSTOWD, "--unix_socket=" + socket_, "--metrics=none",
                                 "--host_tier=256MiB", "--device=cpu",
                                 absl::StrCat("--shutdown_grace_seconds=", kGraceSeconds)},
        log_);
    ++phase_;
  }
  void TellToStop() {
    ++phase_;
    process_->Signal(SIGTERM);
  }
  int Wait() { return process_->Wait(); }

 private:
  const std::string socket_, log_;
  std::unique_ptr<Process> process_;
  std::atomic<int> phase_{-1};
};

ClientOptions Options(const std::string& target, DataPath path) {
  ClientOptions options;
  options.target = target;
  options.path = path;
  // On a busy machine a lookup takes longer than its usual 50 ms.
  options.lookup_deadline = options.get_deadline = options.put_deadline = kDeadline;
  return options;
}

// One block of a prompt of its own; its bytes follow from its number.
struct TestBlock {
  explicit TestBlock(const Space& space, uint32_t number) : number(number) {
    std::vector<uint32_t> tokens(space.layout().spec().block_tokens, number);
    keys = space.Keys(tokens);
    std::mt19937_64 random(number);
    for (const PlaneSpec& plane : space.layout().planes()) {
      planes.emplace_back(plane.raw_bytes);
      for (std::byte& byte : planes.back()) byte = static_cast<std::byte>(random());
    }
  }
  uint32_t number;
  std::vector<BlockKey> keys;
  std::vector<std::vector<std::byte>> planes;
};

size_t IndexOf(const Space& space, const PlaneSpec& plane) {
  return static_cast<size_t>(&plane - space.layout().planes().data());
}

// Puts and gets without a pause, and holds every answer to what it must be.
class Worker {
 public:
  Worker(const RunningDaemon& daemon, DataPath path, uint32_t first_number)
      : daemon_(daemon),
        client_(Client::Create(Options(daemon.target(), path))),
        space_(*client_->OpenSpace(Spec())),
        next_number_(first_number),
        random_(first_number),
        thread_([this] { Loop(); }) {}
  ~Worker() {
    stop_ = true;
    thread_.join();
  }

  // Rounds of the present run of the daemon that went as they do without a restart.
  int good_rounds() const { return good_rounds_; }
  void CountAnew() { good_rounds_ = 0; }
  int checked_gets() const { return checked_gets_; }

 private:
  struct Acknowledged {
    std::shared_ptr<const TestBlock> block;
    int phase;  // of the daemon, when the Put began
  };

  void Loop() {
    while (!stop_) {
      const bool put = acknowledged_.size() < kRemembered ? Put() : true;
      const bool get = Get();
      if (put && get) ++good_rounds_;
      // What a daemon before this one held is asked for once more: a miss.
      if (!acknowledged_.empty() && acknowledged_.front().phase != daemon_.phase()) {
        acknowledged_.erase(acknowledged_.begin());
      }
    }
  }

  template <typename Call>
  auto Timed(const char* what, Call call) {
    const absl::Time start = absl::Now();
    auto result = call();
    EXPECT_LT(absl::Now() - start, kDeadline + kSlack) << what << " overran its deadline";
    return result;
  }

  bool Put() {
    const int phase = daemon_.phase();
    const auto block = std::make_shared<const TestBlock>(*space_, next_number_++);
    const auto put = Timed("PutBlocks", [&] {
      return space_->PutBlocks({.keys = block->keys, .source = [&](const PlaneSpec& plane, size_t) {
                                  return std::span<const std::byte>(
                                      block->planes[IndexOf(*space_, plane)]);
                                }});
    });
    if (put.stored == 0) return false;
    acknowledged_.push_back({block, phase});
    return true;
  }

  bool Get() {
    if (acknowledged_.empty()) return false;
    const Acknowledged& wanted = acknowledged_[random_() % acknowledged_.size()];
    const Match match =
        Timed("Lookup", [&] { return space_->Lookup(wanted.block->keys, {.ttl = {}}); });
    std::vector<std::vector<std::byte>> got(wanted.block->planes.size());
    const auto get = Timed("GetBlocks", [&] {
      GetBlocksRequest request;
      request.keys = wanted.block->keys;
      request.destination = [&](const PlaneSpec& plane, size_t) {
        auto& bytes = got[IndexOf(*space_, plane)];
        bytes.resize(plane.raw_bytes);
        return std::span<std::byte>(bytes);
      };
      return space_->GetBlocks(request);
    });
    if (get.usable == 1) {
      EXPECT_EQ(got, wanted.block->planes) << "wrong bytes of block " << wanted.block->number;
    }
    // Nobody had told the daemon that stored it to stop: it must still have it.
    if (wanted.phase == daemon_.phase() && !RunningDaemon::IsStopping(wanted.phase)) {
      EXPECT_EQ(match.blocks, 1u) << match.status;
      EXPECT_EQ(get.usable, 1u) << "an acknowledged block was lost: " << get.status;
      ++checked_gets_;
    }
    return get.usable == 1;
  }

  static constexpr size_t kRemembered = 100;  // a daemon has room for all of everybody's

  const RunningDaemon& daemon_;
  const std::unique_ptr<Client> client_;
  const std::shared_ptr<Space> space_;
  uint32_t next_number_;
  std::mt19937 random_;
  std::vector<Acknowledged> acknowledged_;
  std::atomic<bool> stop_{false};
  std::atomic<int> good_rounds_{0}, checked_gets_{0};
  std::thread thread_;  // last: runs on all of the above
};

class DrainTest : public ::testing::Test {
 protected:
  static bool Serve(const std::vector<std::unique_ptr<Worker>>& workers) {
    for (const auto& worker : workers) worker->CountAnew();
    const auto all_went_on = [&] {
      return std::all_of(workers.begin(), workers.end(),
                         [](const auto& worker) { return worker->good_rounds() >= 20; });
    };
    return Eventually(all_went_on, kPatience);
  }
  // A new daemon takes the old one's place.
  static void Restart(RunningDaemon* daemon) {
    const absl::Time told = absl::Now();
    daemon->TellToStop();
    EXPECT_EQ(daemon->Wait(), 0) << daemon->log();
    EXPECT_LT(absl::Now() - told, absl::Seconds(kGraceSeconds)) << "load is no reason to wait";
    daemon->Start();
  }
  static size_t CountOf(const std::string& word, const std::string& text) {
    size_t n = 0;
    for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++n;
    return n;
  }

  const TempDir first_folder_, second_folder_;
};

TEST_F(DrainTest, ARollingRestartUnderLoadCostsMissesOnly) {
  constexpr int kRounds = 3;
  RunningDaemon first(first_folder_.path()), second(second_folder_.path());
  {
    std::vector<std::unique_ptr<Worker>> workers;
    uint32_t number = 0;
    for (const RunningDaemon* daemon : {&first, &second}) {
      for (const DataPath path : {DataPath::kGrpc, DataPath::kAuto}) {
        workers.push_back(std::make_unique<Worker>(*daemon, path, number += 1'000'000));
      }
    }
    ASSERT_TRUE(Serve(workers)) << first.log();
    for (int round = 0; round < kRounds; ++round) {
      for (RunningDaemon* daemon : {&first, &second}) {
        Restart(daemon);
        ASSERT_TRUE(Serve(workers)) << "they did not come back: " << daemon->log();
      }
    }
    for (const auto& worker : workers) EXPECT_GE(worker->checked_gets(), kRounds * 20);
  }
  for (const RunningDaemon* daemon : {&first, &second}) {
    EXPECT_EQ(CountOf("calls_cut_off=0", daemon->log()), static_cast<size_t>(kRounds));
    EXPECT_EQ(CountOf("calls_cut_off=", daemon->log()), static_cast<size_t>(kRounds));
  }
}

// SIGTERM comes in the middle of a Put and of a Get: both end as if it had not.
TEST_F(DrainTest, CallsInProgressAreAnswered) {
  RunningDaemon daemon(first_folder_.path());
  for (const DataPath path : {DataPath::kGrpc, DataPath::kSharedMemory}) {
    const auto client = Client::Create(Options(daemon.target(), path));
    const auto space = *client->OpenSpace(Spec());
    const TestBlock stored(*space, 1), late(*space, 2);
    const auto put = [&](const TestBlock& block, const std::function<void()>& at_the_end) {
      return space->PutBlocks({.keys = block.keys, .source = [&](const PlaneSpec& plane, size_t) {
                                 const size_t i = IndexOf(*space, plane);
                                 if (i + 1 == block.planes.size()) at_the_end();
                                 return std::span<const std::byte>(block.planes[i]);
                               }});
    };
    ASSERT_TRUE(Eventually([&] { return put(stored, [] {}).stored == 1; }, kPatience))
        << daemon.log();
    absl::Notification put_goes, get_goes;
    const auto wait_for_drain = [&](absl::Notification* here) {
      here->Notify();
      // A daemon that has nothing left to do is gone before anybody sees that it drains.
      const auto told = [&] {
        const auto health = client->health();
        return health.draining || !health.connected;
      };
      EXPECT_TRUE(Eventually(told, kPatience));
    };
    PutBlocksResult put_result;
    GetBlocksResult get_result;
    std::vector<std::vector<std::byte>> got(stored.planes.size());
    std::thread putting([&] { put_result = put(late, [&] { wait_for_drain(&put_goes); }); });
    GetBlocksRequest get;
    get.keys = stored.keys;
    get.destination = [&](const PlaneSpec& plane, size_t) {
      const size_t i = IndexOf(*space, plane);
      if (i == 1) wait_for_drain(&get_goes);
      got[i].resize(plane.raw_bytes);
      return std::span<std::byte>(got[i]);
    };
    std::thread getting([&] { get_result = space->GetBlocks(get); });
    put_goes.WaitForNotification();
    get_goes.WaitForNotification();
    daemon.TellToStop();
    putting.join();
    getting.join();
    EXPECT_EQ(put_result.stored, 1u) << put_result.status;
    EXPECT_EQ(get_result.usable, 1u) << get_result.status;
    EXPECT_EQ(got, stored.planes);
    EXPECT_EQ(daemon.Wait(), 0);
    EXPECT_THAT(daemon.log(), HasSubstr("calls_cut_off=0"));
    daemon.Start();
  }
}

}  // namespace
}  // namespace kvstow::testing
