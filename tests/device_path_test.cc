// KV in a worker's device memory, out of a daemon in another process, on a real GPU: exactly what
// the same daemon gives through host memory, whoever decodes, whatever the pages; and nothing of a
// daemon that is stopped, killed or left. (transport_test runs the protocol without a GPU.)
#include <cuda_runtime_api.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client_cuda/kvstow/cuda.h"
#include "gpu/staging.h"
#include "gtest/gtest.h"
#include "kvstow/client.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/process.h"
#include "tests/testing/put_past_pending.h"
#include "tests/testing/temp_dir.h"

namespace kvstow::testing {
namespace {

constexpr size_t kBlocks = 5;

SpaceSpec Spec(CodecId codec = CodecId::kEOptShrinkQ, uint32_t layers = 3) {
  SpaceSpec spec;
  spec.model = {"device-path-test", "", ""};
  LayerGroup group;
  for (uint32_t layer = 0; layer < layers; ++layer) group.layers.push_back(layer);
  group.kv_heads = 2;
  group.k_dim = group.v_dim = 128;
  RotaryEmbedding rotary;
  for (int i = 0; i < 64; ++i) {
    rotary.inverse_frequencies.push_back(1.0f / static_cast<float>(1 << (i / 4)));
  }
  group.rotary = rotary;
  spec.groups = {group};
  spec.codec.codec = codec;
  return spec;
}

class DevicePathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto gpu = OpenWorkerGpu(0);
    if (!gpu.ok()) GTEST_SKIP() << "no GPU: " << gpu.status();
    gpu_ = *std::move(gpu);
    StartDaemon({"--host_tier=256MiB"});
  }
  void TearDown() override {
    if (daemon_ != nullptr) daemon_->Signal(SIGKILL);
  }

  void StartDaemon(const std::vector<std::string>& flags) {
    std::vector<std::string> argv = {BesideThisProgram(KVSTOWD), "--unix_socket=" + socket_,
                                     "--metrics=none", "--device=cuda", "--log_level=warn"};
    argv.insert(argv.end(), flags.begin(), flags.end());
    daemon_ = std::make_unique<Process>(argv, dir_.path() + "/log");
    on_host_ = Connect(nullptr);
    while (!on_host_->health().connected) {
      ASSERT_TRUE(daemon_->running()) << ReadFile(dir_.path() + "/log");
      on_host_->Renew(1, absl::Seconds(1));
      std::this_thread::yield();
    }
    on_device_ = Connect(gpu_);
  }
  // Regions of one page of the device each, slots of half of it.
  void StartDaemonWithSmallRegions() {
    const std::string config = dir_.path() + "/config";
    std::ofstream(config) << "staging { device_total: \"256MiB\" device_per_session: \"2MiB\" }\n";
    daemon_.reset();
    StartDaemon({"--config=" + config, "--host_tier=256MiB"});
  }
  ClientOptions Options() const {
    ClientOptions options;
    options.target = "unix:" + socket_;
    options.connect_wait = options.lookup_deadline = absl::Seconds(60);
    options.get_deadline = options.put_deadline = absl::Seconds(60);
    options.breaker_failures = 1000;
    return options;
  }
  std::unique_ptr<Client> Connect(std::shared_ptr<WorkerGpu> gpu) const {
    ClientOptions options = Options();
    if (gpu != nullptr) options.path = DataPath::kDeviceMemory;
    options.gpu = std::move(gpu);
    return Client::Create(options);
  }
  void Put(const SpaceSpec& spec) {
    host_space_ = *on_host_->OpenSpace(spec);
    space_ = *on_device_->OpenSpace(spec);
    keys_ = space_->Keys(std::vector<uint32_t>(kBlocks * 128, 3));
    PutBlocksRequest put;
    put.keys = keys_;
    std::vector<std::byte> plane;
    put.source = [&](const PlaneSpec& spec, size_t block) {
      plane = MakePlane(spec, block);
      return std::span<const std::byte>(plane);
    };
    put_ = host_space_->PutBlocks(put);
    ASSERT_EQ(put_.stored, kBlocks) << put_.status;
  }

