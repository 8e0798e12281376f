// What the data paths cost beside their limits, all measured in this run: memcpy, the codec alone,
// bare gRPC streams and calls. The daemon and the bare calls' server are processes of their own; a
// daemon and a worker share the machine, as in production.
//
//   transport_benchmark [SECONDS [THREADS [ROWS]]]
//
// THREADS are the daemon's; the worker has one. ROWS: of "raw", "size", "lossy" and "lookup" those
// that the word contains; all without it. Prints GB/s (1e9 bytes of KV), medians over calls.
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

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "codec/plane.h"
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

double seconds_each = 2;
std::string rows = "raw,size,lossy,lookup";

// Of the rows that are not of other sizes: Llama-3.1-8B's, a prompt of 1,024 tokens raw (128 MiB)
// and one of 512 with eOptShrinkQ.
constexpr uint32_t kLayers = 32;
constexpr size_t kRawBlocks = 8, kLossyBlocks = 4;

bool Wanted(const char* row) { return absl::StrContains(rows, row); }

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Median rate of `run`, which moves `bytes`; `reset` is not timed.
double Rate(
    double bytes, const std::function<void()>& run, const std::function<void()>& reset = [] {}) {
  run();
  reset();
  std::vector<double> rates;
  for (const auto end = Clock::now() + std::chrono::duration<double>(seconds_each);
       Clock::now() < end || rates.size() < 5;) {
    const auto start = Clock::now();
    run();
    rates.push_back(bytes / 1e9 / std::chrono::duration<double>(Clock::now() - start).count());
    reset();
  }
  return Median(rates);
}

void Row(const std::string& what, double rate, double limit, const char* of) {
  std::printf("%-44s %8.3f GB/s   %5.2f of %s\n", what.c_str(), rate, rate / limit, of);
  std::fflush(stdout);
}

double Memcpy(BenchWorker& worker) {
  return Rate(worker.bytes(), [&] {
    for (size_t b = 0; b < worker.values.size(); ++b) {
      for (size_t p = 0; p < worker.values[b].size(); ++p) {
        std::memcpy(worker.pages[b][p].data(), worker.values[b][p].data(),
                    worker.values[b][p].size());
      }
    }
  });
}

// The same bytes through a slot of 8 MiB by two threads.
double Pipeline(BenchWorker& worker, SlotSum sum) {
  SlotPipeline pipeline(size_t{8} << 20);
  std::vector<std::span<const std::byte>> from;
  std::vector<std::span<std::byte>> to;
  for (size_t b = 0; b < worker.values.size(); ++b) {
    for (size_t p = 0; p < worker.values[b].size(); ++p) {
      from.emplace_back(worker.values[b][p]);
      to.emplace_back(worker.pages[b][p]);
    }
  }
  return Rate(worker.bytes(), [&] { pipeline.Run(from, to, sum); });
}

// Where the daemon and the server of the bare calls are.
struct Peers {
  std::string target, bare_socket;
};

// What a row is compared with.
struct Limit {
  double rate;
  const char* name;
};

void RawCodec(const std::string& target, DataPath path, const Limit& put, const Limit& get) {
  BenchWorker worker(target, path, CodecId::kRaw, kRawBlocks, kLayers);
  const std::string name(Name(path));
  Row(absl::StrCat("raw put over ", name),
      Rate(
          worker.bytes(), [&] { worker.Put(); }, [&] { worker.Drop(); }),
      put.rate, put.name);
  worker.Put();
  Row(absl::StrCat("raw get over ", name), Rate(worker.bytes(), [&] { worker.Get(); }), get.rate,
      get.name);
  worker.Drop();
}

void RawRows(const Peers& peers) {
  const auto bare = [&](BareBytes bytes) {
    return std::pair(BareStreamTo(peers.bare_socket, bytes, seconds_each),
                     BareStreamFrom(peers.bare_socket, bytes, seconds_each));
  };
  const auto [chunk_to, chunk_from] = bare(BareBytes::kOneChunk);
  const auto [memory_to, memory_from] = bare(BareBytes::kMemory);
  const auto [checked_to, checked_from] = bare(BareBytes::kChecked);
  const Limit to{chunk_to, "the bare stream"};
  const Limit from{chunk_from, "the bare stream"};
  std::printf("%-44s %8.3f GB/s\n", "a bare gRPC stream to another process", to.rate);
  std::printf("%-44s %8.3f GB/s\n", "a bare gRPC stream from it", from.rate);
  Row("the same out of memory and into it, to", memory_to, to.rate, to.name);
  Row("the same out of memory and into it, from", memory_from, from.rate, from.name);
  Row("the same with the daemon's checksums, to", checked_to, to.rate, to.name);
  Row("the same with the daemon's checksums, from", checked_from, from.rate, from.name);
  RawCodec(peers.target, DataPath::kGrpc, {checked_to, "the one with checksums"},
           {checked_from, "the one with checksums"});
  Limit copy{0, "memcpy"};
  {
    BenchWorker worker(peers.target, DataPath::kGrpc, CodecId::kRaw, kRawBlocks, kLayers);
    copy.rate = Memcpy(worker);
    std::printf("%-44s %8.3f GB/s\n", "memcpy of the same bytes, one thread", copy.rate);
    Row("two threads through a slot, as a put", Pipeline(worker, SlotSum::kWhenRead), copy.rate,
        copy.name);
    Row("two threads through a slot, as a get", Pipeline(worker, SlotSum::kWhenWritten), copy.rate,
        copy.name);
  }
  RawCodec(peers.target, DataPath::kSharedMemory, copy, copy);
}

