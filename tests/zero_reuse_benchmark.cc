// What kvstow costs a worker whose prompts never repeat. The worker multiplies matrices on one
// core, with all threads of its client on the same core, the daemon has another. Windows without
// Puts and windows with them take turns; printed are the median of their ratios, and the share of
// the core that the client took by itself: processor time of all threads but the one that computes,
// which no neighbour disturbs.
//
//   zero_reuse_benchmark [SECONDS A WINDOW [PAIRS]]
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstow/client.h"
#include "tests/testing/bench_worker.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/process.h"

namespace kvstow::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kBlocks = 4;  // of a prompt; 4 MiB each

void PinTo(pid_t pid, int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  sched_setaffinity(pid, sizeof(set), &set);
}

// A product of matrices that fit the cache: the compute of a prefill in small.
class Compute {
 public:
  void Step() {
    for (size_t i = 0; i < kN; ++i) {
      for (size_t j = 0; j < kN; ++j) {
        const float a = a_[i * kN + j];
        for (size_t k = 0; k < kN; ++k) c_[i * kN + k] += a * b_[j * kN + k];
      }
    }
  }

 private:
  static constexpr size_t kN = 128;
  std::vector<float> a_ = std::vector<float>(kN * kN, 1e-3f), b_ = a_, c_ = a_;
};

class Worker {
 public:
  explicit Worker(const std::string& target) {
    ClientOptions options;
    options.target = target;
    options.connect_wait = absl::Seconds(20);
    options.lookup_deadline = absl::Seconds(20);
    client_ = Client::Create(options);
    space_ = *client_->OpenSpace(BenchSpec(CodecId::kEOptShrinkQ));
    block_ = MakeBlock(space_->layout(), 1);
    space_->Lookup(space_->Keys(std::vector<uint32_t>(128)));  // the session is open
  }
  double bytes_a_prompt() const {
    return static_cast<double>(kBlocks * space_->layout().raw_bytes());
  }

  // Matrix products a second while prompts are put at this rate, bytes of KV a second; 0 for none.
  double Run(double seconds, double rate) {
    const auto start = Clock::now();
    size_t steps = 0;
    double offered = 0;
    for (;;) {
      const double now = std::chrono::duration<double>(Clock::now() - start).count();
      if (now >= seconds) break;
      if (offered < now * rate) {
        Put();
        offered += bytes_a_prompt();
      }
      compute_.Step();
      ++steps;
    }
    return steps / seconds;
  }
  // Blocks offered and stored since the last time; waits for what is under way.
  std::pair<size_t, size_t> Settle() {
    size_t offered = 0, stored = 0;
    for (auto& put : puts_) {
      stored += put->Wait().stored;
      offered += kBlocks;
    }
    puts_.clear();
    return {offered, stored};
  }
  void Drop() { space_->DropAll().IgnoreError(); }

 private:
  void Put() {
    std::vector<uint32_t> tokens(kBlocks * 128, ++prompts_);
    PutBlocksRequest request;
    request.keys = space_->Keys(tokens);
    request.source = [this](const PlaneSpec& plane, size_t) {
      return std::span<const std::byte>(
          block_[static_cast<size_t>(&plane - space_->layout().planes().data())]);
    };
    puts_.push_back(space_->StartPut(std::move(request)));
    puts_.back()->LayerReady(7);
  }

  std::unique_ptr<Client> client_;
  std::shared_ptr<Space> space_;
  std::vector<std::vector<std::byte>> block_;
  std::deque<std::unique_ptr<OngoingPut>> puts_;
  uint32_t prompts_ = 0;
  Compute compute_;
};

double Seconds(const timeval& t) {
  return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
}

// Processor time of this process's other threads so far.
double OthersCpu() {
  const auto used = [](int who) {
    rusage usage{};
    getrusage(who, &usage);
    return Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
  };
  return used(RUSAGE_SELF) - used(RUSAGE_THREAD);
}

double Median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + v.size() / 2, v.end());
  return v[v.size() / 2];
}

// What the daemon takes when nothing else is asked of it.
double SustainedRate(Worker& worker) {
  const auto start = Clock::now();
  worker.Run(0.1, 1e12);
  const auto [offered, stored] = worker.Settle();
  const double took = std::chrono::duration<double>(Clock::now() - start).count();
  return static_cast<double>(stored) / kBlocks * worker.bytes_a_prompt() / took;
}

void Row(Worker& worker, const char* what, double rate, double seconds, int pairs) {
  std::vector<double> ratios;
  double cpu = 0;
  size_t offered = 0, stored = 0;
  for (int i = 0; i < pairs; ++i) {
    const double without = worker.Run(seconds, 0);
    const double before = OthersCpu();
    ratios.push_back(worker.Run(seconds, rate) / without);
    cpu += OthersCpu() - before;
    const auto [o, s] = worker.Settle();
    offered += o;
    stored += s;
    worker.Drop();
  }
  std::printf(
      "%-26s %5.0f MB/s offered, %5.1f %% of blocks stored, worker at %.3f of its speed, client "
      "%.2f %% "
      "of the core\n",
      what, rate / 1e6,
      100.0 * static_cast<double>(stored) / static_cast<double>(std::max<size_t>(offered, 1)),
      Median(ratios), 100 * cpu / (seconds * pairs));
  std::fflush(stdout);
}

int Run(double seconds, int pairs) {
  TempDir dir;
  const std::string socket = dir.path() + "/d.sock";
  PinTo(0, 1);
  Process daemon(EndingWithThisThread({KVSTOWD, "--unix_socket=" + socket, "--metrics=none",
                                       "--threads=1", "--host_tier=1GiB", "--device=cpu"}),
                 dir.path() + "/log");
  PinTo(0, 0);
  Worker worker("unix:" + socket);
  const double rate = SustainedRate(worker);
  worker.Drop();
  if (rate <= 0) {
    std::fprintf(stderr, "the daemon stored nothing in time: the machine has other work\n");
    return 1;
  }
  Row(worker, "no Puts", 0, seconds, pairs);
  Row(worker, "what the daemon sustains", rate, seconds, pairs);
  Row(worker, "ten times that", 10 * rate, seconds, pairs);
  return 0;
}

}  // namespace
}  // namespace kvstow::testing

int main(int argc, char** argv) {
  return kvstow::testing::Run(argc > 1 ? std::atof(argv[1]) : 3, argc > 2 ? std::atoi(argv[2]) : 5);
}