  enum class Layout { kNhd, kHnd };
  struct Cache {
    std::vector<std::unique_ptr<gpu::DeviceBuffer>> planes;
    std::vector<std::vector<uint32_t>> pages;
    uint32_t page_tokens = 0;
    Layout layout = Layout::kNhd;
  };
  size_t Index(const PlaneSpec& plane) const {
    return static_cast<size_t>(&plane - space_->layout().planes().data());
  }
  PagedKv At(const Cache& cache, std::byte* base, const PlaneSpec& plane) const {
    return cache.layout == Layout::kNhd ? PagedKv::Nhd(base, plane, cache.page_tokens)
                                        : PagedKv::Hnd(base, plane, cache.page_tokens);
  }
  std::unique_ptr<Cache> MakeCache(uint32_t page_tokens, Layout layout) const {
    auto cache = std::make_unique<Cache>();
    cache->page_tokens = page_tokens;
    cache->layout = layout;
    for (const PlaneSpec& plane : space_->layout().planes()) {
      cache->planes.push_back(std::make_unique<gpu::DeviceBuffer>());
      EXPECT_TRUE(cache->planes.back()->Reserve(kBlocks * plane.raw_bytes).ok());
    }
    const uint32_t of_block = 128 / page_tokens;
    for (uint32_t b = 0; b < kBlocks; ++b) {
      cache->pages.emplace_back();
      // Backwards, so that nothing is where it would be by chance.
      for (uint32_t i = 0; i < of_block; ++i) {
        cache->pages.back().push_back((kBlocks - 1 - b) * of_block + (of_block - 1 - i));
      }
    }
    Fill(*cache);
    return cache;
  }
  static void Fill(const Cache& cache) {
    for (const auto& plane : cache.planes) cudaMemset(plane->data(), 0x5a, plane->size());
    cudaDeviceSynchronize();
  }
  // The space may be anybody's: planes are known by layer and kind.
  DevicePages PagesOf(const Cache& cache) const {
    return {[this, &cache](const PlaneSpec& plane) {
              for (const PlaneSpec& mine : space_->layout().planes()) {
                if (mine.layer == plane.layer && mine.kind == plane.kind) {
                  return At(cache, cache.planes[Index(mine)]->data(), plane);
                }
              }
              return PagedKv();
            },
            cache.pages};
  }
  std::shared_ptr<PagedDeviceKv> MakeKv(const Cache& cache, bool decodes) {
    auto kv = PagedDeviceKv::Create({.device = 0,
                                     .stream = cudaStreamPerThread,
                                     .decode = decodes ? &space_->layout() : nullptr,
                                     .max_blocks = 16});
    EXPECT_TRUE(kv.ok()) << kv.status();
    EXPECT_TRUE((*kv)->SetPages(PagesOf(cache)).ok());
    return *kv;
  }
  std::shared_ptr<PagedDeviceKv> MakeEncodingKv(const Cache& cache) {
    // Several batches a Put.
    auto kv = PagedDeviceKv::Create({.device = 0,
                                     .stream = cudaStreamPerThread,
                                     .encode = &space_->layout(),
                                     .encode_bytes = size_t{512} << 10,
                                     .max_blocks = 16});
    EXPECT_TRUE(kv.ok()) << kv.status();
    EXPECT_TRUE((*kv)->SetPages(PagesOf(cache)).ok());
    return *kv;
  }
  std::vector<std::byte> Plane(const Cache& cache, size_t index, size_t block) const {
    const PlaneSpec& plane = space_->layout().planes()[index];
    std::vector<std::byte> host(kBlocks * plane.raw_bytes), out(plane.raw_bytes);
    cudaMemcpy(host.data(), cache.planes[index]->data(), host.size(), cudaMemcpyDefault);
    EXPECT_TRUE(GatherPlane(plane, At(cache, host.data(), plane), cache.pages[block], out).ok());
    return out;
  }
  GetBlocksRequest Request(std::shared_ptr<DeviceKv> kv) const {
    GetBlocksRequest get;
    get.keys = keys_;
    get.device = std::move(kv);
    return get;
  }
  // Into the pages: what Put() puts.
  void Load(const Cache& cache) const {
    for (size_t i = 0; i < cache.planes.size(); ++i) {
      const PlaneSpec& plane = space_->layout().planes()[i];
      std::vector<std::byte> host(kBlocks * plane.raw_bytes);
      for (size_t b = 0; b < kBlocks; ++b) {
        EXPECT_TRUE(
            ScatterPlane(plane, MakePlane(plane, b), At(cache, host.data(), plane), cache.pages[b])
                .ok());
      }
      cudaMemcpy(cache.planes[i]->data(), host.data(), host.size(), cudaMemcpyDefault);
    }
  }
  void OpenOnly(const SpaceSpec& spec) {
    host_space_ = *on_host_->OpenSpace(spec);
    space_ = *on_device_->OpenSpace(spec);
    keys_ = space_->Keys(std::vector<uint32_t>(kBlocks * 128, 3));
  }
  PutBlocksRequest PutRequest(std::shared_ptr<DeviceKv> kv) const {
    PutBlocksRequest put;
    put.keys = keys_;
    put.device = std::move(kv);
    return put;
  }
  using Block = std::vector<std::vector<std::byte>>;
  std::vector<Block> GetOnHost() {
    std::vector<Block> out(kBlocks);
    GetBlocksRequest get;
    get.keys = keys_;
    get.take = [&](const PlaneSpec&, size_t block, std::span<const std::byte> from) {
      out[block].emplace_back(from.begin(), from.end());
    };
    EXPECT_EQ(host_space_->GetBlocks(get).usable, kBlocks);
    return out;
  }
  // As far as two decoders of the same GPU agree: exactly.
  void ExpectAsOnTheHost(const Cache& cache) {
    GetBlocksRequest get;
    get.keys = keys_;
    size_t compared = 0;
    get.take = [&](const PlaneSpec& plane, size_t block, std::span<const std::byte> from) {
      const auto& mine = host_space_->layout().planes();
      const auto index = static_cast<size_t>(&plane - mine.data());
      const auto here = Plane(cache, index, block);
      EXPECT_TRUE(std::equal(from.begin(), from.end(), here.begin(), here.end()))
          << "layer " << plane.layer << " block " << block;
      ++compared;
    };
    EXPECT_EQ(host_space_->GetBlocks(get).usable, kBlocks);
    EXPECT_EQ(compared, kBlocks * space_->layout().planes().size());
  }