// Raw calls of other sizes over shared memory: what a call costs by itself, and what its bytes do.
void SizeRows(const Peers& peers) {
  for (const size_t blocks : {1, 2, 4, 8, 16}) {
    BenchWorker worker(peers.target, DataPath::kSharedMemory, CodecId::kRaw, blocks);
    const double copy = Memcpy(worker);
    const auto name = [&](const char* what) {
      return absl::StrCat("raw ", what, " over shm, ", 4 * blocks, " MiB");
    };
    Row(name("put"),
        Rate(
            worker.bytes(), [&] { worker.Put(); }, [&] { worker.Drop(); }),
        copy, "memcpy");
    worker.Put();
    Row(name("get"), Rate(worker.bytes(), [&] { worker.Get(); }), copy, "memcpy");
    worker.Drop();
  }
}

// The same planes through the CPU codec on one thread, without daemon and transport.
struct CodecAlone {
  double encode = 0, decode = 0;
};
CodecAlone RunCodecAlone(BenchWorker& worker) {
  CodecAlone alone;
  Codec& codec = *CpuCodec();
  std::vector<std::vector<EncodedPlane>> encoded(worker.values.size());
  const auto& planes = worker.space->layout().planes();
  alone.encode = Rate(worker.bytes(), [&] {
    for (size_t b = 0; b < worker.values.size(); ++b) {
      encoded[b].clear();
      for (const PlaneSpec& plane : planes) {
        encoded[b].push_back(*EncodePlane(codec, plane, worker.space->layout().spec().codec,
                                          nullptr, worker.values[b][worker.Index(plane)]));
      }
    }
  });
  alone.decode = Rate(worker.bytes(), [&] {
    for (size_t b = 0; b < worker.values.size(); ++b) {
      for (const PlaneSpec& plane : planes) {
        const size_t p = worker.Index(plane);
        DecodePlane(codec, plane, nullptr, encoded[b][p].bytes, worker.pages[b][p]).IgnoreError();
      }
    }
  });
  return alone;
}

void Lossy(const std::string& target, DataPath path, uint32_t threads) {
  BenchWorker worker(target, path, CodecId::kEOptShrinkQ, kLossyBlocks, kLayers);
  const CodecAlone alone = RunCodecAlone(worker);
  std::printf("%-44s %8.3f GB/s encode, %.3f GB/s decode\n", "the codec alone, one thread",
              alone.encode, alone.decode);
  const std::string name(Name(path));
  const char* const of = threads == 1 ? "the codec alone" : "the codec alone, one thread";
  Row(absl::StrCat("eOptShrinkQ put over ", name),
      Rate(
          worker.bytes(), [&] { worker.Put(); }, [&] { worker.Drop(); }),
      alone.encode, of);
  worker.Put();
  Row(absl::StrCat("eOptShrinkQ get over ", name), Rate(worker.bytes(), [&] { worker.Get(); }),
      alone.decode, of);
  worker.Drop();
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
        std::vector<std::string>{"/proc/self/exe", "--client", kind, peer,
                                 absl::StrCat(Nanoseconds(begin)), absl::StrCat(Nanoseconds(end)),
                                 absl::StrCat(clients.threads)},
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

void Run(const char* self, uint32_t threads) {
  TempDir dir;
  const Peers peers{absl::StrCat("unix:", dir.path(), "/d.sock"), dir.path() + "/bare.sock"};
  const Process daemon(
      {KVSTOWD, absl::StrCat("--unix_socket=", dir.path(), "/d.sock"), "--metrics=none",
       "--host_tier=1GiB", "--device=cpu", absl::StrCat("--threads=", threads)},
      dir.path() + "/log");
  const Process bare({self, "--serve_bare", peers.bare_socket}, dir.path() + "/bare.log");
  std::printf("%u threads of the daemon, one of the worker\n", threads);
  if (Wanted("raw")) RawRows(peers);
  if (Wanted("size")) SizeRows(peers);
  if (Wanted("lossy")) {
    Lossy(peers.target, DataPath::kGrpc, threads);
    Lossy(peers.target, DataPath::kSharedMemory, threads);
  }
  if (Wanted("lookup")) Lookups(peers);
}

// What is measured in the daemon's place has its settings, too.
[[noreturn]] void Serve(const std::string& socket) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  TuneMalloc();
  ServeBare(socket);
}

}  // namespace
}  // namespace kvstow::testing

int main(int argc, char** argv) {
  if (argc == 3 && std::string_view(argv[1]) == "--serve_bare") kvstow::testing::Serve(argv[2]);
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);  // as in a worker's release
  if (argc == 7 && std::string_view(argv[1]) == "--client") {
    return kvstow::testing::BeClient(argv[2], argv[3], argv + 4);
  }
  if (argc > 1) kvstow::testing::seconds_each = std::atof(argv[1]);
  if (argc > 3) kvstow::testing::rows = argv[3];
  kvstow::testing::Run(argv[0], argc > 2 ? static_cast<uint32_t>(std::atoi(argv[2])) : 1);
}
