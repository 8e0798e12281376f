// One-core speed of the CPU codec on tiles of the real trace. bytes_per_second counts FP16 bytes in
// (encode) or out (decode); the baseline is a memcpy of the same bytes, measured in the same run.
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "codec/codec.h"
#include "codec/crc32c.h"
#include "codec/testing/trace.h"

namespace kvstow {
namespace {

using ::kvstow::testing::Trace;

struct Case {
  uint32_t tokens = 128;
  uint32_t dim = 128;
  bool undo_rotary = false;
  CpuIsa isa = CpuIsa::kBest;
  CodecId codec = CodecId::kEOptShrinkQ;
  uint32_t bits = 2;
};

// Tiles of the requested shape cut out of the trace's K and V rows.
std::vector<std::vector<std::byte>> MakeTiles(const Case& c) {
  std::vector<std::vector<std::byte>> tiles;
  const size_t bytes = size_t{c.tokens} * c.dim * 2;
  const Trace& trace = Trace::Cut();
  for (uint32_t layer : trace.layers()) {
    for (uint32_t head = 0; head < Trace::kHeads; ++head) {
      for (bool k : {true, false}) {
        const auto rows = trace.Rows(k, layer, head, 0, Trace::kTokens);
        for (size_t at = 0; at + bytes <= rows.size() && tiles.size() < 64; at += bytes) {
          tiles.emplace_back(rows.begin() + at, rows.begin() + at + bytes);
        }
      }
    }
  }
  return tiles;
}

struct Fixture {
  explicit Fixture(const Case& c)
      : codec(CpuCodec(c.isa)),
        tiles(MakeTiles(c)),
        offsets(Trace::Cut().rotary(), c.tokens),
        table(offsets, 0),
        encode(tiles.size()),
        decode(tiles.size()),
        tile_bytes(size_t{c.tokens} * c.dim * 2) {
    const TileShape shape{c.tokens, c.dim, DType::kFp16};
    bodies.resize(tiles.size());
    out.resize(tile_bytes);
    for (size_t i = 0; i < tiles.size(); ++i) {
      bodies[i].resize(MaxTileBodyBytes(shape));
      encode[i].shape = shape;
      encode[i].values = tiles[i].data();
      encode[i].row_stride = c.dim * 2;
      encode[i].rotary = c.undo_rotary ? &table : nullptr;
      encode[i].options.codec = c.codec;
      encode[i].options.bits = c.bits;
      encode[i].options.key_like = c.undo_rotary;
      encode[i].body = bodies[i].data();
    }
    if (codec == nullptr || !codec->Encode(std::span(encode)).ok()) std::abort();
    for (size_t i = 0; i < tiles.size(); ++i) {
      decode[i].shape = shape;
      decode[i].head = encode[i].head;
      decode[i].body = bodies[i].data();
      decode[i].rotary = encode[i].rotary;
      decode[i].values = out.data();
      decode[i].row_stride = c.dim * 2;
    }
  }

  Codec* codec;
  std::vector<std::vector<std::byte>> tiles;
  RotaryOffsets offsets;
  RotaryTable table;
  std::vector<TileEncodeJob> encode;
  std::vector<TileDecodeJob> decode;
  size_t tile_bytes;
  std::vector<std::vector<std::byte>> bodies;
  std::vector<std::byte> out;
};

void Encode(benchmark::State& state, const Case& c) {
  Fixture f(c);
  size_t i = 0;
  for (auto _ : state) {
    if (!f.codec->Encode(std::span(&f.encode[i], 1)).ok()) state.SkipWithError("encode");
    i = (i + 1) % f.encode.size();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * f.tile_bytes));
}

void Decode(benchmark::State& state, const Case& c) {
  Fixture f(c);
  size_t i = 0;
  uint32_t crc = 0;
  for (auto _ : state) {
    const TileDecodeJob& job = f.decode[i];
    // A reader checks before it decodes.
    crc += Crc32c({job.body, TileBodyBytes(job.shape, job.head)});
    if (!f.codec->Decode(std::span(&job, 1)).ok()) state.SkipWithError("decode");
    i = (i + 1) % f.decode.size();
  }
  benchmark::DoNotOptimize(crc);
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * f.tile_bytes));
}

void Copy(benchmark::State& state) {
  Fixture f(Case{});
  size_t i = 0;
  for (auto _ : state) {
    std::memcpy(f.out.data(), f.tiles[i].data(), f.tile_bytes);
    benchmark::DoNotOptimize(f.out.data());
    benchmark::ClobberMemory();
    i = (i + 1) % f.tiles.size();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * f.tile_bytes));
}

void Checksum(benchmark::State& state) {
  Fixture f(Case{});
  size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(Crc32c(f.tiles[i]));
    i = (i + 1) % f.tiles.size();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * f.tile_bytes));
}

void RegisterAll() {
  benchmark::RegisterBenchmark("memcpy", Copy);
  benchmark::RegisterBenchmark("crc32c", Checksum);
  const std::pair<std::string, Case> cases[] = {
      {"128x128", {}},
      {"128x128/rotary", {.undo_rotary = true}},
      {"128x128/turboquant", {.codec = CodecId::kTurboQuant}},
      {"128x128/4bit", {.bits = 4}},
      {"256x128/rotary", {.tokens = 256, .undo_rotary = true}},
      {"128x64", {.dim = 64}},
      {"128x256", {.dim = 256}},
      {"128x576", {.dim = 576}},
      {"128x128/portable", {.isa = CpuIsa::kPortable}},
      {"128x128/rotary/portable", {.undo_rotary = true, .isa = CpuIsa::kPortable}},
  };
  for (const auto& [name, c] : cases) {
    benchmark::RegisterBenchmark(("encode/" + name).c_str(),
                                 [c = c](benchmark::State& state) { Encode(state, c); });
    benchmark::RegisterBenchmark(("decode/" + name).c_str(),
                                 [c = c](benchmark::State& state) { Decode(state, c); });
  }
}

}  // namespace
}  // namespace kvstow

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  kvstow::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
