// Restores and encodes 32k tokens of the shape of Llama-3.1-8B: whole records, headers and
// checksums included, FP16 bytes a second. The bus and the device's memory are measured in the same
// run, and planes drawn at random are compared with what the CPU decodes.
//
//   restore_benchmark                 the table
//   restore_benchmark --sweep         and sizes of chunks and batches
//   restore_benchmark --interference  what a neighbour's matrix products lose
//                                     (interference_benchmark.h)
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "gpu/cuda_handles.h"
#include "gpu/interference_benchmark.h"
#include "gpu/testing/llama_blocks.h"

namespace kvstow::gpu {
namespace {

using testing::LlamaBlocks;
using testing::Median;
using testing::OrDie;

constexpr int kRuns = 9;

// Seconds of copying `bytes` between two buffers, at most `step` at a time.
double CopySeconds(std::byte* to, const std::byte* from, size_t bytes, size_t step) {
  cudaEvent_t begin = nullptr, end = nullptr;
  OrDie(cudaEventCreate(&begin));
  OrDie(cudaEventCreate(&end));
  std::vector<double> seconds;
  for (int run = 0; run < 3; ++run) {
    OrDie(cudaEventRecord(begin));
    for (size_t at = 0; at < bytes; at += step) {
      OrDie(cudaMemcpyAsync(to, from, step, cudaMemcpyDefault));
    }
    OrDie(cudaEventRecord(end));
    OrDie(cudaEventSynchronize(end));
    float milliseconds = 0;
    OrDie(cudaEventElapsedTime(&milliseconds, begin, end));
    seconds.push_back(milliseconds / 1e3);
  }
  OrDie(cudaEventDestroy(begin));
  OrDie(cudaEventDestroy(end));
  return Median(seconds);
}

void PrintRow(const char* what, double seconds, size_t bytes, const char* more = "") {
  std::printf("%-44s %8.2f ms  %7.1f GB/s%s\n", what, seconds * 1e3,
              static_cast<double>(bytes) / seconds / 1e9, more);
  std::fflush(stdout);
}

void PrintCopies(const LlamaBlocks& blocks) {
  const size_t bytes = blocks.raw_bytes(), step = blocks.pinned().size();
  PrintRow("raw copy host to device, pinned",
           CopySeconds(blocks.restored().data(), blocks.pinned().data(), bytes, step), bytes);
  PrintRow("raw copy device to host, pinned",
           CopySeconds(blocks.pinned().data(), blocks.values().data(), bytes, step), bytes);
  PrintRow("device copy, read + write",
           CopySeconds(blocks.restored().data(), blocks.values().data(), bytes, bytes), 2 * bytes);
}

void PrintOffload(LlamaBlocks& blocks, size_t lanes, size_t mib) {
  PlaneEncoderConfig config;
  config.max_bytes = mib << 20;
  std::vector<std::unique_ptr<PlaneEncoder>> encoders;
  for (size_t i = 0; i < lanes; ++i) encoders.push_back(blocks.MakeEncoder(config));
  std::vector<double> seconds;
  blocks.Offload(encoders);
  for (int run = 0; run < 3; ++run) seconds.push_back(blocks.Offload(encoders));
  char name[96];
  std::snprintf(name, sizeof(name), "encode to pinned memory, %zu x %zu MiB", lanes, mib);
  PrintRow(name, Median(seconds), blocks.raw_bytes());
}

void PrintRestore(LlamaBlocks& blocks, const char* name, const RestoreConfig& config,
                  LlamaBlocks::Place place) {
  auto pipeline = blocks.MakeRestore(config);
  blocks.Poison();
  std::vector<double> all, first;
  for (int run = 0; run < kRuns + 1; ++run) {
    const auto times = blocks.Restore(*pipeline, place);
    if (run == 0) continue;
    all.push_back(times.all);
    first.push_back(times.first_layer);
  }
  const size_t verified = blocks.Verify(all.size() + config.chunk_tiles);
  char more[96];
  std::snprintf(more, sizeof(more), "  layer 0 after %.3f ms, %zu planes as the CPU's",
                Median(first) * 1e3, verified);
  PrintRow(name, Median(all), blocks.raw_bytes(), more);
}

void Sweep(LlamaBlocks& blocks) {
  for (size_t mib : {2, 4, 8, 16, 32}) {
    RestoreConfig config;
    config.chunk_bytes = mib << 20;
    PrintRestore(blocks, ("pinned records, chunks of " + std::to_string(mib) + " MiB").c_str(),
                 config, LlamaBlocks::Place::kPinned);
  }
  for (uint32_t tiles : {1024u, 2048u, 4096u}) {
    RestoreConfig config;
    config.chunk_tiles = tiles;
    PrintRestore(blocks, ("device records, chunks of " + std::to_string(tiles)).c_str(), config,
                 LlamaBlocks::Place::kDevice);
  }
  for (size_t mib : {16, 32, 64, 128}) {
    for (size_t lanes : {1, 2, 3}) PrintOffload(blocks, lanes, mib);
  }
}

void PrintTable(bool sweep) {
  LlamaBlocks blocks;
  std::printf("32768 tokens, 32 layers, 8 KV heads of 128, FP16: %.2f GB raw\n",
              static_cast<double>(blocks.raw_bytes()) / 1e9);
  PrintCopies(blocks);
  PrintOffload(blocks, 2, PlaneEncoderConfig().max_bytes >> 20);
  blocks.KeepRecords(*blocks.MakeEncoder({}));
  std::printf("records of %.1f MB in all, %.2fx smaller, %.3f bits an entry\n",
              static_cast<double>(blocks.encoded_bytes()) / 1e6,
              static_cast<double>(blocks.raw_bytes()) / static_cast<double>(blocks.encoded_bytes()),
              8.0 * static_cast<double>(blocks.encoded_bytes()) /
                  (static_cast<double>(blocks.raw_bytes()) / 2));
  PrintRow("their bytes alone, host to device",
           CopySeconds(blocks.restored().data(), blocks.pinned().data(), blocks.encoded_bytes(),
                       blocks.encoded_bytes()),
           blocks.raw_bytes());
  PrintRestore(blocks, "restore from pinned records", RestoreConfig(), LlamaBlocks::Place::kPinned);
  PrintRestore(blocks, "the same in runs of 1 to 32 pages", RestoreConfig(),
               LlamaBlocks::Place::kPinnedRuns);
  PrintRestore(blocks, "restore from device records", RestoreConfig(), LlamaBlocks::Place::kDevice);
  if (sweep) Sweep(blocks);
}

}  // namespace
}  // namespace kvstow::gpu

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode.rfind("--interference", 0) == 0) return kvstow::gpu::Interference(argv[0], mode);
  kvstow::gpu::PrintTable(mode == "--sweep");
  return 0;
}
