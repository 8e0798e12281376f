// What it costs to check a plane that a client encoded, beside what it would cost to decode all of
// it, to encode it, and to take its checksum alone. Rates are of raw KV.
#include "benchmark/benchmark.h"
#include "codec/crc32c.h"
#include "codec/plane.h"
#include "server/core/client_plane.h"
#include "tests/testing/kv_data.h"

namespace kvstow {
namespace {

// A plane of Llama-3.1-8B, V, as an honest client sends it.
struct Sent {
  Sent() {
    spec = {.layer = 0,
            .kind = PlaneKind::kV,
            .dtype = DType::kFp16,
            .heads = 8,
            .tokens = 128,
            .dim = 128};
    spec.raw_bytes = size_t{8} * 128 * 128 * 2;
    values = testing::MakePlane(spec, 1);
    PlaneEncodeJobs jobs = MakeEncodeJobs(spec, settings, nullptr, values);
    if (!CpuCodec()->Encode(std::span(jobs.jobs)).ok()) std::abort();
    bytes = AssemblePlane(spec, jobs).bytes;
    declared.crc32c = Crc32c(bytes);
    for (const TileEncodeJob& job : jobs.jobs) declared.tiles.push_back(job.report.sums);
  }
  CodecSettings settings;
  PlaneSpec spec;
  std::vector<std::byte> values;
  Scratch<std::byte> bytes;
  PlaneDeclaration declared;
};

void Rate(benchmark::State& state, const Sent& sent) {
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(sent.spec.raw_bytes));
}

void Check(benchmark::State& state) {
  const Sent sent;
  uint64_t sample = 0;
  for (auto _ : state) {
    QualityReport report;
    if (FindFault({&sent.spec, &sent.settings, nullptr, sent.bytes, &sent.declared}, *CpuCodec(),
                  sample++, &report)) {
      std::abort();
    }
  }
  Rate(state, sent);
}
BENCHMARK(Check);

void ChecksumAlone(benchmark::State& state) {
  const Sent sent;
  for (auto _ : state) benchmark::DoNotOptimize(Crc32c(sent.bytes));
  Rate(state, sent);
}
BENCHMARK(ChecksumAlone);

void DecodeAll(benchmark::State& state) {
  const Sent sent;
  std::vector<std::byte> out(sent.spec.raw_bytes);
  for (auto _ : state) {
    if (!DecodePlane(*CpuCodec(), sent.spec, nullptr, sent.bytes, out).ok()) std::abort();
  }
  Rate(state, sent);
}
BENCHMARK(DecodeAll);

void Encode(benchmark::State& state) {
  const Sent sent;
  for (auto _ : state) {
    if (!EncodePlane(*CpuCodec(), sent.spec, sent.settings, nullptr, sent.values).ok()) {
      std::abort();
    }
  }
  Rate(state, sent);
}
BENCHMARK(Encode);

}  // namespace
}  // namespace kvstow

BENCHMARK_MAIN();
