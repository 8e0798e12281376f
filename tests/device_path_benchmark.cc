// Gets of 32k tokens of the shape of Llama-3.1-8B (32 layers, 8 KV heads of 128, FP16, 256 blocks,
// 4.29 GB) out of another process, kvstowd, into this process's paged KV cache in device memory,
// and Puts of as much out of it. Tiles are those of testdata/kv-traces. Planes drawn at random are
// compared: of a Get with what the same daemon gives through host memory, of a Put with what was
// put.
//
//   device_path_benchmark KVSTOWD [slot MiB]...
#include <cuda_runtime_api.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client_cuda/kvstow/cuda.h"
#include "codec/testing/trace.h"
#include "gpu/staging.h"
#include "kvstow/client.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"

namespace kvstow::testing {
namespace {

constexpr size_t kBlocks = 256;
constexpr uint32_t kPageTokens = 16;
constexpr uint32_t kPagesOfBlock = 128 / kPageTokens;
constexpr int kRuns = 9;

void OrDie(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}
void OrDie(cudaError_t error) {
  if (error != cudaSuccess) OrDie(absl::InternalError(cudaGetErrorString(error)));
}
template <typename T>
T OrDie(absl::StatusOr<T> value) {
  OrDie(value.status());
  return *std::move(value);
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

SpaceSpec Llama() {
  SpaceSpec spec;
  spec.model = {"llama-3.1-8b-shape", "", ""};
  LayerGroup group;
  for (uint32_t i = 0; i < 32; ++i) group.layers.push_back(i);
  group.kv_heads = 8;
  group.k_dim = group.v_dim = 128;
  group.rotary = Trace::Cut().rotary();
  spec.groups = {group};
  return spec;
}

// Block b of the prompt, of tiles of the trace; a block's offset into it keeps rows consecutive, so
// undoing the rotary embedding finds what is there to find.
void FillPlane(const PlaneSpec& plane, size_t block, std::span<std::byte> to) {
  const Trace& trace = Trace::Cut();
  for (uint32_t head = 0; head < plane.heads; ++head) {
    const uint64_t pick = block * 31 + plane.layer * 7 + head;
    const uint32_t layer = trace.layers()[pick % trace.layers().size()];
    const auto rows =
        trace.Rows(plane.kind == PlaneKind::kK, layer, head % Trace::kHeads, block % 8 * 128, 128);
    std::memcpy(to.data() + head * rows.size(), rows.data(), rows.size());
  }
}

// An engine's cache: one buffer a plane of the layout, [page][token][head][dim] (NHD).
class Cache {
 public:
  explicit Cache(const PlaneLayout& layout) : layout_(layout) {
    for (size_t p = 0; p < layout.planes().size(); ++p) {
      buffers_.push_back(std::make_unique<gpu::DeviceBuffer>());
      OrDie(buffers_.back()->Reserve(kBlocks * layout.planes()[p].raw_bytes));
    }
    std::vector<uint32_t> all(kBlocks * kPagesOfBlock);
    for (uint32_t i = 0; i < all.size(); ++i) all[i] = i;
    std::shuffle(all.begin(), all.end(), std::mt19937(7));
    for (size_t b = 0; b < kBlocks; ++b) {
      pages_.emplace_back(all.begin() + b * kPagesOfBlock, all.begin() + (b + 1) * kPagesOfBlock);
    }
  }
  DevicePages pages() {
    return {[this](const PlaneSpec& plane) {
              return PagedKv::Nhd(buffers_[Index(plane)]->data(), plane, kPageTokens);
            },
            pages_};
  }
  // The values of a prompt, as FillPlane has them.
  void Load() {
    for (size_t p = 0; p < buffers_.size(); ++p) {
      const PlaneSpec& spec = layout_.planes()[p];
      std::vector<std::byte> host(kBlocks * spec.raw_bytes), plane(spec.raw_bytes);
      for (size_t b = 0; b < kBlocks; ++b) {
        FillPlane(spec, b, plane);
        OrDie(ScatterPlane(spec, plane, PagedKv::Nhd(host.data(), spec, kPageTokens), pages_[b]));
      }
      OrDie(cudaMemcpy(buffers_[p]->data(), host.data(), host.size(), cudaMemcpyDefault));
    }
  }
  void Poison() {
    for (const auto& buffer : buffers_) OrDie(cudaMemset(buffer->data(), 0xff, buffer->size()));
    OrDie(cudaDeviceSynchronize());
  }
  std::vector<std::byte> Plane(size_t plane, size_t block) {
    const PlaneSpec& spec = layout_.planes()[plane];
    std::vector<std::byte> host(kBlocks * spec.raw_bytes), out(spec.raw_bytes);
    OrDie(cudaMemcpy(host.data(), buffers_[plane]->data(), host.size(), cudaMemcpyDefault));
    OrDie(GatherPlane(spec, PagedKv::Nhd(host.data(), spec, kPageTokens), pages_[block], out));
    return out;
  }

 private:
  // Of the plane in any space of this shape.
  size_t Index(const PlaneSpec& plane) const {
    return 2 * size_t{plane.layer} + (plane.kind == PlaneKind::kK ? 0 : 1);
  }
  const PlaneLayout& layout_;
  std::vector<std::unique_ptr<gpu::DeviceBuffer>> buffers_;
  std::vector<std::vector<uint32_t>> pages_;
};

std::unique_ptr<Client> Connect(const std::string& socket, std::shared_ptr<WorkerGpu> gpu) {
  ClientOptions options;
  options.target = "unix:" + socket;
  options.connect_wait = options.lookup_deadline = absl::Seconds(30);
  options.get_deadline = options.put_deadline = absl::Seconds(120);
  options.gpu = std::move(gpu);
  if (options.gpu != nullptr) options.path = DataPath::kDeviceMemory;
  return Client::Create(options);
}

// Exact bytes of some planes, through host memory.
void Verify(Space& space, const std::vector<BlockKey>& keys, Cache* cache) {
  std::mt19937 random(11);
  for (int i = 0; i < 6; ++i) {
    const size_t block = random() % kBlocks, plane = random() % space.layout().planes().size();
    const PlaneSpec& spec = space.layout().planes()[plane];
    std::vector<std::byte> expected(spec.raw_bytes);
    GetBlocksRequest request;
    request.keys = {keys[block]};
    request.layers = {spec.layer};
    request.destination = [&](const PlaneSpec& p, size_t) {
      return p.kind == spec.kind ? std::span(expected) : std::span<std::byte>();
    };
    const auto got = space.GetBlocks(request);
    OrDie(got.status);
    const auto here = cache->Plane(plane, block);
    if (here != expected) {
      OrDie(absl::DataLossError(absl::StrCat("block ", block, " plane ", plane, " differs")));
    }
  }
}

// Through host memory, in calls that stay within the daemon's limit of what has not committed.
void PutAll(Space& space, const std::vector<BlockKey>& keys) {
  constexpr size_t kAtATime = 64;
  for (size_t first = 0; first < keys.size(); first += kAtATime) {
    PutBlocksRequest put;
    put.keys = {keys.begin() + first, keys.begin() + first + kAtATime};
    put.first_position = first * 128;
    if (first > 0) put.parent = keys[first - 1];
    put.fill = [first](const PlaneSpec& plane, size_t block, std::span<std::byte> to) {
      FillPlane(plane, first + block, to);
      return true;
    };
    const auto stored = space.PutBlocks(put);
    OrDie(stored.status);
    if (stored.stored != kAtATime) OrDie(absl::InternalError(stored.blocks.back().refusal));
  }
}

struct Setting {
  std::string name;
  std::vector<std::string> flags;
  bool puts = false;
};

// Who codes.
enum class By { kDaemon, kWorker };

void Time(const std::string& name, By by, uint32_t region_mib, Client& client, Space& space,
          Space& host_space, const std::vector<BlockKey>& keys, Cache* cache) {
  cudaStream_t stream = nullptr;
  OrDie(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  auto kv = OrDie(PagedDeviceKv::Create({.device = 0,
                                         .stream = stream,
                                         .decode = by == By::kWorker ? &space.layout() : nullptr,
                                         .max_blocks = kBlocks}));
  OrDie(kv->SetPages(cache->pages()));
  std::vector<double> all, first;
  cache->Poison();
  for (int run = 0; run <= kRuns; ++run) {
    GetBlocksRequest get;
    get.keys = keys;
    get.device = kv;
    double first_layer = 0;
    const double begin = Now();
    get.on_layer = [&](uint32_t, size_t) {
      if (first_layer == 0) first_layer = Now() - begin;
    };
    const auto got = space.GetBlocks(get);
    const double seconds = Now() - begin;
    if (got.usable != kBlocks || got.path != DataPath::kDeviceMemory) {
      std::fprintf(stderr, "%s: usable %zu by %s: %s; %s\n", name.c_str(), got.usable,
                   std::string(Name(got.path)).c_str(), got.status.ToString().c_str(),
                   client.health().no_device_memory.ToString().c_str());
      std::exit(1);
    }
    if (run == 0) continue;
    all.push_back(seconds);
    first.push_back(first_layer);
  }
  Verify(host_space, keys, cache);
  const double raw = static_cast<double>(kBlocks * space.layout().raw_bytes());
  std::printf("%-32s %-15s region %4u MiB %8.2f ms %7.1f GB/s  first layer %6.2f ms\n",
              name.c_str(), by == By::kWorker ? "worker decodes" : "daemon decodes", region_mib,
              Median(all) * 1e3, raw / Median(all) / 1e9, Median(first) * 1e3);
  std::fflush(stdout);
  kv.reset();
  OrDie(cudaStreamDestroy(stream));
}

// Squared error over squares.
double Nmse(std::span<const std::byte> exact, std::span<const std::byte> other) {
  const auto* a = reinterpret_cast<const _Float16*>(exact.data());
  const auto* b = reinterpret_cast<const _Float16*>(other.data());
  double error = 0, energy = 0;
  for (size_t i = 0; i < exact.size() / 2; ++i) {
    const double x = static_cast<double>(a[i]), d = static_cast<double>(b[i]) - x;
    error += d * d;
    energy += x * x;
  }
  return error / energy;
}

// What comes back is what was put, as far as the Put itself said.
void VerifyPut(Space& space, const std::vector<BlockKey>& keys, const PutBlocksResult& put) {
  std::mt19937 random(13);
  for (int i = 0; i < 6; ++i) {
    const size_t block = random() % kBlocks;
    GetBlocksRequest request;
    request.keys = {keys[block]};
    request.layers = {space.layout().layers()[random() % space.layout().layers().size()]};
    std::vector<std::byte> exact;
    request.take = [&](const PlaneSpec& plane, size_t, std::span<const std::byte> from) {
      exact.resize(plane.raw_bytes);
      FillPlane(plane, block, exact);
      const Fidelity& told =
          plane.kind == PlaneKind::kK ? put.blocks[block].k : put.blocks[block].v;
      const double nmse = Nmse(exact, from);
      if (!(nmse <= told.worst_nmse * 1.01)) {
        OrDie(absl::DataLossError(absl::StrCat("block ", block, " layer ", plane.layer,
                                               ": NMSE of ", nmse, ", told ", told.worst_nmse)));
      }
    };
    OrDie(space.GetBlocks(request).status);
  }
}

// Through the space's path: what the worker encodes crosses host memory.
void TimePut(By by, uint32_t region_mib, Space& space, Space& host_space,
             const std::vector<BlockKey>& keys, Cache* cache) {
  const DataPath path = by == By::kWorker ? DataPath::kSharedMemory : DataPath::kDeviceMemory;
  cudaStream_t stream = nullptr;
  OrDie(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  auto kv = OrDie(PagedDeviceKv::Create({.device = 0,
                                         .stream = stream,
                                         .encode = by == By::kWorker ? &space.layout() : nullptr,
                                         .max_blocks = kBlocks}));
  OrDie(kv->SetPages(cache->pages()));
  cache->Load();
  std::vector<double> all;
  PutBlocksResult put;
  for (int run = 0; run <= kRuns; ++run) {
    OrDie(space.DropAll().status());
    PutBlocksRequest request;
    request.keys = keys;
    request.device = kv;
    const double begin = Now();
    put = space.PutBlocks(request);
    const double seconds = Now() - begin;
    if (put.stored != kBlocks || put.path != path) {
      OrDie(
          absl::InternalError(absl::StrCat("stored ", put.stored, " by ", Name(put.path), ": ",
                                           put.status.ToString(), " ", put.blocks.back().refusal)));
    }
    if (run > 0) all.push_back(seconds);
  }
  VerifyPut(host_space, keys, put);
  const double raw = static_cast<double>(kBlocks * space.layout().raw_bytes());
  std::printf("%-32s %-15s region %4u MiB %8.2f ms %7.1f GB/s  %.3f bits an entry\n",
              "Put to the host tier", by == By::kWorker ? "worker encodes" : "daemon encodes",
              region_mib, Median(all) * 1e3, raw / Median(all) / 1e9,
              8 * static_cast<double>(put.record_bytes) / (raw / 2));
  std::fflush(stdout);
  kv.reset();
  OrDie(cudaStreamDestroy(stream));
}

void Run(const std::string& kvstowd, const Setting& setting, uint32_t region_mib,
         const std::shared_ptr<WorkerGpu>& gpu) {
  TempDir dir;
  const std::string socket = dir.path() + "/d.sock", config = dir.path() + "/config";
  std::ofstream(config) << "staging { device_total: \"4GiB\" device_per_session: \"" << region_mib
                        << "MiB\" }\nlimits { staged: \"1GiB\" }\n";
  std::vector<std::string> argv = {
      kvstowd,          "--config=" + config, "--unix_socket=" + socket,
      "--metrics=none", "--device=cuda",      "--log_level=warn"};
  argv.insert(argv.end(), setting.flags.begin(), setting.flags.end());
  Process daemon(EndingWithThisThread(argv), dir.path() + "/log");
  auto host_client = Connect(socket, nullptr);
  auto host_space = OrDie(host_client->OpenSpace(Llama()));
  const auto keys = host_space->Keys(std::vector<uint32_t>(kBlocks * 128, 1));
  for (int i = 0; i < 300 && host_space->Lookup({keys.data(), 1}).status.code() ==
                                 absl::StatusCode::kUnavailable;
       ++i) {
    absl::SleepFor(absl::Milliseconds(100));
  }
  PutAll(*host_space, keys);
  auto client = Connect(socket, gpu);
  auto space = OrDie(client->OpenSpace(Llama()));
  Cache cache(space->layout());
  for (const By by : {By::kDaemon, By::kWorker}) {
    Time(setting.name, by, region_mib, *client, *space, *host_space, keys, &cache);
  }
  if (!setting.puts) return;
  TimePut(By::kDaemon, region_mib, *space, *host_space, keys, &cache);
  TimePut(By::kWorker, region_mib, *host_space, *host_space, keys, &cache);
}

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "device_path_benchmark KVSTOWD [region MiB]...\n");
    return 64;
  }
  std::vector<uint32_t> regions;
  for (int i = 2; i < argc; ++i) regions.push_back(std::atoi(argv[i]));
  if (regions.empty()) regions = {256};
  auto gpu = OrDie(OpenWorkerGpu(0));
  for (uint32_t region : regions) {
    Run(argv[1], {"Get from the host tier", {"--host_tier=2GiB"}, true}, region, gpu);
    Run(argv[1], {"Get from the gpu tier", {"--host_tier=1GiB", "--gpu_tier=2GiB"}}, region, gpu);
  }
  return 0;
}

}  // namespace
}  // namespace kvstow::testing

int main(int argc, char** argv) { return kvstow::testing::Main(argc, argv); }
