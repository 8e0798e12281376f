#include "codec/testing/golden.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>

#include "codec/crc32c.h"
#include "codec/little_endian.h"
#include "codec/testing/tiles.h"

namespace kvstow::testing {
namespace {

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

RotaryEmbedding Rotary(uint32_t pairs, uint32_t offset, RotaryEmbedding::Pairing pairing) {
  RotaryEmbedding rotary;
  for (uint32_t i = 0; i < pairs; ++i) {
    // Exact in binary32, so that no library's pow() decides what the files mean.
    rotary.inverse_frequencies.push_back(std::ldexp(1.0f, -static_cast<int>(i) / 4));
  }
  rotary.offset = offset;
  rotary.pairing = pairing;
  return rotary;
}

LayerGroup Kv(std::vector<uint32_t> layers, uint32_t heads, uint32_t dim, DType dtype) {
  LayerGroup group;
  group.layers = std::move(layers);
  group.kv_heads = heads;
  group.k_dim = group.v_dim = dim;
  group.dtype = dtype;
  return group;
}

Golden Make(std::string name, uint32_t tokens, std::vector<LayerGroup> groups, CodecSettings codec,
            uint64_t first_position) {
  SpaceSpec spec;
  spec.model = {"golden/" + name, "1", "0123"};
  spec.groups = std::move(groups);
  spec.block_tokens = tokens;
  spec.codec = codec;
  Golden golden;
  golden.name = std::move(name);
  golden.fingerprint = FingerprintOf(spec);
  golden.first_position = first_position;
  auto layout = PlaneLayout::Create(std::move(spec), {});
  if (!layout.ok()) Die(layout.status().ToString());
  golden.layout = std::make_unique<PlaneLayout>(*std::move(layout));
  return golden;
}

CodecSettings Settings(CodecId id, uint32_t k_bits, uint32_t v_bits) {
  CodecSettings settings;
  settings.codec = id;
  settings.k_bits = k_bits;
  settings.v_bits = v_bits;
  return settings;
}

Golden Smallest() {
  LayerGroup group = Kv({3}, 1, 64, DType::kFp16);
  group.rotary = Rotary(32, 0, RotaryEmbedding::Pairing::kHalf);
  return Make("fp16_d64_rotary_half", 128, {group}, Settings(CodecId::kEOptShrinkQ, 2, 2), 4096);
}

Golden Latent() {
  LayerGroup latent;
  latent.layers = {0};
  latent.kind = LayerGroup::Kind::kLatent;
  latent.kv_heads = 1;
  latent.k_dim = 576;
  latent.dtype = DType::kBf16;
  latent.rotary = Rotary(32, 512, RotaryEmbedding::Pairing::kInterleaved);
  LayerGroup opaque;
  opaque.layers = {1};
  opaque.kind = LayerGroup::Kind::kOpaque;
  opaque.opaque_bytes = 1001;
  return Make("bf16_d576_latent_opaque", 128, {latent, opaque},
              Settings(CodecId::kEOptShrinkQ, 1, 1), 1000000);
}

Golden Bounded() {
  CodecSettings settings = Settings(CodecId::kEOptShrinkQ, 2, 1);
  settings.max_relative_error = 0.02;
  settings.shrinker = Shrinker::kOptimal;
  return Make("fp32_d80_bounded", 128, {Kv({0, 5}, 2, 80, DType::kFp32)}, settings, 0);
}

}  // namespace

std::vector<Golden> Goldens() {
  std::vector<Golden> out;
  out.push_back(Smallest());
  out.push_back(Make("fp16_d128_turboquant", 128, {Kv({0}, 2, 128, DType::kFp16)},
                     Settings(CodecId::kTurboQuant, 3, 4), 0));
  out.push_back(Latent());
  out.push_back(Bounded());
  out.push_back(Make("fp16_d112_n256", 256, {Kv({0}, 1, 112, DType::kFp16)},
                     Settings(CodecId::kEOptShrinkQ, 2, 2), 256));
  out.push_back(
      Make("fp16_raw", 128, {Kv({0}, 1, 64, DType::kFp16)}, Settings(CodecId::kRaw, 2, 2), 0));
  return out;
}

std::string GoldenFolder() { return KVSTOW_SOURCE_DIR "/codec/testdata/golden/"; }

std::vector<std::byte> GoldenBlock(const PlaneLayout& layout) {
  std::vector<std::byte> block;
  uint64_t seed = 1;
  for (const PlaneSpec& plane : layout.planes()) {
    if (plane.is_opaque()) {
      for (size_t i = 0; i < plane.raw_bytes; ++i) block.push_back(static_cast<std::byte>(i * 37));
      continue;
    }
    const TileShape shape = ShapeOf(plane);
    for (uint32_t head = 0; head < plane.heads; ++head, ++seed) {
      Tile tile = ContextTile(shape, seed % 6, seed);
      if (plane.is_key_like() && plane.rotary == nullptr) {
        for (size_t t = 0; t < shape.tokens; ++t) tile.values[t * shape.dim + 7] += 150;
      }
      if (plane.layer == 5 && head == 1) tile.values[9] = std::numeric_limits<double>::infinity();
      const auto bytes = ToElements(tile.values, shape.dtype);
      block.insert(block.end(), bytes.begin(), bytes.end());
    }
  }
  return block;
}

std::vector<std::byte> EncodeRecord(Codec& codec, const Golden& golden,
                                    std::span<const std::byte> block) {
  const PlaneLayout& layout = *golden.layout;
  RecordBuilder builder(layout, golden.fingerprint, golden.first_position);
  size_t at = 0;
  for (size_t i = 0; i < layout.planes().size(); ++i) {
    const PlaneSpec& plane = layout.planes()[i];
    std::unique_ptr<RotaryTable> table;
    if (plane.rotary != nullptr) {
      table = std::make_unique<RotaryTable>(RotaryOffsets(*plane.rotary, plane.tokens),
                                            golden.first_position);
    }
    auto encoded = EncodePlane(codec, plane, layout.spec().codec, table.get(),
                               block.subspan(at, plane.raw_bytes));
    if (!encoded.ok()) Die(encoded.status().ToString());
    builder.SetPlane(i, *std::move(encoded));
    at += plane.raw_bytes;
  }
  return builder.FinishContiguous();
}

void RepairChecksums(const Fingerprint& fingerprint, std::span<std::byte> record) {
  if (record.size() < kRecordHeaderBytes + kRecordQualityBytes) return;
  std::memcpy(record.data() + 64, fingerprint.data(), fingerprint.size());
  const auto planes = LoadLe<uint32_t>(record.data() + 44);
  const size_t head = RecordIndex::BytesFor(planes % 4096);
  if (head > record.size()) return;
  size_t at = head;
  for (size_t i = 0; i < planes % 4096; ++i) {
    std::byte* entry =
        record.data() + kRecordHeaderBytes + kRecordQualityBytes + i * kDirectoryEntryBytes;
    const size_t bytes = LoadLe<uint32_t>(entry + 8);
    if (at > record.size() || bytes > record.size() - at) break;
    StoreLe(Crc32c(record.subspan(at, bytes)), entry + 12);
    at += (bytes + 15) / 16 * 16;
  }
  StoreLe(uint32_t{0}, record.data() + 60);
  StoreLe(Crc32c(record.first(head)), record.data() + 60);
}

std::vector<std::byte> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) Die("cannot open " + path);
  std::vector<std::byte> bytes(static_cast<size_t>(in.tellg()));
  in.seekg(0);
  in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

void WriteFile(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  if (!out) Die("cannot write " + path);
}

}  // namespace kvstow::testing
