// What the data paths cost beside their limits, all measured in this run: memcpy, the codec alone,
// bare gRPC streams and calls. The daemon and the bare calls' server are processes of their own; a
// daemon and a worker share the machine, as in production.
//
//   transport_benchmark [SECONDS [THREADS [GROUPS [ROW]]]]
//
// THREADS are the daemon's, and those of the codec alone; the worker has one, and memcpy. GROUPS:
// of "raw", "size", "lossy" and "lookup" those that the word contains; all without it. ROW: of
// their rows of GB/s only those whose names contain it. Prints GB/s (1e9 bytes of KV).
#include <signal.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "codec/crc32c.h"
#include "codec/plane.h"
#include "kvstow/coding.h"
#include "server/app/malloc_settings.h"
#include "tests/testing/bare_service.h"
#include "tests/testing/bench_worker.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/latencies.h"
#include "tests/testing/process.h"
#include "tests/testing/slot_pipeline.h"
#include "tests/testing/temp_dir.h"

namespace kvstow::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kSelf[] = "/proc/self/exe";  // as a process of its own

double seconds_each = 2;
std::string groups = "raw,size,lossy,lookup";
std::string row_wanted;
uint32_t threads = 1;  // of the daemon, and of the codec alone

// Of the rows that are not of other sizes: Llama-3.1-8B's, a prompt of 1,024 tokens, 128 MiB.
constexpr uint32_t kLayers = 32;
constexpr size_t kBlocks = 8;

bool Wanted(const char* group) { return absl::StrContains(groups, group); }

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// What is timed; `reset` is not.
struct Work {
  std::string name;
  std::function<void()> run;
  std::function<void()> reset = [] {};
};

double Rate(double bytes, const Work& work) {
  const auto start = Clock::now();
  work.run();
  const double rate = bytes / 1e9 / std::chrono::duration<double>(Clock::now() - start).count();
  work.reset();
  return rate;
}

// A row: median rate of `work`, and what it is of `limit`'s, which moves as much. The two take
// turns and the ratio is the median of turns, because neighbours on the machine come and go.
void Row(double bytes, const Work& work, const Work& limit) {
  if (!absl::StrContains(work.name, row_wanted)) return;
  Rate(bytes, work);
  Rate(bytes, limit);
  std::vector<double> rates, limits, ratios;
  for (const auto end = Clock::now() + std::chrono::duration<double>(2 * seconds_each);
       Clock::now() < end || rates.size() < 5;) {
    limits.push_back(Rate(bytes, limit));
    rates.push_back(Rate(bytes, work));
    ratios.push_back(rates.back() / limits.back());
  }
  std::printf("%-36s %8.3f GB/s   %5.2f of %8.3f, %s\n", work.name.c_str(), Median(rates),
              Median(ratios), Median(limits), limit.name.c_str());
  std::fflush(stdout);
}

// As many threads as the daemon has share the blocks.
void ForBlocks(size_t blocks, absl::FunctionRef<void(size_t)> work) {
  const auto share = [&](size_t first) {
    for (size_t b = first; b < blocks; b += threads) work(b);
  };
  std::vector<std::thread> others;
  for (size_t t = 1; t < threads; ++t) others.emplace_back(share, t);
  share(0);
  for (std::thread& other : others) other.join();
}
// By the worker's one thread, whatever the daemon has.
Work Memcpy(BenchWorker& worker) {
  return {"memcpy on one thread", [&worker] {
            for (size_t b = 0; b < worker.values.size(); ++b) {
              for (size_t p = 0; p < worker.values[b].size(); ++p) {
                std::memcpy(worker.pages[b][p].data(), worker.values[b][p].data(),
                            worker.values[b][p].size());
              }
            }
          }};
}

Work Put(BenchWorker& worker, const std::string& name) {
  return {name, [&worker] { worker.Put(); }, [&worker] { worker.Drop(); }};
}
Work Get(BenchWorker& worker, const std::string& name) {
  return {name, [&worker] { worker.Get(); }};
}