  TempDir dir_;
  const std::string socket_ = dir_.path() + "/d.sock";
  std::shared_ptr<WorkerGpu> gpu_;
  std::unique_ptr<Process> daemon_;
  std::unique_ptr<Client> on_host_, on_device_;
  std::shared_ptr<Space> host_space_, space_;
  std::vector<BlockKey> keys_;
  PutBlocksResult put_;
};

TEST_F(DevicePathTest, GivesWhatTheHostPathGives) {
  for (const CodecId codec : {CodecId::kEOptShrinkQ, CodecId::kRaw}) {
    Put(Spec(codec));
    for (const bool decodes : {false, true}) {
      for (const uint32_t page_tokens : {16u, 128u}) {
        for (const Layout layout : {Layout::kNhd, Layout::kHnd}) {
          SCOPED_TRACE(absl::StrCat("codec ", static_cast<int>(codec), " decodes ", decodes,
                                    " pages of ", page_tokens, " layout ",
                                    static_cast<int>(layout)));
          const auto cache = MakeCache(page_tokens, layout);
          const auto got = space_->GetBlocks(Request(MakeKv(*cache, decodes)));
          ASSERT_EQ(got.usable, kBlocks) << got.status;
          EXPECT_EQ(got.path, DataPath::kDeviceMemory);
          ExpectAsOnTheHost(*cache);
        }
      }
    }
  }
}

TEST_F(DevicePathTest, OutOfTheGpuTier) {
  daemon_.reset();
  StartDaemon({"--host_tier=64MiB", "--gpu_tier=64MiB"});
  Put(Spec());
  for (const bool decodes : {false, true}) {
    const auto cache = MakeCache(16, Layout::kNhd);
    ASSERT_EQ(space_->GetBlocks(Request(MakeKv(*cache, decodes))).usable, kBlocks);
    ExpectAsOnTheHost(*cache);
  }
}

