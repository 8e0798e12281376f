// Speed of the CUDA codec on tiles of the real trace, replicated to fill the device. Rates count
// FP16 bytes in (encode) or out (decode), checksums included; the copy bandwidth of the device, the
// pinned PCIe bandwidth, and the same encode with cuSOLVER's batched eigensolver for its spectral
// stage are measured in the same run.
#include <cublas_v2.h>
#include <cusolverDn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "codec/testing/trace.h"
#include "gpu/cuda_codec.h"
#include "gpu/encode_batch.h"
#include "gpu/staging.h"
#include "gpu/tile_batch.h"

namespace kvstow::gpu {
namespace {

using ::kvstow::testing::Trace;

void OrDie(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::abort();
}
void OrDie(cudaError_t error) { OrDie(ToStatus(error, "CUDA")); }
void OrDie(cublasStatus_t status) { OrDie(status == 0 ? cudaSuccess : cudaErrorUnknown); }
void OrDie(cusolverStatus_t status) { OrDie(status == 0 ? cudaSuccess : cudaErrorUnknown); }

// Median seconds of a piece of work, by events.
double Seconds(const std::function<void(cudaStream_t)>& work, int repeats = 15) {
  cudaStream_t stream = nullptr;
  cudaEvent_t begin, end;
  OrDie(cudaStreamCreate(&stream));
  OrDie(cudaEventCreate(&begin));
  OrDie(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < repeats + 3; ++i) {
    OrDie(cudaEventRecord(begin, stream));
    work(stream);
    OrDie(cudaEventRecord(end, stream));
    OrDie(cudaEventSynchronize(end));
    float ms = 0;
    OrDie(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 3) times.push_back(ms);
  }
  OrDie(cudaEventDestroy(begin));
  OrDie(cudaEventDestroy(end));
  OrDie(cudaStreamDestroy(stream));
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[repeats / 2] / 1e3;
}

// Median seconds of work that needs nothing of the host, as replays of a captured graph: what a
// stream that is never idle sees.
double SecondsReplayed(const std::function<void(cudaStream_t)>& work, int repeats = 15) {
  constexpr int kReplays = 4;
  cudaStream_t stream = nullptr;
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  OrDie(cudaStreamCreate(&stream));
  OrDie(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  work(stream);
  OrDie(cudaStreamEndCapture(stream, &graph));
  OrDie(cudaGraphInstantiate(&replay, graph, 0));
  const double seconds = Seconds(
      [&](cudaStream_t s) {
        for (int i = 0; i < kReplays; ++i) OrDie(cudaGraphLaunch(replay, s));
      },
      repeats);
  OrDie(cudaGraphExecDestroy(replay));
  OrDie(cudaGraphDestroy(graph));
  OrDie(cudaStreamDestroy(stream));
  return seconds / kReplays;
}

template <typename T>
T* At(const DeviceBuffer& buffer) {
  return reinterpret_cast<T*>(buffer.data());
}

template <typename T>
void CopyUp(const std::vector<T>& from, DeviceBuffer* to) {
  OrDie(to->Reserve(from.size() * sizeof(T)));
  OrDie(cudaMemcpy(to->data(), from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
}

template <typename T>
std::vector<T> CopyDown(const DeviceBuffer& from, size_t count) {
  std::vector<T> out(count);
  OrDie(cudaMemcpy(out.data(), from.data(), count * sizeof(T), cudaMemcpyDeviceToHost));
  return out;
}

struct Case {
  const char* name;
  uint32_t tokens = 128, dim = 128, count = 4096;
  bool keys = false, undo_rotary = false;
  uint32_t bits = 2;
  CodecId codec = CodecId::kEOptShrinkQ;
};

// Everything a case needs, on the device.
struct Fixture {
  explicit Fixture(const Case& c) : shape{c.tokens, c.dim, DType::kFp16}, count(c.count) {
    int least = 0, greatest = 0;
    OrDie(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    OrDie(cudaStreamCreateWithPriority(&side, cudaStreamDefault, greatest));
    OrDie(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    OrDie(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    const Trace& trace = Trace::Cut();
    std::vector<std::byte> host;
    const size_t bytes = shape.bytes();
    for (uint32_t layer : trace.layers()) {
      for (uint32_t head = 0; head < Trace::kHeads; ++head) {
        const auto rows = trace.Rows(c.keys, layer, head, 0, Trace::kTokens);
        const size_t whole = rows.size() / bytes * bytes;
        host.insert(host.end(), rows.begin(), rows.begin() + static_cast<ptrdiff_t>(whole));
      }
    }
    const size_t distinct = host.size() / bytes;
    OrDie(values.Reserve(count * bytes));
    for (size_t i = 0; i < count; ++i) {
      OrDie(cudaMemcpyAsync(values.data() + i * bytes, host.data() + i % distinct * bytes, bytes,
                            cudaMemcpyHostToDevice));
    }
    settings.shape = shape;
    settings.options.codec = c.codec;
    settings.options.bits = c.bits;
    settings.options.key_like = c.keys;
    const RotaryTable table(RotaryOffsets(trace.rotary(), c.tokens), 0);
    if (c.undo_rotary) {
      settings.rotary = ShapeOfRotary(table);
      const size_t angles = size_t{c.tokens} * table.pairs();
      CopyUp(std::vector<float>(table.cos(), table.cos() + angles), &cos);
      CopyUp(std::vector<float>(table.sin(), table.sin() + angles), &sin);
    }
    max_body = MaxTileBodyBytes(shape);
    OrDie(bodies.Reserve(count * max_body));
    OrDie(results.Reserve(count * sizeof(EncodeResult)));
    OrDie(ranges.Reserve(count * sizeof(ChecksumRange)));
    OrDie(crcs.Reserve(count * 4));
    OrDie(decoded.Reserve(count * bytes));
    std::vector<EncodeTile> jobs(count);
    for (size_t i = 0; i < count; ++i) {
      jobs[i].values = At<uint8_t>(values) + i * bytes;
      jobs[i].row_stride = size_t{c.dim} * 2;
      jobs[i].cos = At<float>(cos);
      jobs[i].sin = At<float>(sin);
      jobs[i].body = At<uint8_t>(bodies) + i * max_body;
    }
    CopyUp(jobs, &encode_tiles);
    OrDie(scratch.Reserve(std::max(EncodeScratchBytes(settings, count),
                                   2 * EncodeScratchBytes(settings, count / 2))));
  }

  ~Fixture() {
    OrDie(cudaEventDestroy(fork));
    OrDie(cudaEventDestroy(join));
    OrDie(cudaStreamDestroy(side));
  }
  Fixture(const Fixture&) = delete;
  Fixture& operator=(const Fixture&) = delete;

  void Encode(cudaStream_t stream) {
    OrDie(EncodeTiles(settings, At<EncodeTile>(encode_tiles), count, At<EncodeResult>(results),
                      At<ChecksumRange>(ranges), scratch.data(), scratch.size(), stream));
    OrDie(ChecksumRanges(At<ChecksumRange>(ranges), count, max_body, At<uint32_t>(crcs), stream));
  }

  // The same in two halves on two streams, so that one's steps fill the gaps of the other's.
  void EncodeHalves(cudaStream_t stream) {
    OrDie(cudaEventRecord(fork, stream));
    OrDie(cudaStreamWaitEvent(side, fork, 0));
    const uint32_t half = count / 2;
    const size_t room = EncodeScratchBytes(settings, half);
    for (uint32_t i = 0; i < 2; ++i) {
      const cudaStream_t s = i == 0 ? stream : side;
      const size_t first = size_t{i} * half;
      ChecksumRange* const half_ranges = At<ChecksumRange>(ranges) + first;
      OrDie(EncodeTiles(settings, At<EncodeTile>(encode_tiles) + first, half,
                        At<EncodeResult>(results) + first, half_ranges, scratch.data() + i * room,
                        room, s));
      OrDie(ChecksumRanges(half_ranges, half, max_body, At<uint32_t>(crcs) + first, s));
    }
    OrDie(cudaEventRecord(join, side));
    OrDie(cudaStreamWaitEvent(stream, join, 0));
  }

  // After an encode: bodies side by side, as they lie in a record.
  void PrepareDecode() {
    const auto done = CopyDown<EncodeResult>(results, count);
    std::vector<DecodeTile> tiles(count);
    std::vector<ChecksumRange> packed_ranges(count);
    size_t total = 0;
    for (const EncodeResult& r : done) total += r.body_bytes;
    OrDie(packed.Reserve(total));
    size_t at = 0;
    largest_body = 0;
    double energy = 0, error = 0, rank = 0;
    for (size_t i = 0; i < count; ++i) {
      OrDie(cudaMemcpyAsync(packed.data() + at, bodies.data() + i * max_body, done[i].body_bytes,
                            cudaMemcpyDeviceToDevice));
      tiles[i].body = At<uint8_t>(packed) + at;
      tiles[i].values = At<uint8_t>(decoded) + i * shape.bytes();
      tiles[i].row_stride = size_t{shape.dim} * 2;
      tiles[i].cos = At<float>(cos);
      tiles[i].sin = At<float>(sin);
      tiles[i].head = done[i].head;
      packed_ranges[i] = {tiles[i].body, done[i].body_bytes};
      at += done[i].body_bytes;
      largest_body = std::max<size_t>(largest_body, done[i].body_bytes);
      energy += done[i].energy;
      error += done[i].error;
      rank += done[i].head >> 8 & 255;
    }
    bits_per_entry =
        8.0 * static_cast<double>(total) / static_cast<double>(count * shape.entries());
    nmse = error / energy;
    mean_rank = rank / static_cast<double>(count);
    CopyUp(tiles, &decode_tiles);
    CopyUp(packed_ranges, &ranges);
  }

  // Checksums run beside the decoding, on a stream of their own.
  void Decode(cudaStream_t stream) {
    OrDie(cudaEventRecord(fork, stream));
    OrDie(cudaStreamWaitEvent(side, fork, 0));
    Check(side);
    OrDie(DecodeTiles(shape, settings.rotary, At<DecodeTile>(decode_tiles), count, stream));
    OrDie(cudaEventRecord(join, side));
    OrDie(cudaStreamWaitEvent(stream, join, 0));
  }
  void Check(cudaStream_t stream) {
    OrDie(
        ChecksumRanges(At<ChecksumRange>(ranges), count, largest_body, At<uint32_t>(crcs), stream));
  }
  double bytes() const { return static_cast<double>(count * shape.bytes()); }

  cudaStream_t side = nullptr;
  cudaEvent_t fork, join;
  TileShape shape;
  uint32_t count;
  EncodeSettings settings;
  size_t max_body = 0, largest_body = 0;
  double bits_per_entry = 0, nmse = 0, mean_rank = 0;
  DeviceBuffer values, cos, sin, bodies, results, ranges, crcs, decoded, encode_tiles, decode_tiles,
      packed, scratch;
};

void PrintBandwidths() {
  constexpr size_t kBytes = size_t{1} << 30;
  DeviceBuffer a, b;
  PinnedBuffer host;
  OrDie(a.Reserve(kBytes));
  OrDie(b.Reserve(kBytes));
  OrDie(host.Reserve(kBytes / 4));
  std::memset(host.data(), 0x5a, host.size());
  OrDie(cudaMemset(a.data(), 0x3c, kBytes));
  const double copy = Seconds([&](cudaStream_t s) {
    OrDie(cudaMemcpyAsync(b.data(), a.data(), kBytes, cudaMemcpyDeviceToDevice, s));
  });
  const double up = Seconds(
      [&](cudaStream_t s) {
        OrDie(cudaMemcpyAsync(a.data(), host.data(), kBytes / 4, cudaMemcpyHostToDevice, s));
      },
      5);
  const double down = Seconds(
      [&](cudaStream_t s) {
        OrDie(cudaMemcpyAsync(host.data(), a.data(), kBytes / 4, cudaMemcpyDeviceToHost, s));
      },
      5);
  std::printf("device copy %.0f GB/s read + write; PCIe pinned %.1f GB/s up, %.1f down\n",
              2 * kBytes / copy / 1e9, kBytes / 4 / up / 1e9, kBytes / 4 / down / 1e9);
}

// Seconds of each step, one after the other.
double PrintSteps(Fixture& f) {
  size_t bytes = 0;
  EncodeBatch b = PlanEncode(f.settings, f.count, f.scratch.data(), &bytes);
  b.jobs = At<EncodeTile>(f.encode_tiles);
  b.results = At<EncodeResult>(f.results);
  b.ranges = At<ChecksumRange>(f.ranges);
  struct Step {
    const char* name;
    std::function<void(cudaStream_t)> run;
  };
  std::vector<Step> steps = {
      {"prepare", [&](cudaStream_t s) { OrDie(LaunchPrepare(b, s)); }},
      {"gram+tridiagonal", [&](cudaStream_t s) { OrDie(LaunchTridiagonalise(b, 0, s)); }},
      {"eigen", [&](cudaStream_t s) { OrDie(LaunchEigen(b, 0, s)); }},
      {"later rounds",
       [&](cudaStream_t s) {
         for (uint32_t round = 0; round + 1 < kMaxDeflationRounds; ++round) {
           OrDie(LaunchDeflate(b, round, s));
           OrDie(LaunchTridiagonalise(b, round + 1, s));
           OrDie(LaunchEigen(b, round + 1, s));
         }
       }},
      {"factors", [&](cudaStream_t s) { OrDie(LaunchFactors(b, s)); }},
      {"residual", [&](cudaStream_t s) { OrDie(LaunchResidual(b, b.bits, s)); }},
      {"decode and measure", [&](cudaStream_t s) { OrDie(LaunchCheck(b, b.bits, s)); }},
      {"choose", [&](cudaStream_t s) { OrDie(LaunchChoose(b, s)); }},
      {"checksum",
       [&](cudaStream_t s) {
         OrDie(ChecksumRanges(b.ranges, f.count, f.max_body, At<uint32_t>(f.crcs), s));
       }},
  };
  std::vector<cudaEvent_t> events(steps.size() + 1);
  for (cudaEvent_t& e : events) OrDie(cudaEventCreate(&e));
  double spectral = 0;
  for (int pass = 0; pass < 2; ++pass) {
    OrDie(cudaEventRecord(events[0]));
    for (size_t i = 0; i < steps.size(); ++i) {
      steps[i].run(nullptr);
      OrDie(cudaEventRecord(events[i + 1]));
    }
    OrDie(cudaDeviceSynchronize());
  }
  std::printf("   ");
  for (size_t i = 0; i < steps.size(); ++i) {
    float ms = 0;
    OrDie(cudaEventElapsedTime(&ms, events[i], events[i + 1]));
    std::printf(" %s %.3f", steps[i].name, ms);
    if (i >= 1 && i <= 3) spectral += ms / 1e3;
  }
  uint32_t in_use[1 + kMaxDeflationRounds];
  OrDie(cudaMemcpy(in_use, b.counters, sizeof(in_use), cudaMemcpyDeviceToHost));
  std::printf(" ms; %u slots, deflated in rounds: %u, %u, %u\n", in_use[0], in_use[1], in_use[2],
              in_use[3]);
  for (cudaEvent_t e : events) OrDie(cudaEventDestroy(e));
  return spectral;
}

// The spectral stage as libraries do it: cuBLAS for the Gram matrices, cuSOLVER for all
// eigenvectors.
double LibrarySpectralSeconds(Fixture& f, double* gram_seconds) {
  size_t bytes = 0;
  EncodeBatch b = PlanEncode(f.settings, f.count, f.scratch.data(), &bytes);
  b.jobs = At<EncodeTile>(f.encode_tiles);
  OrDie(LaunchPrepare(b, nullptr));
  OrDie(cudaDeviceSynchronize());
  cublasHandle_t blas;
  cusolverDnHandle_t solver;
  cusolverDnParams_t params;
  OrDie(cublasCreate(&blas));
  OrDie(cusolverDnCreate(&solver));
  OrDie(cusolverDnCreateParams(&params));
  DeviceBuffer w, info, work;
  OrDie(w.Reserve(size_t{f.count} * b.p * 4));
  OrDie(info.Reserve(size_t{f.count} * 4));
  const auto p = static_cast<int>(b.p), q = static_cast<int>(b.q);
  const auto count = static_cast<int>(f.count);
  size_t device_bytes = 0, host_bytes = 0;
  OrDie(cusolverDnXsyevBatched_bufferSize(
      solver, params, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, p, CUDA_R_32F, b.gram, p,
      CUDA_R_32F, w.data(), CUDA_R_32F, &device_bytes, &host_bytes, count));
  OrDie(work.Reserve(device_bytes));
  std::vector<std::byte> host(host_bytes + 1);
  const float one = 1, zero = 0;
  const auto gram = [&](cudaStream_t s) {
    OrDie(cublasSetStream(blas, s));
    OrDie(cublasSgemmStridedBatched(
        blas, CUBLAS_OP_N, CUBLAS_OP_T, p, p, q, &one, b.x, p, static_cast<long long>(p) * q, b.x,
        p, static_cast<long long>(p) * q, &zero, b.gram, p, static_cast<long long>(p) * p, count));
  };
  *gram_seconds = Seconds(gram, 5);
  const double seconds = Seconds(
      [&](cudaStream_t s) {
        gram(s);
        OrDie(cusolverDnSetStream(solver, s));
        OrDie(cusolverDnXsyevBatched(solver, params, CUSOLVER_EIG_MODE_VECTOR,
                                     CUBLAS_FILL_MODE_LOWER, p, CUDA_R_32F, b.gram, p, CUDA_R_32F,
                                     w.data(), CUDA_R_32F, work.data(), device_bytes, host.data(),
                                     host_bytes, At<int>(info), count));
      },
      3);
  OrDie(cusolverDnDestroyParams(params));
  OrDie(cusolverDnDestroy(solver));
  OrDie(cublasDestroy(blas));
  return seconds;
}

void Run(const Case& c, bool baseline) {
  Fixture f(c);
  const double halves = SecondsReplayed([&](cudaStream_t s) { f.EncodeHalves(s); }, 7);
  const double encode = SecondsReplayed([&](cudaStream_t s) { f.Encode(s); }, 7);
  f.PrepareDecode();
  const double decode = SecondsReplayed([&](cudaStream_t s) { f.Decode(s); });
  const double check = SecondsReplayed([&](cudaStream_t s) { f.Check(s); });
  std::printf(
      "%-22s %5u tiles  encode %7.1f GB/s (on two streams %.1f)  decode %7.1f GB/s (%.1f us, "
      "checksum alone %.1f)  "
      "%.3f bits, NMSE %.4f, rank %.1f\n",
      c.name, c.count, f.bytes() / encode / 1e9, f.bytes() / halves / 1e9, f.bytes() / decode / 1e9,
      1e6 * decode, 1e6 * check, f.bits_per_entry, f.nmse, f.mean_rank);
  if (!baseline) return;
  const double spectral = PrintSteps(f);
  double gram = 0;
  const double library = LibrarySpectralSeconds(f, &gram);
  std::printf(
      "    baseline with cusolverDnXsyevBatched: encode %.2f GB/s (spectral stage %.2f ms "
      "instead of %.2f; cuBLAS Gram %.3f ms)\n",
      f.bytes() / (encode - spectral + library) / 1e9, 1e3 * library, 1e3 * spectral, 1e3 * gram);
}

// What it costs that CudaCodec overwrites what it keeps: batches of one owner after the other, or
// of two in turn. Host memory to host memory, as the daemon calls it.
void PrintOverwriting() {
  constexpr size_t kTiles = 512;
  constexpr TileShape kShape = {128, 128, DType::kFp16};
  const Trace& trace = Trace::Cut();
  auto made = CudaCodec::Create();
  if (!made.ok()) std::exit(1);
  std::vector<std::byte> values, bodies(kTiles * MaxTileBodyBytes(kShape));
  std::vector<TileEncodeJob> jobs(kTiles);
  for (size_t i = 0; i < kTiles; ++i) {
    const auto rows = trace.Rows(false, trace.layers()[i % trace.layers().size()],
                                 i % Trace::kHeads, i % 8 * 128, 128);
    values.insert(values.end(), rows.begin(), rows.end());
  }
  for (size_t i = 0; i < kTiles; ++i) {
    jobs[i].shape = kShape;
    jobs[i].values = values.data() + i * kShape.bytes();
    jobs[i].row_stride = kShape.dim * sizeof(uint16_t);
    jobs[i].body = bodies.data() + i * MaxTileBodyBytes(kShape);
  }
  uint32_t owner = 1;
  const auto seconds = [&](bool in_turn) {
    std::vector<double> all;
    for (int run = 0; run < 21; ++run) {
      if (in_turn) owner = 3 - owner;
      for (TileEncodeJob& job : jobs) job.owner = owner;
      const auto begin = std::chrono::steady_clock::now();
      if (!(*made)->Encode(jobs).ok()) std::exit(1);
      all.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    std::nth_element(all.begin(), all.begin() + 10, all.end());
    return all[10];
  };
  seconds(false);
  const double one = seconds(false), two = seconds(true);
  std::printf("overwriting between owners: encode of %zu tiles %.2f ms, in turn %.2f ms, %.3fx\n",
              kTiles, 1e3 * one, 1e3 * two, two / one);
}

}  // namespace
}  // namespace kvstow::gpu

int main(int argc, char** argv) {
  using kvstow::CodecId;
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  kvstow::gpu::PrintBandwidths();
  kvstow::gpu::PrintOverwriting();
  kvstow::gpu::Run({.name = "128x128 V"}, true);
  kvstow::gpu::Run({.name = "128x128 K, RoPE undone", .keys = true, .undo_rotary = true}, true);
  if (quick) return 0;
  kvstow::gpu::Run({.name = "128x128 V, 2048", .count = 2048}, false);
  kvstow::gpu::Run({.name = "128x128 K", .keys = true}, false);
  kvstow::gpu::Run({.name = "128x128 V, 4 bits", .bits = 4}, false);
  kvstow::gpu::Run({.name = "128x128 V, turboquant", .codec = CodecId::kTurboQuant}, false);
  kvstow::gpu::Run({.name = "256x128 V", .tokens = 256, .count = 2048}, false);
  kvstow::gpu::Run({.name = "256x128 K, RoPE undone",
                    .tokens = 256,
                    .count = 2048,
                    .keys = true,
                    .undo_rotary = true},
                   false);
  kvstow::gpu::Run({.name = "128x64 V", .dim = 64, .count = 8192}, false);
  kvstow::gpu::Run({.name = "128x576 latent", .dim = 576, .count = 2048}, false);
  kvstow::gpu::Run({.name = "256x256 V", .tokens = 256, .dim = 256, .count = 1024}, true);
  return 0;
}
