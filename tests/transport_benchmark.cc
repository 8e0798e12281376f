// What the data paths cost beside their limits, all measured in this process and this run: memcpy,
// the codec alone, a bare gRPC byte stream. A daemon and a worker share the machine, as in
// production.
//
//   transport_benchmark [SECONDS [THREADS [overwriting]]]
//
// THREADS are the daemon's; the worker has one. Prints GB/s (1e9 bytes of KV), medians over calls.
// With "overwriting" it prints instead what the overwriting of scratch costs, call by call with and
// without.
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "codec/plane.h"
#include "codec/scratch.h"
#include "kvstow/client.h"
#include "server/app/daemon.h"
#include "tests/testing/byte_stream.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/kv_data.h"

namespace kvstow::testing {
namespace {

using Clock = std::chrono::steady_clock;
using Planes = std::vector<std::vector<std::byte>>;

double seconds_each = 2;

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

// Llama-3.1-8B's planes, eight of its layers: 4 MiB a block.
SpaceSpec Spec(CodecId codec) {
  SpaceSpec spec;
  spec.model = {"transport-benchmark", "", ""};
  LayerGroup group;
  for (uint32_t i = 0; i < 8; ++i) group.layers.push_back(i);
  group.kv_heads = 8;
  group.k_dim = group.v_dim = 128;
  spec.groups = {group};
  spec.codec.codec = codec;
  return spec;
}

struct Worker {
  Worker(const std::string& target, DataPath path, CodecId codec, size_t blocks) {
    ClientOptions options;
    options.target = target;
    options.path = path;
    options.lookup_deadline = options.get_deadline = options.put_deadline = absl::Minutes(5);
    client = Client::Create(options);
    space = *client->OpenSpace(Spec(codec));
    keys = space->Keys(std::vector<uint32_t>(blocks * 128, 1));
    for (size_t b = 0; b < blocks; ++b) values.push_back(MakeBlock(space->layout(), b));
    pages = values;
  }
  size_t Index(const PlaneSpec& plane) const {
    return static_cast<size_t>(&plane - space->layout().planes().data());
  }
  double bytes() const { return static_cast<double>(keys.size() * space->layout().raw_bytes()); }
  void Put() {
    PutBlocksRequest request;
    request.keys = keys;
    request.source = [this](const PlaneSpec& plane, size_t block) {
      return std::span<const std::byte>(values[block][Index(plane)]);
    };
    const auto put = space->PutBlocks(request);
    if (put.stored != keys.size()) {
      std::fprintf(stderr, "put: %s\n", put.status.ToString().c_str());
      std::exit(1);
    }
  }
  void Get() {
    GetBlocksRequest request;
    request.keys = keys;
    request.destination = [this](const PlaneSpec& plane, size_t block) {
      return std::span<std::byte>(pages[block][Index(plane)]);
    };
    const auto get = space->GetBlocks(request);
    if (get.usable != keys.size()) {
      std::fprintf(stderr, "get: %s\n", get.status.ToString().c_str());
      std::exit(1);
    }
  }
  void Drop() { space->DropAll().IgnoreError(); }