// By the same kernels, on the worker's stream: the daemon finds nothing wrong with it, and stores
// what it would have made of the values itself.
TEST_F(DevicePathTest, EncodesPutsOnTheWorkersGpu) {
  for (const CodecId codec : {CodecId::kEOptShrinkQ, CodecId::kRaw}) {
    Put(Spec(codec));
    const auto of_daemon = GetOnHost();
    for (const DataPath path : {DataPath::kSharedMemory, DataPath::kGrpc}) {
      ClientOptions options = Options();
      options.path = path;
      const auto client = Client::Create(options);
      const auto space = *client->OpenSpace(Spec(codec));
      for (const uint32_t page_tokens : {16u, 128u}) {
        for (const Layout layout : {Layout::kNhd, Layout::kHnd}) {
          SCOPED_TRACE(absl::StrCat("codec ", static_cast<int>(codec), " path ",
                                    std::string(Name(path)), " pages of ", page_tokens, " layout ",
                                    static_cast<int>(layout)));
          ASSERT_TRUE(host_space_->DropAll().ok());
          const auto cache = MakeCache(page_tokens, layout);
          Load(*cache);
          const auto put = space->PutBlocks(PutRequest(MakeEncodingKv(*cache)));
          ASSERT_EQ(put.stored, kBlocks) << put.status;
          EXPECT_EQ(put.path, path);
          EXPECT_TRUE(GetOnHost() == of_daemon);
          EXPECT_NEAR(put.k.nmse, put_.k.nmse, 1e-6 * put_.k.nmse);
          EXPECT_NEAR(put.v.worst_nmse, put_.v.worst_nmse, 1e-6 * put_.v.worst_nmse);
          EXPECT_EQ(put.v.tiles_raw, put_.v.tiles_raw);
          EXPECT_LE(put.sent_bytes,
                    kBlocks * space->layout().raw_bytes() * (codec == CodecId::kRaw ? 1.01 : 0.3));
        }
      }
    }
  }
}

// Its stream does not come to the planes in time: the Put ends, and the next one is as good as any.
TEST_F(DevicePathTest, AStreamThatIsBehindCostsAPutItsDeadline) {
  OpenOnly(Spec());
  const auto cache = MakeCache(16, Layout::kNhd);
  Load(*cache);
  PutBlocksRequest put = PutRequest(MakeEncodingKv(*cache));
  // Whatever is loaded at its first use is loaded by then.
  ASSERT_EQ(host_space_->PutBlocks(put).stored, kBlocks);
  const auto right = GetOnHost();
  ASSERT_TRUE(host_space_->DropAll().ok());
  std::atomic<bool> go{false};
  const auto await = [](void* flag) {
    while (!*static_cast<std::atomic<bool>*>(flag)) std::this_thread::yield();
  };
  ASSERT_EQ(cudaLaunchHostFunc(cudaStreamPerThread, await, &go), cudaSuccess);
  put.deadline = absl::Milliseconds(300);
  const absl::Time begin = absl::Now();
  EXPECT_EQ(host_space_->PutBlocks(put).stored, 0u);
  EXPECT_EQ(host_space_->PutBlocks(put).stored, 0u);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(4));
  go = true;
  cudaStreamSynchronize(cudaStreamPerThread);
  put.deadline = absl::Seconds(60);
  const auto stored = PutPastPending([&] { return host_space_->PutBlocks(put); });
  ASSERT_EQ(stored.stored, kBlocks) << stored.status;
  EXPECT_TRUE(GetOnHost() == right);
}