// Both, each beside its limit.
void PutAndGet(BenchWorker& worker, const std::string& name, const Work& put_limit,
               const Work& get_limit) {
  Row(worker.bytes(), Put(worker, absl::StrCat("put, ", name)), put_limit);
  worker.Put();
  Row(worker.bytes(), Get(worker, absl::StrCat("get, ", name)), get_limit);
  worker.Drop();
}

// The same bytes through a slot of 8 MiB by two threads.
class Pipeline {
 public:
  Pipeline(BenchWorker& worker, SlotSum sum) : pipeline_(size_t{8} << 20), sum_(sum) {
    for (size_t b = 0; b < worker.values.size(); ++b) {
      for (size_t p = 0; p < worker.values[b].size(); ++p) {
        from_.emplace_back(worker.values[b][p]);
        to_.emplace_back(worker.pages[b][p]);
      }
    }
  }
  void Run() { pipeline_.Run(from_, to_, sum_); }

 private:
  SlotPipeline pipeline_;
  const SlotSum sum_;
  std::vector<std::span<const std::byte>> from_;
  std::vector<std::span<std::byte>> to_;
};

// Where the daemon and the server of the bare calls are.
struct Peers {
  std::string target, bare_socket;
};

// One bare stream; one that fails moves its bytes in no time and would make the limit unreachable.
Work To(BareStreams& streams, const char* name) {
  return {name, [&streams] {
            if (!streams.To()) std::abort();
          }};
}
Work From(BareStreams& streams, const char* name) {
  return {name, [&streams] {
            if (!streams.From()) std::abort();
          }};
}

void StreamRows(const Peers& peers) {
  BareStreams chunk(peers.bare_socket, BareBytes::kOneChunk);
  BareStreams memory(peers.bare_socket, BareBytes::kMemory);
  BareStreams checked(peers.bare_socket, BareBytes::kChecked);
  const double bytes = kBareStreamBytes;
  const Work chunk_to = To(chunk, "a bare gRPC stream of one chunk");
  const Work chunk_from = From(chunk, "a bare gRPC stream of one chunk");
  const Work checked_to = To(checked, "a bare gRPC stream with checksums");
  const Work checked_from = From(checked, "a bare gRPC stream with checksums");
  Row(bytes, To(memory, "bare put of memory"), chunk_to);
  Row(bytes, From(memory, "bare get of memory"), chunk_from);
  Row(bytes, To(checked, "bare put with checksums"), chunk_to);
  Row(bytes, From(checked, "bare get with checksums"), chunk_from);
  BenchWorker worker(peers.target, DataPath::kGrpc, CodecId::kRaw, kBlocks, kLayers);
  PutAndGet(worker, "raw, stream", checked_to, checked_from);
  PutAndGet(worker, "raw, stream", chunk_to, chunk_from);
}

void RawRows(const Peers& peers) {
  StreamRows(peers);
  BenchWorker worker(peers.target, DataPath::kSharedMemory, CodecId::kRaw, kBlocks, kLayers);
  const Work copy = Memcpy(worker);
  for (const auto& [sum, name] : {std::pair(SlotSum::kWhenRead, "two threads and a slot, as a put"),
                                  {SlotSum::kWhenWritten, "two threads and a slot, as a get"}}) {
    Pipeline pipeline(worker, sum);
    Row(worker.bytes(), {name, [&pipeline] { pipeline.Run(); }}, copy);
  }
  PutAndGet(worker, "raw, shared memory", copy, copy);
}

// Raw calls of other sizes over shared memory: what a call costs by itself, and what its bytes do.
void SizeRows(const Peers& peers) {
  for (const size_t blocks : {1, 2, 4, 8, 16}) {
    BenchWorker worker(peers.target, DataPath::kSharedMemory, CodecId::kRaw, blocks);
    const Work copy = Memcpy(worker);
    PutAndGet(worker, absl::StrCat("raw, shared memory, ", 4 * blocks, " MiB"), copy, copy);
  }
}

// The same planes through the CPU codec, each with its checksum, without daemon and transport.
class CodecAlone {
 public:
  explicit CodecAlone(BenchWorker& worker) : worker_(worker), encoded_(worker.values.size()) {
    Encode();  // what Decode decodes
  }

