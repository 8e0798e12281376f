// Records: what builders make readers take apart, golden files of version 1, and files that must
// fail.
#include "codec/record.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>

#include "codec/crc32c.h"
#include "codec/placed_record.h"
#include "codec/testing/golden.h"
#include "codec/testing/tiles.h"
#include "codec/verbatim_record.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvstow {
namespace {

using ::kvstow::testing::Golden;
using ::testing::HasSubstr;

Codec& Cpu() { return *CpuCodec(); }

// Rows of one tile agree to max(1 ulp, 2^-18 of their RMS).
void ExpectRowsAgree(const TileShape& shape, std::span<const std::byte> a,
                     std::span<const std::byte> b) {
  const auto x = testing::FromElements(a, shape.dtype);
  const auto y = testing::FromElements(b, shape.dtype);
  for (size_t row = 0; row < x.size(); row += shape.dim) {
    double squares = 0;
    for (size_t i = row; i < row + shape.dim; ++i) squares += x[i] * x[i];
    const double floor = 0x1p-18 * std::sqrt(squares / shape.dim);
    for (size_t i = row; i < row + shape.dim; ++i) {
      if (std::isinf(x[i])) {
        ASSERT_EQ(x[i], y[i]);
        continue;
      }
      const double larger = std::max(std::abs(x[i]), std::abs(y[i]));
      ASSERT_LE(std::abs(x[i] - y[i]), std::isfinite(floor)
                                           ? std::max(floor, testing::UlpAt(larger, shape.dtype))
                                           : larger);
    }
  }
}

TEST(Record, GoldenFilesDecodeAsTheyDid) {
  for (const Golden& golden : testing::Goldens()) {
    SCOPED_TRACE(golden.name);
    const auto record = testing::ReadFile(testing::GoldenFolder() + golden.name + ".kvsr");
    const auto expected = testing::ReadFile(testing::GoldenFolder() + golden.name + ".decoded");
    for (Codec* codec : {CpuCodec(CpuIsa::kPortable), CpuCodec()}) {
      std::vector<std::byte> out(golden.layout->raw_bytes());
      const auto s = DecodeRecord(*codec, *golden.layout, golden.fingerprint, record, out);
      ASSERT_TRUE(s.ok()) << s;
      size_t at = 0;
      for (const PlaneSpec& plane : golden.layout->planes()) {
        const auto got = std::span(out).subspan(at, plane.raw_bytes);
        const auto want = std::span(expected).subspan(at, plane.raw_bytes);
        if (plane.is_opaque()) {
          EXPECT_TRUE(std::equal(got.begin(), got.end(), want.begin()));
        } else {
          ExpectRowsAgree(ShapeOf(plane), want, got);
        }
        at += plane.raw_bytes;
      }
    }
  }
}

TEST(Record, FilesThatMustFail) {
  const Golden golden = std::move(testing::Goldens().front());
  const std::string folder = KVSTOW_SOURCE_DIR "/codec/testdata/must_fail/";
  std::ifstream manifest(folder + "expected.tsv");
  int seen = 0;
  for (std::string line; std::getline(manifest, line); ++seen) {
    const size_t tab = line.find('\t');
    const std::string name = line.substr(0, tab);
    SCOPED_TRACE(name);
    const auto record = testing::ReadFile(folder + name + ".kvsr");
    std::vector<std::byte> out(golden.layout->raw_bytes());
    const auto s = DecodeRecord(Cpu(), *golden.layout, golden.fingerprint, record, out);
    EXPECT_EQ(s.code(), name == "shard" ? absl::StatusCode::kFailedPrecondition
                                        : absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(s.message()), HasSubstr(line.substr(tab + 1)));
  }
  EXPECT_GE(seen, 25);
}

TEST(Record, RoundTripsAndReportsItself) {
  for (const Golden& golden : testing::Goldens()) {
    SCOPED_TRACE(golden.name);
    const auto block = testing::GoldenBlock(*golden.layout);
    const auto record = testing::EncodeRecord(Cpu(), golden, block);
    const auto index = RecordIndex::Parse(record, *golden.layout, golden.fingerprint);
    ASSERT_TRUE(index.ok()) << index.status();
    const RecordHeader& header = index->header();
    EXPECT_EQ(header.record_bytes, record.size());
    EXPECT_EQ(header.first_position, golden.first_position);
    EXPECT_EQ(header.fingerprint, golden.fingerprint);
    CodecSettings settings = golden.layout->spec().codec;
    settings.max_relative_error = static_cast<float>(settings.max_relative_error);
    EXPECT_EQ(header.codec, settings);
    EXPECT_EQ(index->planes().size(), golden.layout->planes().size());

    std::vector<std::byte> out(golden.layout->raw_bytes());
    ASSERT_TRUE(DecodeRecord(Cpu(), *golden.layout, golden.fingerprint, record, out).ok());
    QualityReport k, v;
    size_t at = 0;
    for (const PlaneSpec& plane : golden.layout->planes()) {
      if (plane.layer == 5 || plane.is_opaque()) {
        at += plane.raw_bytes;
        continue;
      }
      testing::Tile tile;
      tile.shape = {plane.tokens * plane.heads, plane.dim, plane.dtype};
      tile.values =
          testing::FromElements(std::span(block).subspan(at, plane.raw_bytes), plane.dtype);
      TileReport report;
      report.sums = testing::MeasureInDouble(tile, std::span(out).subspan(at, plane.raw_bytes));
      (plane.is_key_like() ? k : v).Add(report);
      at += plane.raw_bytes;
    }
    if (golden.layout->planes().size() == 2) {
      EXPECT_NEAR(header.k.nmse, k.sums.nmse(), 1e-4 * k.sums.nmse() + 1e-12);
      EXPECT_NEAR(header.v.nmse, v.sums.nmse(), 1e-4 * v.sums.nmse() + 1e-12);
    }
  }
}

TEST(Record, PrefixIsEnoughForTheIndex) {
  const Golden golden = std::move(testing::Goldens().front());
  const auto record = testing::EncodeRecord(Cpu(), golden, testing::GoldenBlock(*golden.layout));
  const size_t needed = RecordIndex::BytesFor(*golden.layout);
  const auto index = RecordIndex::Parse(std::span(record).first(needed));
  ASSERT_TRUE(index.ok()) << index.status();
  for (const DirectoryEntry& entry : index->planes()) {
    EXPECT_EQ(entry.offset % kTileAlignment, 0u);
    EXPECT_TRUE(CheckPlane(entry, std::span(record).subspan(entry.offset, entry.bytes)).ok());
  }
  EXPECT_FALSE(RecordIndex::Parse(std::span(record).first(needed - 1)).ok());
}

TEST(Record, ForeignSpaceIsAFailedPrecondition) {
  const Golden golden = std::move(testing::Goldens().front());
  const auto record = testing::EncodeRecord(Cpu(), golden, testing::GoldenBlock(*golden.layout));
  Fingerprint other = golden.fingerprint;
  other[0] ^= 1;
  EXPECT_EQ(RecordIndex::Parse(record, *golden.layout, other).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(Record, EveryFlippedBitIsNoticed) {
  const Golden golden = std::move(testing::Goldens().front());
  const auto good = testing::EncodeRecord(Cpu(), golden, testing::GoldenBlock(*golden.layout));
  std::vector<std::byte> out(golden.layout->raw_bytes());
  for (size_t i = 0; i < good.size(); i += i < 300 ? 1 : 97) {
    auto bad = good;
    bad[i] ^= static_cast<std::byte>(1u << i % 8);
    EXPECT_FALSE(DecodeRecord(Cpu(), *golden.layout, golden.fingerprint, bad, out).ok()) << i;
  }
}

TEST(Plane, ChecksItsArguments) {
  const Golden golden = std::move(testing::Goldens().front());
  const PlaneSpec& plane = golden.layout->planes()[0];
  const CodecSettings& settings = golden.layout->spec().codec;
  std::vector<std::byte> values(plane.raw_bytes);
  EXPECT_EQ(EncodePlane(Cpu(), plane, settings, nullptr, values).status().code(),
            absl::StatusCode::kInvalidArgument);
  const RotaryTable table(RotaryOffsets(*plane.rotary, plane.tokens), 0);
  const auto encoded = EncodePlane(Cpu(), plane, settings, &table, values);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_EQ(DecodePlane(Cpu(), plane, nullptr, encoded->bytes, values).code(),
            absl::StatusCode::kInvalidArgument);
  values.pop_back();
  EXPECT_FALSE(EncodePlane(Cpu(), plane, settings, &table, values).ok());
  EXPECT_FALSE(DecodePlane(Cpu(), plane, &table, encoded->bytes, values).ok());
}

TEST(Report, PoolsExactly) {
  TileReport a, b;
  a.sums = {4, 1, 2, 1, 3};
  a.rank = 3;
  b.sums = {12, 1, 6, 1, 13};
  b.rank = 5;
  QualityReport report;
  report.Add(a);
  report.Add(b);
  TileReport raw;
  raw.raw = true;
  report.Add(raw);
  EXPECT_DOUBLE_EQ(report.sums.nmse(), 2.0 / 16);
  EXPECT_DOUBLE_EQ(report.sums.centred_nmse(), 2.0 / 8);
  EXPECT_DOUBLE_EQ(report.sums.inner_product_bias(), 0);
  EXPECT_DOUBLE_EQ(report.worst_nmse, 0.25);
  EXPECT_DOUBLE_EQ(report.worst_centred_nmse, 0.5);
  EXPECT_DOUBLE_EQ(report.rank_mean(), 4);
  EXPECT_EQ(report.rank_max, 5u);
  EXPECT_EQ(report.tiles_raw, 1u);
  EXPECT_EQ(ErrorSums{}.nmse(), 0);
}

// ---- VerbatimRecordWriter ----

// FP16 heads, and an opaque plane whose size is no multiple of the alignment.
PlaneLayout VerbatimLayout(CodecId codec) {
  SpaceSpec spec;
  spec.model = {"verbatim", "", ""};
  LayerGroup group;
  group.layers = {0, 1};
  group.kv_heads = 3;
  group.k_dim = group.v_dim = 64;
  LayerGroup opaque;
  opaque.layers = {2};
  opaque.kind = LayerGroup::Kind::kOpaque;
  opaque.opaque_bytes = 20'001;
  spec.groups = {group, opaque};
  spec.codec.codec = codec;
  return *PlaneLayout::Create(spec, {});
}

std::vector<std::byte> Noise(size_t size, uint32_t seed) {
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>((seed = seed * 1664525 + 1013904223) >> 24);
  return bytes;
}

TEST(VerbatimRecord, IsWhatTheBuilderMakes) {
  const PlaneLayout layout = VerbatimLayout(CodecId::kRaw);
  const Fingerprint fingerprint{3};
  std::vector<std::byte> written(VerbatimRecordWriter::RecordBytes(layout), std::byte{0xee});
  // In pieces of odd sizes, as little as the tier's may fit the planes.
  std::vector<std::span<std::byte>> room;
  for (size_t at = 0; at < written.size(); at += 4097) {
    room.push_back(std::span(written).subspan(at, std::min<size_t>(4097, written.size() - at)));
  }
  RecordBuilder builder(layout, fingerprint, 256);
  VerbatimRecordWriter writer(layout, fingerprint, 256, room);
  for (size_t i = 0; i < layout.planes().size(); ++i) {
    const PlaneSpec& plane = layout.planes()[i];
    const auto values = Noise(plane.raw_bytes, static_cast<uint32_t>(i));
    EncodedPlane encoded;
    encoded.bytes.resize(VerbatimOffset(plane));
    encoded.bytes.insert(encoded.bytes.end(), values.begin(), values.end());
    encoded.report = FinishVerbatim(plane, encoded.bytes);
    builder.SetPlane(i, std::move(encoded));
    EXPECT_FALSE(writer.complete());
    writer.Append(std::span(values).first(1000), VerbatimRecordWriter::Source::kOwn);
    writer.Append(std::span(values).subspan(1000), VerbatimRecordWriter::Source::kShared);
  }
  ASSERT_TRUE(writer.complete());
  const auto head = writer.Finish();
  ASSERT_EQ(head.size(), 1u);
  std::ranges::copy(head[0], written.begin());
  EXPECT_EQ(writer.record_bytes(), written.size());
  EXPECT_EQ(written, builder.FinishContiguous());
  EXPECT_EQ(writer.k_report().bytes, builder.k_report().bytes);
}

TEST(VerbatimRecord, NeedsEveryPlaneVerbatim) {
  EXPECT_EQ(VerbatimRecordWriter::RecordBytes(VerbatimLayout(CodecId::kEOptShrinkQ)), 0u);
}

// ---- PlacedRecord ----

struct PlacedPlanes {
  explicit PlacedPlanes(const PlaneLayout& layout) : builder(layout, {3}, 256) {
    for (size_t i = 0; i < layout.planes().size(); ++i) {
      bytes.push_back(Noise(100 + 37 * i, static_cast<uint32_t>(i)));
      EncodedPlane plane{{bytes.back().begin(), bytes.back().end()}, {}};
      plane.report.bytes = bytes.back().size();
      summaries.push_back(
          {static_cast<uint32_t>(bytes.back().size()), Crc32c(bytes.back()), plane.report});
      builder.SetPlane(i, std::move(plane));
    }
    record = builder.FinishContiguous();
  }
  // One of the two ways, by turns.
  void Set(size_t i, PlacedRecord* placed) const {
    if (i % 2 == 0) {
      placed->SetPlane(i, bytes[i], summaries[i]);
    } else {
      placed->SetPlane(i, {{bytes[i].begin(), bytes[i].end()}, summaries[i].report},
                       summaries[i].crc32c);
    }
  }

  RecordBuilder builder;
  std::vector<std::vector<std::byte>> bytes;
  std::vector<PlaneSummary> summaries;
  std::vector<std::byte> record;
};

std::vector<std::byte> Joined(std::span<const std::span<const std::byte>> pieces) {
  std::vector<std::byte> out;
  for (const auto& piece : pieces) out.insert(out.end(), piece.begin(), piece.end());
  return out;
}

// In any order of the planes, with any room: none, just enough, too little by a bit or a lot.
TEST(PlacedRecord, IsWhatTheBuilderMakes) {
  const PlaneLayout layout = VerbatimLayout(CodecId::kEOptShrinkQ);
  const PlacedPlanes planes(layout);
  const size_t head = RecordIndex::BytesFor(layout), size = planes.record.size();
  std::vector<size_t> order(layout.planes().size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  do {
    for (const size_t room_bytes :
         {size_t{0}, size_t{1}, head, size - 200, size - 1, size, size + 5000}) {
      std::vector<std::byte> memory(room_bytes, std::byte{0xee});
      std::vector<std::span<std::byte>> room;
      for (size_t at = 0; at < room_bytes; at += 97) {
        room.push_back(std::span(memory).subspan(at, std::min<size_t>(97, room_bytes - at)));
      }
      PlacedRecord placed(layout, {3}, 256);
      if (room_bytes > 0) placed.SetRoom(room);
      for (const size_t i : order) {
        EXPECT_FALSE(placed.complete());
        planes.Set(i, &placed);
      }
      ASSERT_TRUE(placed.complete());
      EXPECT_EQ(placed.record_bytes(), size);
      const auto pieces = placed.Finish();
      std::vector<std::byte> got = Joined(pieces);
      EXPECT_EQ(got.size(), placed.unwritten_bytes());
      EXPECT_EQ(got.size(), room_bytes < size ? size : head);
      if (room_bytes >= size) got.insert(got.end(), memory.begin() + head, memory.begin() + size);
      ASSERT_TRUE(got == planes.record) << "room of " << room_bytes;
      EXPECT_EQ(placed.k_report().bytes, planes.builder.k_report().bytes);
    }
  } while (std::ranges::next_permutation(order).found);
}

}  // namespace
}  // namespace kvstow