// Its deadline has passed, the pages are somebody else's: not one of their bytes changes.
TEST_F(DevicePathTest, AStoppedDaemonWritesNothingLate) {
  Put(Spec());
  for (const bool decodes : {false, true}) {
    const auto cache = MakeCache(16, Layout::kNhd);
    auto kv = MakeKv(*cache, decodes);
    ASSERT_EQ(space_->GetBlocks(Request(kv)).usable, kBlocks);  // the path is there
    daemon_->Signal(SIGSTOP);
    GetBlocksRequest get = Request(kv);
    get.deadline = absl::Milliseconds(300);
    const absl::Time begin = absl::Now();
    EXPECT_EQ(space_->GetBlocks(get).usable, 0u);
    EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
    cudaStreamSynchronize(cudaStreamPerThread);
    Fill(*cache);
    daemon_->Signal(SIGCONT);
    // It has woken up and done what it had in hand when another call is answered.
    while (!host_space_->Lookup(keys_).status.ok()) std::this_thread::yield();
    for (size_t i = 0; i < cache->planes.size(); ++i) {
      for (const std::byte b : Plane(*cache, i, 0)) ASSERT_EQ(b, std::byte{0x5a});
    }
    auto again = space_->GetBlocks(Request(kv));
    while (again.usable != kBlocks) again = space_->GetBlocks(Request(kv));
    ExpectAsOnTheHost(*cache);
  }
}

// The same in the middle of a Get: of 25 MiB, of which the slot holds one.
TEST_F(DevicePathTest, ADaemonStoppedInAGetWritesNothingLate) {
  StartDaemonWithSmallRegions();
  Put(Spec(CodecId::kRaw, 40));
  for (const bool decodes : {false, true}) {
    SCOPED_TRACE(decodes);
    const auto cache = MakeCache(16, Layout::kNhd);
    auto kv = MakeKv(*cache, decodes);
    bool stopped = false;
    for (absl::Duration deadline = absl::Milliseconds(300); !stopped; deadline *= 2) {
      GetBlocksRequest get = Request(kv);
      get.deadline = deadline;
      get.on_layer = [&](uint32_t, size_t) {
        if (!stopped) daemon_->Signal(SIGSTOP);
        stopped = true;
      };
      const absl::Time begin = absl::Now();
      EXPECT_LT(space_->GetBlocks(get).usable, kBlocks);
      EXPECT_LT(absl::Now() - begin, deadline + absl::Seconds(2));
    }
    cudaStreamSynchronize(cudaStreamPerThread);
    Fill(*cache);
    daemon_->Signal(SIGCONT);
    while (!host_space_->Lookup(keys_).status.ok()) std::this_thread::yield();
    const auto other = MakeCache(16, Layout::kNhd);
    auto again = space_->GetBlocks(Request(MakeKv(*other, decodes)));
    while (again.usable != kBlocks) again = space_->GetBlocks(Request(MakeKv(*other, decodes)));
    ExpectAsOnTheHost(*other);
    for (size_t i = 0; i < cache->planes.size(); ++i) {
      for (size_t b = 0; b < kBlocks; ++b) {
        for (const std::byte byte : Plane(*cache, i, b)) ASSERT_EQ(byte, std::byte{0x5a});
      }
    }
  }
}

TEST_F(DevicePathTest, ADaemonKilledInAGetEndsIt) {
  for (const bool decodes : {false, true}) {
    SCOPED_TRACE(decodes);
    StartDaemonWithSmallRegions();
    Put(Spec(CodecId::kRaw, 40));
    const auto cache = MakeCache(16, Layout::kNhd);
    absl::Time killed = absl::InfiniteFuture();
    GetBlocksRequest get = Request(MakeKv(*cache, decodes));
    get.on_layer = [&](uint32_t, size_t) {
      if (!daemon_->running()) return;
      daemon_->Signal(SIGKILL);
      daemon_->Wait();
      killed = absl::Now();
    };
    const auto got = space_->GetBlocks(get);
    const absl::Duration waited = absl::Now() - killed;
    std::printf("the worker waited %s\n", absl::FormatDuration(waited).c_str());
    EXPECT_LT(waited, absl::Seconds(5));
    EXPECT_EQ(got.path, DataPath::kDeviceMemory);
    EXPECT_LT(got.usable, kBlocks);
    EXPECT_FALSE(got.status.ok());
  }
}