  void Encode() {
    ForBlocks(worker_.values.size(), [this](size_t b) {
      encoded_[b].clear();
      for (const PlaneSpec& plane : planes_) {
        EncodedPlane encoded = *EncodePlane(codec_, plane, worker_.space->layout().spec().codec,
                                            nullptr, worker_.values[b][worker_.Index(plane)]);
        const uint32_t sum = Crc32c(encoded.bytes);
        encoded_[b].push_back({std::move(encoded), sum});
      }
    });
  }
  void Decode() {
    ForBlocks(worker_.values.size(), [this](size_t b) {
      for (const PlaneSpec& plane : planes_) {
        const size_t p = worker_.Index(plane);
        const auto& [encoded, sum] = encoded_[b][p];
        const bool intact = Crc32c(encoded.bytes) == sum;
        if (!intact ||
            !DecodePlane(codec_, plane, nullptr, encoded.bytes, worker_.pages[b][p]).ok()) {
          std::abort();
        }
      }
    });
  }

 private:
  BenchWorker& worker_;
  Codec& codec_ = *CpuCodec();
  std::span<const PlaneSpec> planes_ = worker_.space->layout().planes();
  struct Summed {
    EncodedPlane plane;
    uint32_t crc32c;
  };
  std::vector<std::vector<Summed>> encoded_;
};

// The daemon codes, or with a `coder` the worker.
void Lossy(const std::string& target, DataPath path, std::shared_ptr<PlaneCoder> coder = nullptr) {
  const char* who = coder == nullptr ? "" : " in the worker";
  BenchWorker worker(target, path, CodecId::kEOptShrinkQ, kBlocks, kLayers, std::move(coder));
  CodecAlone alone(worker);
  const std::string limit = absl::StrCat(
      "the codec alone, ", threads == 1 ? "one thread" : absl::StrCat(threads, " threads"));
  PutAndGet(worker, absl::StrCat("eOptShrinkQ", who, ", ", Name(path)),
            {limit, [&alone] { alone.Encode(); }}, {limit, [&alone] { alone.Decode(); }});
}

// A client's call, on a connection of its own: of the kind that `--client` names.
std::function<void()> CallerOf(const std::string& kind, const std::string& peer) {
  constexpr size_t kKeys = 256;
  if (kind == "bare") return BareCaller(peer, kKeys * sizeof(BlockKey));
  const auto worker = std::make_shared<BenchWorker>(peer, DataPath::kGrpc, CodecId::kRaw, 1);
  const auto keys = worker->space->Keys(std::vector<uint32_t>(kKeys * 128, 1));
  worker->space->Lookup(keys);
  return [worker, keys] { worker->space->Lookup(keys); };
}

// Clients, as processes as workers are, or as threads of one.
struct Clients {
  size_t processes, threads;
  std::string name() const {
    return threads == 1 ? absl::StrCat("clients: ", processes)
                        : absl::StrCat("clients: ", threads, " in one process");
  }
};

int64_t Nanoseconds(Clock::time_point t) { return t.time_since_epoch().count(); }

// One such process: seconds of each call to standard output.
int BeClient(const std::string& kind, const std::string& peer, char** times) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const auto at = [&](int i) { return Clock::time_point(Clock::duration(std::atoll(times[i]))); };
  const auto threads = static_cast<size_t>(std::atoi(times[2]));
  for (double s : Latencies(threads, {at(0), at(1)}, [&] { return CallerOf(kind, peer); })) {
    std::printf("%.9f\n", s);
  }
  return 0;
}

std::vector<double> LatenciesOf(const Clients& clients, const std::string& kind,
                                const std::string& peer) {
  TempDir dir;
  // Until they are all there.
  const auto begin = Clock::now() + std::chrono::seconds(1);
  const auto end = begin + std::chrono::duration_cast<Clock::duration>(
                               std::chrono::duration<double>(seconds_each));
  const auto output = [&](size_t i) { return absl::StrCat(dir.path(), "/", i); };
  std::vector<std::unique_ptr<Process>> processes;
  for (size_t i = 0; i < clients.processes; ++i) {
    processes.push_back(std::make_unique<Process>(
        std::vector<std::string>{kSelf, "--client", kind, peer, absl::StrCat(Nanoseconds(begin)),
                                 absl::StrCat(Nanoseconds(end)), absl::StrCat(clients.threads)},
        output(i)));
  }
  std::vector<double> all;
  for (size_t i = 0; i < clients.processes; ++i) {
    processes[i]->Wait();
    std::ifstream latencies(output(i));
    for (double seconds; latencies >> seconds;) all.push_back(seconds);
  }
  std::sort(all.begin(), all.end());
  return all;
}

