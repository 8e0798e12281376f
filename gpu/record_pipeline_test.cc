// Whole records through the GPU: what the CPU encodes is restored, what the GPU encodes the CPU
// reads, and damage is told and kept back.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <tuple>

#include "codec/testing/golden.h"
#include "codec/testing/tiles.h"
#include "gpu/cuda_codec.h"
#include "gpu/plane_encoder.h"
#include "gpu/restore_pipeline.h"
#include "gpu/staging.h"
#include "gtest/gtest.h"

namespace kvstow::gpu {
namespace {

using ::kvstow::testing::Golden;

constexpr std::byte kUnwritten{0xa5};
constexpr size_t kPage = 4096;

CudaCodec* Cuda() {
  static const auto* codec = new absl::StatusOr<std::unique_ptr<CudaCodec>>(CudaCodec::Create());
  return codec->ok() ? codec->value().get() : nullptr;
}

Golden MakeSpace(std::string name, std::vector<LayerGroup> groups, CodecSettings codec) {
  SpaceSpec spec;
  spec.model = {std::move(name), "1", "0123"};
  spec.groups = std::move(groups);
  spec.codec = codec;
  Golden space;
  space.name = spec.model.name;
  space.fingerprint = FingerprintOf(spec);
  auto layout = PlaneLayout::Create(std::move(spec), {});
  if (!layout.ok()) std::abort();
  space.layout = std::make_unique<PlaneLayout>(*std::move(layout));
  return space;
}

LayerGroup Kv(std::vector<uint32_t> layers, uint32_t heads, uint32_t k_dim, uint32_t v_dim) {
  LayerGroup group;
  group.layers = std::move(layers);
  group.kv_heads = heads;
  group.k_dim = k_dim;
  group.v_dim = v_dim;
  return group;
}

LayerGroup Opaque(uint32_t layer, uint64_t bytes) {
  LayerGroup group;
  group.layers = {layer};
  group.kind = LayerGroup::Kind::kOpaque;
  group.opaque_bytes = bytes;
  return group;
}

// The golden spaces (rotary in halves, TurboQuant, a latent with interleaved rotary and an opaque
// plane, an error bound on FP32, blocks of 256 tokens, raw) and some that stress the pipelines.
std::vector<Golden> Spaces() {
  std::vector<Golden> spaces = testing::Goldens();
  LayerGroup rotated = Kv({0, 2, 3}, 8, 128, 128);
  rotated.rotary.emplace();
  for (int i = 0; i < 64; ++i) {
    rotated.rotary->inverse_frequencies.push_back(std::pow(10000.0f, -static_cast<float>(i) / 64));
  }
  spaces.push_back(MakeSpace("many heads, mixed layers",
                             {rotated, Kv({1}, 40, 64, 64), Opaque(7, 3)}, CodecSettings()));
  CodecSettings raw;
  raw.codec = CodecId::kRaw;
  spaces.push_back(
      MakeSpace("raw, dimensions of no codec", {Kv({0, 1}, 3, 72, 37), Opaque(2, 300000)}, raw));
  return spaces;
}

std::vector<std::byte> MakeBlock(const PlaneLayout& layout, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> block;
  for (const PlaneSpec& plane : layout.planes()) {
    if (plane.is_opaque()) {
      for (size_t i = 0; i < plane.raw_bytes; ++i) {
        block.push_back(static_cast<std::byte>(random()));
      }
    }
    for (uint32_t head = 0; head < plane.heads; ++head) {
      auto tile = testing::ContextTile(ShapeOf(plane), random() % 5, random());
      // Now and then a tile that is kept raw.
      if (random() % 16 == 0) tile.values[random() % tile.values.size()] = INFINITY;
      const auto bytes = testing::ToElements(tile.values, plane.dtype);
      block.insert(block.end(), bytes.begin(), bytes.end());
    }
  }
  return block;
}

uint64_t PositionOf(size_t block) { return block * 128 + (block % 2 == 1 ? 1000000 : 0); }

struct Encoded {
  std::vector<std::byte> block;   // as it was
  std::vector<std::byte> record;  // encoded
};

std::vector<Encoded> EncodeBlocks(Codec& codec, Golden& space, size_t count) {
  std::vector<Encoded> out(count);
  for (size_t i = 0; i < count; ++i) {
    space.first_position = PositionOf(i);
    out[i].block = MakeBlock(*space.layout, 100 + i);
    out[i].record = testing::EncodeRecord(codec, space, out[i].block);
  }
  return out;
}

// A plane decoded by the CPU.
std::vector<std::byte> CpuPlane(const Golden& space, const RecordIndex& index, size_t plane,
                                std::span<const std::byte> record) {
  const PlaneSpec& spec = space.layout->planes()[plane];
  const DirectoryEntry& entry = index.planes()[plane];
  std::unique_ptr<RotaryTable> table;
  if (spec.rotary != nullptr) {
    table = std::make_unique<RotaryTable>(RotaryOffsets(*spec.rotary, spec.tokens),
                                          index.header().first_position);
  }
  std::vector<std::byte> out(spec.raw_bytes);
  const auto status =
      DecodePlane(*CpuCodec(), spec, table.get(), record.subspan(entry.offset, entry.bytes), out);
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

// The twins' tolerance: max(1 ulp, 2^-18 of the row's RMS); tiles kept raw are equal.
void ExpectAgree(const PlaneSpec& plane, std::span<const std::byte> want,
                 std::span<const std::byte> got) {
  if (std::equal(want.begin(), want.end(), got.begin(), got.end())) return;
  ASSERT_FALSE(plane.is_opaque());
  const size_t bytes = plane.tile_bytes();
  for (size_t at = 0; at < want.size(); at += bytes) {
    const auto a = want.subspan(at, bytes), b = got.subspan(at, bytes);
    if (std::equal(a.begin(), a.end(), b.begin())) continue;
    const auto x = testing::FromElements(a, plane.dtype), y = testing::FromElements(b, plane.dtype);
    for (size_t row = 0; row < x.size(); row += plane.dim) {
      double squares = 0;
      for (size_t i = row; i < row + plane.dim; ++i) squares += x[i] * x[i];
      const double floor = 0x1p-18 * std::sqrt(squares / plane.dim);
      for (size_t i = row; i < row + plane.dim; ++i) {
        const double larger = std::max(std::abs(x[i]), std::abs(y[i]));
        ASSERT_LE(std::abs(x[i] - y[i]), std::max(floor, testing::UlpAt(larger, plane.dtype)))
            << "head " << at / bytes << " row " << row / plane.dim;
      }
    }
  }
}

// A run of pages.
struct Piece {
  std::byte* data = nullptr;
  size_t size = 0;
};

// Pages of a tier, in host or device memory, handed out in runs of random length and place.
class PagedMemory {
 public:
  PagedMemory(size_t pages, bool on_device, uint64_t seed) : on_device_(on_device), random_(seed) {
    EXPECT_TRUE(host_.Reserve(pages * kPage).ok());
    EXPECT_TRUE(!on_device || device_.Reserve(pages * kPage).ok());
    std::fill(host_.data(), host_.data() + host_.size(), kUnwritten);
    for (size_t i = 0; i < pages; ++i) free_.push_back(i);
    // Runs of one to eight pages, in any order.
    for (size_t i = free_.size(); i > 1; --i) {
      if (random_() % 6 == 0)
        std::rotate(free_.begin(), free_.begin() + random_() % i, free_.end());
    }
  }

  std::vector<Piece> Take(size_t bytes) {
    std::vector<Piece> pieces;
    for (size_t at = 0; at < bytes; at += kPage) {
      std::byte* const page = base() + free_.back() * kPage;
      free_.pop_back();
      if (pieces.empty() || pieces.back().data + pieces.back().size != page) {
        pieces.push_back({page, 0});
      }
      pieces.back().size += kPage;
    }
    return pieces;
  }
  void Write(std::span<const Piece> pieces, std::span<const std::byte> bytes) {
    size_t at = 0;
    for (const Piece& piece : pieces) {
      const size_t size = std::min(piece.size, bytes.size() - at);
      EXPECT_EQ(cudaMemcpy(piece.data, bytes.data() + at, size, cudaMemcpyDefault), cudaSuccess);
      at += size;
    }
  }
  bool on_device() const { return on_device_; }

 private:
  std::byte* base() const { return on_device_ ? device_.data() : host_.data(); }

  bool on_device_;
  std::mt19937_64 random_;
  PinnedBuffer host_;
  DeviceBuffer device_;
  std::vector<size_t> free_;
};

// Device memory for decoded planes. Even blocks: heads within a row, as paged KV buffers have it;
// odd ones: rows with gaps and not aligned for wide stores.
class Output {
 public:
  Output(const PlaneLayout& layout, size_t blocks) : layout_(layout), blocks_(blocks) {
    for (const PlaneSpec& plane : layout.planes()) {
      offsets_.push_back(block_bytes_);
      block_bytes_ += (2 * plane.raw_bytes + 8 * plane.tokens * plane.heads + 511) / 256 * 256;
    }
    EXPECT_TRUE(device_.Reserve(blocks * block_bytes_).ok());
    Clear();
  }
  void Clear() {
    ASSERT_EQ(cudaMemset(device_.data(), static_cast<int>(kUnwritten), device_.size()),
              cudaSuccess);
  }

  PlaneTarget Target(size_t block, size_t plane) const {
    const PlaneSpec& spec = layout_.planes()[plane];
    std::byte* const at = device_.data() + block * block_bytes_ + offsets_[plane];
    const size_t row = spec.dim * SizeOf(spec.dtype);
    if (block % 2 == 0) return {at, row, row * spec.heads};
    return {at + 8, spec.tokens * (row + 8), row + 8};
  }

  void CopyDown() {
    host_.resize(blocks_ * block_bytes_);
    ASSERT_EQ(cudaMemcpy(host_.data(), device_.data(), host_.size(), cudaMemcpyDeviceToHost),
              cudaSuccess);
  }
  // The plane, taken out of the copy: what is left there should be as Clear left it.
  std::vector<std::byte> Take(size_t block, size_t plane) {
    const PlaneSpec& spec = layout_.planes()[plane];
    const PlaneTarget target = Target(block, plane);
    std::byte* const at = host_.data() + (target.values - device_.data());
    std::vector<std::byte> out;
    const size_t row = spec.is_opaque() ? spec.raw_bytes : spec.dim * SizeOf(spec.dtype);
    for (size_t h = 0; h < std::max(spec.heads, 1u); ++h) {
      for (size_t t = 0; t < std::max(spec.tokens, 1u); ++t) {
        std::byte* const from = at + h * target.head_stride + t * target.row_stride;
        out.insert(out.end(), from, from + row);
        std::fill(from, from + row, kUnwritten);
      }
    }
    return out;
  }
  bool NothingLeft() const {
    return std::all_of(host_.begin(), host_.end(), [](std::byte b) { return b == kUnwritten; });
  }

 private:
  const PlaneLayout& layout_;
  size_t blocks_;
  std::vector<size_t> offsets_;
  size_t block_bytes_ = 0;
  DeviceBuffer device_;
  std::vector<std::byte> host_;
};

// Records in pages of host and device memory, every other one each.
class StoredBlocks {
 public:
  StoredBlocks(const Golden& space, size_t count, size_t record_bytes)
      : host_(count * (record_bytes / kPage + 2), false, 1),
        device_(count * (record_bytes / kPage + 2), true, 2),
        space_(space) {
    indices_.reserve(count);
    pieces_.reserve(count);
  }
  void Add(std::span<const std::byte> record) {
    PagedMemory& memory = Memory(records_.size());
    const auto room = memory.Take(record.size());
    memory.Write(room, record);
    Add(room, memory.on_device(), record);
  }
  // One that lies there already; `prefix` holds its head.
  void Add(std::span<const Piece> room, bool on_device, std::span<const std::byte> prefix) {
    auto index = RecordIndex::Parse(prefix, *space_.layout, space_.fingerprint);
    ASSERT_TRUE(index.ok()) << index.status();
    indices_.push_back(*std::move(index));
    pieces_.emplace_back();
    for (const Piece& piece : room) pieces_.back().push_back({piece.data, piece.size});
    records_.push_back({&indices_.back(), on_device, pieces_.back()});
  }
  PagedMemory& Memory(size_t block) { return block % 2 == 0 ? host_ : device_; }
  const std::vector<StoredRecord>& records() const { return records_; }
  const RecordIndex& index(size_t block) const { return indices_[block]; }

 private:
  PagedMemory host_, device_;
  const Golden& space_;
  std::vector<RecordIndex> indices_;
  std::vector<std::vector<RecordPiece>> pieces_;
  std::vector<StoredRecord> records_;
};

// Small chunks, so that the ring turns.
RestoreConfig SmallChunks(const PlaneLayout& layout) {
  size_t largest = 0;
  for (const PlaneSpec& plane : layout.planes()) largest = std::max(largest, MaxPlaneBytes(plane));
  RestoreConfig config;
  config.max_records = 8;
  config.chunk_bytes = largest + 16;
  config.chunk_tiles = 100;
  config.slots = 3;
  return config;
}

using Planes = std::set<std::pair<size_t, size_t>>;  // block, plane

// Restores and compares with the CPU: every plane agrees but those that are to be damaged, of which
// nothing may be written.
void ExpectRestored(const Golden& space, RestorePipeline& pipeline, const StoredBlocks& stored,
                    const std::vector<std::vector<std::byte>>& records, const Planes& damaged) {
  const PlaneLayout& layout = *space.layout;
  Output output(layout, records.size());
  std::vector<size_t> queued, done;
  Planes told;
  RestoreRequest request;
  request.records = stored.records();
  request.target = [&](size_t block, size_t plane) { return output.Target(block, plane); };
  request.layer_queued = [&](size_t layer, cudaEvent_t written) {
    EXPECT_NE(written, nullptr);
    queued.push_back(layer);
  };
  request.layer_done = [&](size_t layer, std::span<const DamagedPlane> damage) {
    done.push_back(layer);
    for (const DamagedPlane& d : damage) {
      EXPECT_EQ(layout.planes()[d.plane].layer, layout.layers()[layer]);
      told.insert({d.block, d.plane});
    }
  };
  const auto result = pipeline.Restore(request);
  ASSERT_TRUE(result.ok()) << result.status();
  Planes returned;
  for (const DamagedPlane& d : *result) returned.insert({d.block, d.plane});
  EXPECT_EQ(returned, damaged);
  EXPECT_EQ(told, damaged);
  EXPECT_EQ(result->size(), damaged.size());
  std::vector<size_t> layers(layout.layers().size());
  for (size_t i = 0; i < layers.size(); ++i) layers[i] = i;
  EXPECT_EQ(queued, layers);
  EXPECT_EQ(done, layers);
  output.CopyDown();
  for (size_t block = 0; block < records.size(); ++block) {
    for (size_t plane = 0; plane < layout.planes().size(); ++plane) {
      SCOPED_TRACE("block " + std::to_string(block) + " plane " + std::to_string(plane));
      if (damaged.contains({block, plane})) continue;
      ExpectAgree(layout.planes()[plane],
                  CpuPlane(space, stored.index(block), plane, records[block]),
                  output.Take(block, plane));
    }
  }
  EXPECT_TRUE(output.NothingLeft());
}

class RecordPipeline : public ::testing::Test {
 protected:
  void SetUp() override {
    if (Cuda() == nullptr) GTEST_SKIP() << "no CUDA device on this machine";
  }
};

size_t Largest(const std::vector<Encoded>& blocks) {
  size_t largest = 0;
  for (const Encoded& e : blocks) largest = std::max(largest, e.record.size());
  return largest;
}

TEST_F(RecordPipeline, RestoresWhatTheCpuEncoded) {
  for (Golden& space : Spaces()) {
    SCOPED_TRACE(space.name);
    const auto blocks = EncodeBlocks(*CpuCodec(), space, 5);
    StoredBlocks stored(space, blocks.size(), Largest(blocks));
    std::vector<std::vector<std::byte>> records;
    for (const Encoded& e : blocks) {
      stored.Add(e.record);
      records.push_back(e.record);
    }
    auto pipeline = RestorePipeline::Create(*space.layout, SmallChunks(*space.layout));
    ASSERT_TRUE(pipeline.ok()) << pipeline.status();
    // Twice: a call leaves nothing behind.
    for (int i = 0; i < 2; ++i) ExpectRestored(space, **pipeline, stored, records, {});
    auto whole = RestorePipeline::Create(*space.layout, {});
    ASSERT_TRUE(whole.ok()) << whole.status();
    ExpectRestored(space, **whole, stored, records, {});
  }
}

// Whether a plane or the padding behind it differs between two versions of a record.
bool Differs(const DirectoryEntry& entry, std::span<const std::byte> a,
             std::span<const std::byte> b) {
  const size_t size = (entry.bytes + 15) / 16 * 16;
  const auto x = a.subspan(entry.offset, size), y = b.subspan(entry.offset, size);
  return !std::equal(x.begin(), x.end(), y.begin());
}

TEST_F(RecordPipeline, FlippedBitsAreToldAndKeptBack) {
  std::mt19937_64 random(7);
  size_t flipped_heads = 0;
  for (Golden& space : Spaces()) {
    SCOPED_TRACE(space.name);
    const auto blocks = EncodeBlocks(*CpuCodec(), space, 4);
    auto pipeline = RestorePipeline::Create(*space.layout, SmallChunks(*space.layout));
    ASSERT_TRUE(pipeline.ok()) << pipeline.status();
    for (int round = 0; round < 12; ++round) {
      StoredBlocks stored(space, blocks.size(), Largest(blocks));
      std::vector<std::vector<std::byte>> records;
      Planes damaged;
      for (size_t block = 0; block < blocks.size(); ++block) {
        records.push_back(blocks[block].record);
        auto& record = records.back();
        const size_t head = RecordIndex::BytesFor(*space.layout);
        for (uint64_t flips = random() % 3; flips > 0; --flips) {
          const size_t at = random() % record.size();
          const auto bit = static_cast<std::byte>(1u << random() % 8);
          record[at] ^= bit;
          if (at >= head) continue;
          EXPECT_FALSE(RecordIndex::Parse(record, *space.layout, space.fingerprint).ok());
          record[at] ^= bit;
          ++flipped_heads;
        }
        stored.Add(record);
        for (size_t plane = 0; plane < space.layout->planes().size(); ++plane) {
          if (Differs(stored.index(block).planes()[plane], record, blocks[block].record)) {
            damaged.insert({block, plane});
          }
        }
      }
      ExpectRestored(space, **pipeline, stored, records, damaged);
    }
  }
  EXPECT_GT(flipped_heads, 0u);
}

// Tables that are wrong under a right checksum: refused exactly where the CPU refuses them.
TEST_F(RecordPipeline, RefusesTheTablesThatTheCpuRefuses) {
  std::mt19937_64 random(8);
  size_t refused = 0, accepted = 0;
  for (Golden& space : Spaces()) {
    SCOPED_TRACE(space.name);
    const PlaneLayout& layout = *space.layout;
    const auto blocks = EncodeBlocks(*CpuCodec(), space, 4);
    auto pipeline = RestorePipeline::Create(layout, SmallChunks(layout));
    ASSERT_TRUE(pipeline.ok()) << pipeline.status();
    for (int round = 0; round < 12; ++round) {
      StoredBlocks stored(space, blocks.size(), Largest(blocks));
      std::vector<std::vector<std::byte>> records;
      Planes damaged;
      for (size_t block = 0; block < blocks.size(); ++block) {
        records.push_back(blocks[block].record);
        auto& record = records.back();
        const auto before = RecordIndex::Parse(record);
        ASSERT_TRUE(before.ok()) << before.status();
        for (const DirectoryEntry& entry : before->planes()) {
          // The table, or the end of the last tile.
          const size_t at = random() % 3 > 0 ? random() % std::min(entry.bytes, 16u)
                                             : entry.bytes - 1 - random() % 16 % entry.bytes;
          record[entry.offset + at] ^= static_cast<std::byte>(1u << random() % 8);
        }
        testing::RepairChecksums(space.fingerprint, record);
        stored.Add(record);
        const RecordIndex& index = stored.index(block);
        for (size_t plane = 0; plane < layout.planes().size(); ++plane) {
          const DirectoryEntry& entry = index.planes()[plane];
          const bool ok = PlaneView::Parse(std::span(record).subspan(entry.offset, entry.bytes),
                                           layout.planes()[plane])
                              .ok();
          ++(ok ? accepted : refused);
          if (!ok) damaged.insert({block, plane});
        }
      }
      ExpectRestored(space, **pipeline, stored, records, damaged);
    }
  }
  EXPECT_GT(refused, 50u);
  EXPECT_GT(accepted, 50u);
}

// Blocks in device memory, planes as Output lays them out.
class DeviceBlocks {
 public:
  DeviceBlocks(const PlaneLayout& layout, const std::vector<std::vector<std::byte>>& blocks)
      : output_(layout, blocks.size()) {
    for (size_t block = 0; block < blocks.size(); ++block) {
      const std::byte* from = blocks[block].data();
      for (size_t i = 0; i < layout.planes().size(); ++i) {
        const PlaneSpec& plane = layout.planes()[i];
        const PlaneTarget to = output_.Target(block, i);
        const size_t row = plane.dim * SizeOf(plane.dtype);
        for (size_t h = 0; h < plane.heads; ++h) {
          EXPECT_EQ(cudaMemcpy2D(to.values + h * to.head_stride, to.row_stride,
                                 from + h * plane.tile_bytes(), row, row, plane.tokens,
                                 cudaMemcpyHostToDevice),
                    cudaSuccess);
        }
        if (plane.is_opaque()) {
          EXPECT_EQ(cudaMemcpy(to.values, from, plane.raw_bytes, cudaMemcpyHostToDevice),
                    cudaSuccess);
        }
        from += plane.raw_bytes;
      }
    }
  }
  PlaneEncoder::Plane Plane(size_t block, size_t plane) const {
    const PlaneTarget at = output_.Target(block, plane);
    return {plane, PositionOf(block), at.values, at.head_stride, at.row_stride};
  }

 private:
  Output output_;
};

// Records of the blocks, planes layer after layer across them, as many at a time as there is room
// for.
std::vector<std::vector<std::byte>> Encode(PlaneEncoder& encoder, const Golden& space,
                                           const DeviceBlocks& blocks, size_t count) {
  std::vector<std::unique_ptr<RecordBuilder>> builders;
  for (size_t b = 0; b < count; ++b) {
    builders.push_back(
        std::make_unique<RecordBuilder>(*space.layout, space.fingerprint, PositionOf(b)));
  }
  std::vector<PlaneEncoder::Plane> batch;
  std::vector<size_t> of_block;
  size_t load = 0;
  const auto flush = [&] {
    auto status = encoder.Encode(batch);
    ASSERT_TRUE(status.ok()) << status;
    const auto encoded = encoder.Collect();
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    ASSERT_EQ(encoded->size(), batch.size());
    EXPECT_TRUE(*encoder.Passed());
    for (size_t i = 0; i < batch.size(); ++i) {
      const PlaneEncoder::Encoded& one = (*encoded)[i];
      EXPECT_EQ(one.tiles.size(), std::max(space.layout->planes()[batch[i].plane].heads, 1u));
      builders[of_block[i]]->SetPlane(batch[i].plane,
                                      {{one.bytes.begin(), one.bytes.end()}, one.summary.report},
                                      one.summary.crc32c);
    }
    batch.clear();
    of_block.clear();
    load = 0;
  };
  for (size_t plane = 0; plane < space.layout->planes().size(); ++plane) {
    for (size_t block = 0; block < count; ++block) {
      if (load + encoder.LoadOf(plane) > encoder.max_load()) flush();
      load += encoder.LoadOf(plane);
      batch.push_back(blocks.Plane(block, plane));
      of_block.push_back(block);
    }
  }
  flush();
  std::vector<std::vector<std::byte>> records;
  for (const auto& builder : builders) {
    EXPECT_TRUE(builder->complete());
    records.push_back(builder->complete() ? builder->FinishContiguous() : std::vector<std::byte>());
  }
  return records;
}

size_t MaxRecordBytes(const PlaneLayout& layout) {
  size_t bytes = RecordIndex::BytesFor(layout);
  for (const PlaneSpec& plane : layout.planes()) bytes += MaxPlaneBytes(plane) + 15;
  return bytes;
}

PlaneEncoderConfig SmallBatches() {
  PlaneEncoderConfig config;
  config.max_bytes = 1;  // one plane at a time, or a few smaller ones
  config.max_blocks = 5;
  return config;
}

TEST_F(RecordPipeline, EncodesWhatTheRecordBuilderMakes) {
  for (Golden& space : Spaces()) {
    SCOPED_TRACE(space.name);
    const auto expected = EncodeBlocks(*Cuda(), space, 5);
    std::vector<std::vector<std::byte>> blocks;
    for (const Encoded& e : expected) blocks.push_back(e.block);
    const DeviceBlocks device(*space.layout, blocks);
    for (const PlaneEncoderConfig& config : {SmallBatches(), PlaneEncoderConfig()}) {
      auto encoder = PlaneEncoder::Create(*space.layout, config);
      ASSERT_TRUE(encoder.ok()) << encoder.status();
      const auto records = Encode(**encoder, space, device, blocks.size());
      StoredBlocks stored(space, blocks.size(), MaxRecordBytes(*space.layout));
      for (size_t block = 0; block < blocks.size(); ++block) {
        EXPECT_TRUE(records[block] == expected[block].record) << "block " << block;
        std::vector<std::byte> decoded(space.layout->raw_bytes());
        const auto status =
            DecodeRecord(*CpuCodec(), *space.layout, space.fingerprint, records[block], decoded);
        EXPECT_TRUE(status.ok()) << status;
        stored.Add(records[block]);
      }
      auto restore = RestorePipeline::Create(*space.layout, SmallChunks(*space.layout));
      ASSERT_TRUE(restore.ok()) << restore.status();
      ExpectRestored(space, **restore, stored, records, {});
    }
  }
}

// Tiles that break careless codecs, one a head, keys and values alike.
TEST_F(RecordPipeline, AdversarialTilesThereAndBack) {
  for (DType dtype : {DType::kFp16, DType::kBf16, DType::kFp32}) {
    const TileShape shape = {128, 128, dtype};
    auto tiles = testing::AdversarialTiles(shape);
    for (double bad : {std::numeric_limits<double>::quiet_NaN(), HUGE_VAL, -HUGE_VAL}) {
      auto tile = testing::ContextTile(shape, 2, 5);
      tile.values[77 * 128 + 5] = bad;
      tile.bytes = testing::ToElements(tile.values, dtype);
      tiles.push_back({"not finite", std::move(tile)});
    }
    LayerGroup group = Kv({0}, static_cast<uint32_t>(tiles.size()), 128, 128);
    group.dtype = dtype;
    Golden space = MakeSpace("adversarial", {group}, CodecSettings());
    std::vector<std::byte> block;
    for (int plane = 0; plane < 2; ++plane) {
      for (const auto& t : tiles)
        block.insert(block.end(), t.tile.bytes.begin(), t.tile.bytes.end());
    }
    const DeviceBlocks device(*space.layout, {block});
    auto encoder = PlaneEncoder::Create(*space.layout, {});
    ASSERT_TRUE(encoder.ok()) << encoder.status();
    StoredBlocks stored(space, 2, MaxRecordBytes(*space.layout));
    const auto record = Encode(**encoder, space, device, 1).front();
    EXPECT_TRUE(record == testing::EncodeRecord(*Cuda(), space, block));
    stored.Add(record);
    // And what the CPU makes of them.
    const auto twin = testing::EncodeRecord(*CpuCodec(), space, block);
    stored.Add(twin);
    auto restore = RestorePipeline::Create(*space.layout, {});
    ASSERT_TRUE(restore.ok()) << restore.status();
    ExpectRestored(space, **restore, stored, {record, twin}, {});
  }
}

TEST_F(RecordPipeline, RefusesBatchesThatDoNotFit) {
  Golden space = std::move(testing::Goldens().front());
  const std::vector<std::vector<std::byte>> blocks(6, MakeBlock(*space.layout, 1));
  const DeviceBlocks device(*space.layout, blocks);
  auto encoder = PlaneEncoder::Create(*space.layout, SmallBatches());
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  const std::vector<PlaneEncoder::Plane> two = {device.Plane(0, 0), device.Plane(1, 0)};
  EXPECT_EQ((*encoder)->Encode(two).code(), absl::StatusCode::kInvalidArgument);
  PlaneEncoderConfig config;
  config.max_blocks = 5;
  encoder = PlaneEncoder::Create(*space.layout, config);
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  std::vector<PlaneEncoder::Plane> six;
  for (size_t block = 0; block < 6; ++block) six.push_back(device.Plane(block, 0));
  EXPECT_EQ((*encoder)->Encode(six).code(), absl::StatusCode::kInvalidArgument);
  // Neither keeps it from going on.
  EXPECT_TRUE(Encode(**encoder, space, device, 5).back() ==
              Encode(**encoder, space, device, 5).back());
  ASSERT_TRUE((*encoder)->Encode({}).ok());
  EXPECT_TRUE((*encoder)->Collect()->empty());
}

TEST_F(RecordPipeline, RefusesRecordsThatDoNotFit) {
  Golden space = std::move(testing::Goldens().front());
  const auto blocks = EncodeBlocks(*CpuCodec(), space, 1);
  const auto index = RecordIndex::Parse(blocks[0].record, *space.layout, space.fingerprint);
  ASSERT_TRUE(index.ok());
  RestoreConfig config;
  config.max_records = 2;
  auto pipeline = RestorePipeline::Create(*space.layout, config);
  ASSERT_TRUE(pipeline.ok()) << pipeline.status();
  PinnedBuffer memory;
  ASSERT_TRUE(memory.Reserve(blocks[0].record.size() + 16).ok());
  const size_t size = blocks[0].record.size();
  const RecordPiece whole[] = {{memory.data(), size}};
  const RecordPiece shifted[] = {{memory.data() + 8, size}};
  const RecordPiece cut[] = {{memory.data(), size - 16}};
  const RecordPiece ragged[] = {{memory.data(), 24}, {memory.data() + 32, size}};
  const auto restore = [&](std::vector<StoredRecord> records) {
    RestoreRequest request;
    request.records = records;
    request.target = [](size_t, size_t) { return PlaneTarget{}; };
    return (*pipeline)->Restore(request).status().code();
  };
  const StoredRecord good = {&*index, false, whole};
  EXPECT_EQ(restore({}), absl::StatusCode::kOk);
  EXPECT_EQ(restore({good, good, good}), absl::StatusCode::kInvalidArgument);
  for (std::span<const RecordPiece> pieces : {std::span(shifted), std::span(cut)}) {
    EXPECT_EQ(restore({{&*index, false, pieces}}), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(restore({{&*index, false, ragged}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(restore({{nullptr, false, whole}}), absl::StatusCode::kInvalidArgument);
  config.chunk_bytes = 16;
  EXPECT_EQ(RestorePipeline::Create(*space.layout, config).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// Ends with the status's code as the exit code.
[[noreturn]] void RestoreToNowhere() {
  Golden space = std::move(testing::Goldens().front());
  const auto blocks = EncodeBlocks(*CpuCodec(), space, 1);
  StoredBlocks stored(space, 1, Largest(blocks));
  stored.Add(blocks[0].record);
  auto pipeline = RestorePipeline::Create(*space.layout, {});
  RestoreRequest request;
  request.records = stored.records();
  request.target = [](size_t, size_t) {
    return PlaneTarget{reinterpret_cast<std::byte*>(4096), 0, 0};
  };
  std::_Exit(static_cast<int>((*pipeline)->Restore(request).status().code()));
}

[[noreturn]] void EncodeFromNowhere() {
  Golden space = std::move(testing::Goldens().front());
  auto encoder = PlaneEncoder::Create(*space.layout, {});
  const PlaneEncoder::Plane plane = {0, 0, reinterpret_cast<const std::byte*>(4096), 0, 0};
  absl::Status status = (*encoder)->Encode({&plane, 1});
  if (status.ok()) status = (*encoder)->Collect().status();
  std::_Exit(static_cast<int>(status.code()));
}

using RecordPipelineDeathTest = RecordPipeline;

TEST_F(RecordPipelineDeathTest, LostDeviceEndsTheCallWithInternal) {
  // A process of its own each: no other work is possible in one whose device is lost.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto internal = ::testing::ExitedWithCode(static_cast<int>(absl::StatusCode::kInternal));
  EXPECT_EXIT(RestoreToNowhere(), internal, "");
  EXPECT_EXIT(EncodeFromNowhere(), internal, "");
}

}  // namespace
}  // namespace kvstow::gpu