// The same codec on the same GPU, whichever way the values came to it.
TEST_F(DevicePathTest, PutsAreStoredAsThoseOfTheHost) {
  for (const CodecId codec : {CodecId::kEOptShrinkQ, CodecId::kRaw}) {
    Put(Spec(codec));
    const auto of_host = GetOnHost();
    for (const uint32_t page_tokens : {16u, 128u}) {
      for (const Layout layout : {Layout::kNhd, Layout::kHnd}) {
        SCOPED_TRACE(absl::StrCat("codec ", static_cast<int>(codec), " pages of ", page_tokens));
        ASSERT_TRUE(host_space_->DropAll().ok());
        const auto cache = MakeCache(page_tokens, layout);
        Load(*cache);
        const auto put = space_->PutBlocks(PutRequest(MakeKv(*cache, false)));
        ASSERT_EQ(put.stored, kBlocks) << put.status;
        EXPECT_EQ(put.path, DataPath::kDeviceMemory);
        EXPECT_TRUE(GetOnHost() == of_host);
      }
    }
  }
}

// Its deadline has passed, the pages are somebody else's: none of their bytes becomes visible.
TEST_F(DevicePathTest, AStoppedDaemonReadsNothingLate) {
  OpenOnly(Spec(CodecId::kRaw));
  const auto cache = MakeCache(16, Layout::kNhd);
  Load(*cache);
  for (const bool encodes : {false, true}) {
    SCOPED_TRACE(encodes);
    ASSERT_TRUE(host_space_->DropAll().ok());
    auto kv = encodes ? MakeEncodingKv(*cache) : MakeKv(*cache, false);
    ASSERT_EQ(space_->PutBlocks(PutRequest(kv)).stored, kBlocks);  // the path is there
    const auto right = GetOnHost();
    ASSERT_TRUE(host_space_->DropAll().ok());
    auto put = space_->StartPut([&] {
      PutBlocksRequest request = PutRequest(kv);
      request.deadline = absl::Milliseconds(500);
      return request;
    }());
    put->LayerReady(0);
    daemon_->Signal(SIGSTOP);
    put->LayerReady(2);
    const absl::Time begin = absl::Now();
    EXPECT_EQ(put->Wait().stored, 0u);
    EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
    cudaStreamSynchronize(cudaStreamPerThread);
    Fill(*cache);  // the engine's next request
    daemon_->Signal(SIGCONT);
    while (!host_space_->Lookup(keys_).status.ok()) std::this_thread::yield();
    // Stored it may be, if all of it had come; then it is what was there before the deadline.
    if (host_space_->Lookup(keys_).blocks == kBlocks) {
      EXPECT_TRUE(GetOnHost() == right);
    }
    Load(*cache);
    auto again = space_->PutBlocks(PutRequest(kv));
    while (again.stored + again.existed != kBlocks) again = space_->PutBlocks(PutRequest(kv));
    EXPECT_TRUE(GetOnHost() == right);
  }
}

TEST_F(DevicePathTest, AKilledDaemonEndsThePut) {
  for (const bool encodes : {false, true}) {
    SCOPED_TRACE(encodes);
    daemon_.reset();
    StartDaemon({"--host_tier=256MiB"});
    OpenOnly(Spec());
    const auto cache = MakeCache(16, Layout::kNhd);
    Load(*cache);
    auto kv = encodes ? MakeEncodingKv(*cache) : MakeKv(*cache, false);
    ASSERT_EQ(space_->PutBlocks(PutRequest(kv)).stored, kBlocks);
    ASSERT_TRUE(host_space_->DropAll().ok());
    auto put = space_->StartPut(PutRequest(kv));
    put->LayerReady(0);
    daemon_->Signal(SIGKILL);
    daemon_->Wait();
    const absl::Time begin = absl::Now();
    put->LayerReady(2);
    EXPECT_EQ(put->Wait().stored, 0u);
    const absl::Duration waited = absl::Now() - begin;
    std::printf("the worker waited %s\n", absl::FormatDuration(waited).c_str());
    EXPECT_LT(waited, absl::Seconds(2));
  }
}

TEST_F(DevicePathTest, AKilledDaemonIsAMissAndItsSuccessorServes) {
  Put(Spec());
  const auto cache = MakeCache(16, Layout::kNhd);
  auto kv = MakeKv(*cache, true);
  ASSERT_EQ(space_->GetBlocks(Request(kv)).usable, kBlocks);
  daemon_->Signal(SIGKILL);
  daemon_->Wait();
  GetBlocksRequest get = Request(kv);
  get.deadline = absl::Milliseconds(300);
  const absl::Time begin = absl::Now();
  EXPECT_EQ(space_->GetBlocks(get).usable, 0u);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
  daemon_.reset();
  StartDaemon({"--host_tier=256MiB"});
  Put(Spec());
  EXPECT_EQ(space_->GetBlocks(Request(kv)).usable, kBlocks);
  ExpectAsOnTheHost(*cache);
}