void LatencyRow(const std::string& what, const std::vector<double>& sorted) {
  if (sorted.empty()) return void(std::printf("%-44s no call came back\n", what.c_str()));
  std::printf("%-44s p50 %6.0f us   p99 %6.0f us   %6.0f/s\n", what.c_str(),
              1e6 * sorted[sorted.size() / 2], 1e6 * sorted[sorted.size() * 99 / 100],
              static_cast<double>(sorted.size()) / seconds_each);
  std::fflush(stdout);
}

void Lookups(const Peers& peers) {
  for (const Clients clients : {Clients{1, 1}, Clients{16, 1}, Clients{1, 16}}) {
    LatencyRow(absl::StrCat("bare calls of 8 KiB, ", clients.name()),
               LatenciesOf(clients, "bare", peers.bare_socket));
    LatencyRow(absl::StrCat("lookup of 256 keys, ", clients.name()),
               LatenciesOf(clients, "lookup", peers.target));
  }
  for (const DataPath path : {DataPath::kGrpc, DataPath::kSharedMemory}) {
    BenchWorker bulk(peers.target, path, CodecId::kEOptShrinkQ, 4);
    bulk.Put();
    std::atomic<bool> stop{false};
    std::thread traffic([&] {
      while (!stop) bulk.Get();
    });
    LatencyRow(absl::StrCat("one client, Gets over ", Name(path), " beside it"),
               LatenciesOf({1, 1}, "lookup", peers.target));
    stop = true;
    traffic.join();
    bulk.Drop();
  }
}

void Run() {
  TempDir dir;
  const Peers peers{absl::StrCat("unix:", dir.path(), "/d.sock"), dir.path() + "/bare.sock"};
  const Process daemon(EndingWithThisThread({BesideThisProgram(KVSTOWD),
                                             absl::StrCat("--unix_socket=", dir.path(), "/d.sock"),
                                             "--metrics=none", "--host_tier=1GiB", "--device=cpu",
                                             absl::StrCat("--threads=", threads)}),
                       dir.path() + "/log");
  const Process bare({kSelf, "--serve_bare", peers.bare_socket}, dir.path() + "/bare.log");
  std::printf("%u threads of the daemon, one of the worker\n", threads);
  if (Wanted("raw")) RawRows(peers);
  if (Wanted("size")) SizeRows(peers);
  if (Wanted("lossy")) {
    Lossy(peers.target, DataPath::kGrpc);
    Lossy(peers.target, DataPath::kSharedMemory);
    Lossy(peers.target, DataPath::kGrpc, MakeCpuCoder({.threads = threads}));
    Lossy(peers.target, DataPath::kSharedMemory, MakeCpuCoder({.threads = threads}));
  }
  if (Wanted("lookup")) Lookups(peers);
}

// What is measured in the daemon's place has its settings, too.
[[noreturn]] void Serve(const std::string& socket) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  TuneMalloc();
  ServeBare(socket);
}

}  // namespace
}  // namespace kvstow::testing

int main(int argc, char** argv) {
  // As in kvstowd, and in a worker that knows of it.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  if (argc == 3 && std::string_view(argv[1]) == "--serve_bare") kvstow::testing::Serve(argv[2]);
  if (argc == 7 && std::string_view(argv[1]) == "--client") {
    return kvstow::testing::BeClient(argv[2], argv[3], argv + 4);
  }
  if (argc > 1) kvstow::testing::seconds_each = std::atof(argv[1]);
  if (argc > 3) kvstow::testing::groups = argv[3];
  if (argc > 4) kvstow::testing::row_wanted = argv[4];
  if (argc > 2) kvstow::testing::threads = std::max(1, std::atoi(argv[2]));
  kvstow::testing::Run();
}