  std::unique_ptr<Client> client;
  std::shared_ptr<Space> space;
  std::vector<BlockKey> keys;
  std::vector<Planes> values, pages;
};

void Row(const std::string& what, double rate, double limit, const char* of) {
  std::printf("%-44s %8.3f GB/s   %5.2f of %s\n", what.c_str(), rate, rate / limit, of);
  std::fflush(stdout);
}

double Memcpy(Worker& worker) {
  return Rate(worker.bytes(), [&] {
    for (size_t b = 0; b < worker.values.size(); ++b) {
      for (size_t p = 0; p < worker.values[b].size(); ++p) {
        std::memcpy(worker.pages[b][p].data(), worker.values[b][p].data(),
                    worker.values[b][p].size());
      }
    }
  });
}

void RawCodec(const std::string& target, DataPath path, double grpc_limit) {
  Worker worker(target, path, CodecId::kRaw, 8);
  const double copy = Memcpy(worker);
  std::printf("%-44s %8.3f GB/s\n", "memcpy of the same bytes, one thread", copy);
  const std::string name(Name(path));
  const bool shm = path == DataPath::kSharedMemory;
  const double limit = shm ? copy : grpc_limit;
  const char* const of = shm ? "memcpy" : "the bare stream";
  Row(absl::StrCat("raw put over ", name),
      Rate(
          worker.bytes(), [&] { worker.Put(); }, [&] { worker.Drop(); }),
      limit, of);
  worker.Put();
  Row(absl::StrCat("raw get over ", name), Rate(worker.bytes(), [&] { worker.Get(); }), limit, of);
  worker.Drop();
}

// The same planes through the CPU codec on one thread, without daemon and transport.
struct CodecAlone {
  double encode = 0, decode = 0;
};
CodecAlone RunCodecAlone(Worker& worker) {
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
  Worker worker(target, path, CodecId::kEOptShrinkQ, 4);
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

// ---- What it costs that scratch is overwritten ----

void OverwritingRow(
    const std::string& what, double bytes, const std::function<void()>& run,
    const std::function<void()>& reset = [] {}) {
  std::vector<double> rates[2];
  run();
  reset();
  for (const auto end = Clock::now() + std::chrono::duration<double>(seconds_each);
       Clock::now() < end || rates[0].size() < 5;) {
    for (const bool on : {false, true}) {
      SetOverwritesScratch(on);
      const auto start = Clock::now();
      run();
      rates[on].push_back(bytes / 1e9 /
                          std::chrono::duration<double>(Clock::now() - start).count());
      reset();
    }
  }
  const double without = Median(rates[false]), with = Median(rates[true]);
  std::printf("%-44s %8.3f GB/s without %8.3f with   %5.3f\n", what.c_str(), without, with,
              with / without);
  std::fflush(stdout);
}

void OverwritingOf(const std::string& target, DataPath path, CodecId codec) {
  const bool raw = codec == CodecId::kRaw;
  Worker worker(target, path, codec, raw ? 8 : 2);
  const std::string name =
      absl::StrCat(raw ? "raw" : "eOptShrinkQ", " over ", std::string(Name(path)));
  OverwritingRow(
      "put, " + name, worker.bytes(), [&] { worker.Put(); }, [&] { worker.Drop(); });
  worker.Put();
  OverwritingRow("get, " + name, worker.bytes(), [&] { worker.Get(); });
  worker.Drop();
}

// Planes of two owners in turn on one thread: what the codec keeps is overwritten at each.
void OverwritingBetweenOwners(const std::string& target) {
  Worker worker(target, DataPath::kGrpc, CodecId::kEOptShrinkQ, 1);
  const auto& planes = worker.space->layout().planes();
  std::vector<EncodedPlane> encoded(planes.size());
  double bytes = 0;
  for (const PlaneSpec& plane : planes) bytes += static_cast<double>(plane.raw_bytes);
  OverwritingRow("encode, a plane each of two owners in turn", bytes, [&] {
    for (size_t p = 0; p < planes.size(); ++p) {
      const uint32_t owner = OverwritesScratch() ? 1 + p % 2 : 0;
      PlaneEncodeJobs jobs = MakeEncodeJobs(planes[p], worker.space->layout().spec().codec, nullptr,
                                            worker.values[0][p], owner);
      CpuCodec()->Encode(std::span(jobs.jobs)).IgnoreError();
      encoded[p] = AssemblePlane(planes[p], jobs);
    }
  });
  OverwritingRow("decode, a plane each of two owners in turn", bytes, [&] {
    for (size_t p = 0; p < planes.size(); ++p) {
      const uint32_t owner = OverwritesScratch() ? 1 + p % 2 : 0;
      DecodePlane(*CpuCodec(), planes[p], nullptr, encoded[p].bytes, worker.pages[0][p], owner)
          .IgnoreError();
    }
  });
}

void Overwriting(const std::string& target) {
  for (const DataPath path : {DataPath::kGrpc, DataPath::kSharedMemory}) {
    for (const CodecId codec : {CodecId::kRaw, CodecId::kEOptShrinkQ}) {
      OverwritingOf(target, path, codec);
    }
  }
  OverwritingBetweenOwners(target);
}

// Latencies of Lookups of 256 keys by `clients` at a time, each on a connection of its own.
std::vector<double> LookupLatencies(const std::string& target, size_t clients) {
  std::vector<std::vector<double>> took(clients);
  std::vector<std::thread> threads;
  for (size_t c = 0; c < clients; ++c) {
    threads.emplace_back([&, c] {
      Worker worker(target, DataPath::kGrpc, CodecId::kRaw, 1);
      const auto keys = worker.space->Keys(std::vector<uint32_t>(256 * 128, 1));
      worker.space->Lookup(keys);
      for (const auto end = Clock::now() + std::chrono::duration<double>(seconds_each);
           Clock::now() < end;) {
        const auto start = Clock::now();
        worker.space->Lookup(keys);
        took[c].push_back(std::chrono::duration<double>(Clock::now() - start).count());
      }
    });
  }
  std::vector<double> all;
  for (size_t c = 0; c < clients; ++c) {
    threads[c].join();
    all.insert(all.end(), took[c].begin(), took[c].end());
  }
  std::sort(all.begin(), all.end());
  return all;
}

void Lookups(const std::string& target) {
  const auto row = [](const char* what, const std::vector<double>& sorted) {
    std::printf("%-44s p50 %6.0f us   p99 %6.0f us   %6.0f/s\n", what,
                1e6 * sorted[sorted.size() / 2], 1e6 * sorted[sorted.size() * 99 / 100],
                sorted.size() / seconds_each);
    std::fflush(stdout);
  };
  row("lookup of 256 keys, one client", LookupLatencies(target, 1));
  row("lookup of 256 keys, 16 clients", LookupLatencies(target, 16));
  for (const DataPath path : {DataPath::kGrpc, DataPath::kSharedMemory}) {
    Worker bulk(target, path, CodecId::kEOptShrinkQ, 4);
    bulk.Put();
    std::atomic<bool> stop{false};
    std::thread traffic([&] {
      while (!stop) bulk.Get();
    });
    row(absl::StrCat("one client, Gets over ", Name(path), " beside it").c_str(),
        LookupLatencies(target, 1));
    stop = true;
    traffic.join();
    bulk.Drop();
  }
}

void Run(uint32_t threads, bool overwriting) {
#ifdef NDEBUG
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);  // as kvstowd does
#endif
  mallopt(M_TRIM_THRESHOLD, 256 << 20);  // as kvstowd does
  mallopt(M_TOP_PAD, 64 << 20);
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  TempDir dir;
  ConfigOverrides overrides;
  overrides.unix_socket = dir.path() + "/d.sock";
  overrides.host_tier = "512MiB";
  overrides.metrics = "none";
  overrides.log_level = "warn";
  overrides.device = "cpu";
  overrides.threads = threads;
  auto daemon = Daemon::Start(*LoadConfig("", overrides));
  if (!daemon.ok()) std::exit(1);
  const std::string target = (*daemon)->listeners().front();
  std::printf("%u threads of the daemon, one of the worker\n", threads);
  if (overwriting) return Overwriting(target);
  const double bare = BareStreamRate(dir.path() + "/bare.sock", 1 << 20, seconds_each);
  std::printf("%-44s %8.3f GB/s\n", "a bare gRPC stream, 1 MiB chunks", bare);
  for (const DataPath path : {DataPath::kGrpc, DataPath::kSharedMemory}) {
    RawCodec(target, path, bare);
    Lossy(target, path, threads);
  }
  Lookups(target);
}

}  // namespace
}  // namespace kvstow::testing

int main(int argc, char** argv) {
  if (argc > 1) kvstow::testing::seconds_each = std::atof(argv[1]);
  kvstow::testing::Run(argc > 2 ? static_cast<uint32_t>(std::atoi(argv[2])) : 1,
                       argc > 3 && std::string(argv[3]) == "overwriting");
}