constexpr int kSessionsOfAChild = 50;

// The process that KilledSessions... kills; no test of its own.
TEST(DevicePathChild, DISABLED_HoldsMemory) {
  const char* const socket = std::getenv("KVSTOW_TEST_SOCKET");
  if (socket == nullptr) GTEST_SKIP() << "only as a child of another test";
  ClientOptions options;
  options.target = absl::StrCat("unix:", socket);
  options.connect_wait = options.lookup_deadline = absl::Seconds(60);
  options.gpu = *OpenWorkerGpu(0);
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < kSessionsOfAChild; ++i) {
    absl::Status memory = absl::UnknownError("never asked");
    // Those of the child before may still be there.
    for (const absl::Time end = absl::Now() + absl::Seconds(60); !memory.ok();) {
      auto client = Client::Create(options);
      const auto space = *client->OpenSpace(Spec());
      ASSERT_TRUE(space->Lookup(space->Keys(std::vector<uint32_t>(128, 3))).status.ok());
      memory = client->health().no_device_memory;
      ASSERT_LT(absl::Now(), end) << memory;
      if (memory.ok()) clients.push_back(std::move(client));
    }
  }
  std::printf("holding\n");
  std::fflush(stdout);
  pause();
}

size_t FreeDeviceMemory() {
  size_t free = 0, total = 0;
  EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  return free;
}

// The daemon gives back what it hears the end of.
void ExpectFreeAsBefore(size_t before) {
  constexpr size_t kNoise = size_t{128} << 20;
  size_t after = FreeDeviceMemory();
  for (int i = 0; i < 200 && after + kNoise < before; ++i) {
    absl::SleepFor(absl::Milliseconds(50));
    after = FreeDeviceMemory();
  }
  EXPECT_GE(after + kNoise, before);
}

// A thousand sessions with 256 MiB of device memory each that end without a word.
TEST_F(DevicePathTest, SessionsThatEndLeaveDeviceMemoryWhereItWas) {
  Put(Spec());
  const auto cache = MakeCache(16, Layout::kNhd);
  ASSERT_EQ(space_->GetBlocks(Request(MakeKv(*cache, true))).usable, kBlocks);
  const size_t before = FreeDeviceMemory();
  for (int i = 0; i < 1000; ++i) {
    auto client = Connect(gpu_);
    auto space = *client->OpenSpace(Spec());
    EXPECT_EQ(space->Lookup(keys_).blocks, kBlocks);
    // Where the budget is used up the daemon has not noticed the ends of those before yet.
    EXPECT_TRUE(client->health().no_device_memory.ok() ||
                absl::IsResourceExhausted(client->health().no_device_memory))
        << client->health().no_device_memory;
  }
  ExpectFreeAsBefore(before);
}

// A thousand sessions whose processes are killed, all of which had device memory: 2 GiB in all.
TEST_F(DevicePathTest, KilledSessionsLeaveDeviceMemoryWhereItWas) {
  StartDaemonWithSmallRegions();
  Put(Spec());
  const auto cache = MakeCache(16, Layout::kNhd);
  ASSERT_EQ(space_->GetBlocks(Request(MakeKv(*cache, true))).usable, kBlocks);
  const size_t before = FreeDeviceMemory();
  setenv("KVSTOW_TEST_SOCKET", socket_.c_str(), 1);
  for (int i = 0; i < 1000 / kSessionsOfAChild; ++i) {
    const std::string said = absl::StrCat(dir_.path(), "/child", i);
    Process child(OnlyThisTest("DevicePathChild.DISABLED_HoldsMemory"), said);
    ASSERT_TRUE(Says(said, "holding")) << ReadFile(said);
    child.Signal(SIGKILL);
    child.Wait();
  }
  ExpectFreeAsBefore(before);
}

}  // namespace
}  // namespace kvstow::testing
