// What every Codec has to do, as a parameterised GoogleTest suite. A twin adds one file:
//
//   #include "codec/codec_conformance.h"
//   INSTANTIATE_TEST_SUITE_P(Cuda, CodecConformance, ::testing::Values(CodecUnderTest{"cuda",
//   Make}),
//                            CodecUnderTest::NameOf);
//
// where Make returns a Codec*, or null where the machine has no such device (the tests then skip).
// The portable CPU codec is the oracle.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "codec/codec.h"
#include "codec/testing/tiles.h"
#include "gtest/gtest.h"

namespace kvstow {

struct CodecUnderTest {
  std::string name;
  Codec* (*make)();

  static std::string NameOf(const ::testing::TestParamInfo<CodecUnderTest>& info) {
    return info.param.name;
  }
  // Without it test runners print the bytes, addresses among them.
  friend void PrintTo(const CodecUnderTest& codec, std::ostream* out) { *out << codec.name; }
};

class CodecConformance : public ::testing::TestWithParam<CodecUnderTest> {
 protected:
  static constexpr uint32_t kDims[] = {64, 80, 96, 112, 128, 192, 256, 576};
  static constexpr uint32_t kTokens[] = {128, 256, 512};
  static constexpr DType kDTypes[] = {DType::kFp16, DType::kBf16, DType::kFp32};

  void SetUp() override {
    codec_ = GetParam().make();
    if (codec_ == nullptr) GTEST_SKIP() << "this machine cannot run " << GetParam().name;
  }

  static Codec& Oracle() { return *CpuCodec(CpuIsa::kPortable); }

  static std::string Describe(const TileShape& s) {
    return std::to_string(s.tokens) + "x" + std::to_string(s.dim) + " " +
           std::string(Name(s.dtype));
  }

  // max(1 ulp, 2^-18 of the row's RMS).
  static void ExpectAgree(const TileShape& shape, const std::vector<std::byte>& a,
                          const std::vector<std::byte>& b) {
    const auto x = testing::FromElements(a, shape.dtype);
    const auto y = testing::FromElements(b, shape.dtype);
    for (size_t t = 0; t < shape.tokens; ++t) {
      double squares = 0;
      for (size_t c = 0; c < shape.dim; ++c) squares += std::pow(x[t * shape.dim + c], 2);
      const double floor = 0x1p-18 * std::sqrt(squares / shape.dim);
      for (size_t i = t * shape.dim; i < (t + 1) * shape.dim; ++i) {
        const double larger = std::max(std::abs(x[i]), std::abs(y[i]));
        ASSERT_LE(std::abs(x[i] - y[i]), std::max(floor, testing::UlpAt(larger, shape.dtype)))
            << "row " << t << " channel " << i % shape.dim << ": " << x[i] << " and " << y[i];
      }
    }
  }

  static void ExpectClose(double got, double expected, double relative, double floor,
                          const char* what) {
    EXPECT_NEAR(got, expected, relative * std::abs(expected) + floor) << what;
  }

  // The report is what the decoder gives back.
  static void ExpectReportIsTrue(const testing::Tile& tile, const testing::EncodedTile& encoded,
                                 const std::vector<std::byte>& decoded) {
    const ErrorSums truth = testing::MeasureInDouble(tile, decoded);
    const ErrorSums& got = encoded.report.sums;
    ExpectClose(got.energy, truth.energy, 1e-5, 0, "energy");
    ExpectClose(got.error, truth.error, 1e-4, 1e-12 * truth.energy, "error");
    ExpectClose(got.centred_energy, truth.centred_energy, 1e-4, 1e-11 * truth.energy,
                "centred energy");
    ExpectClose(got.centred_error, truth.centred_error, 1e-4, 1e-11 * truth.energy,
                "centred error");
    ExpectClose(got.inner_product, truth.inner_product, 1e-5, 0, "inner product");
    for (double v : testing::FromElements(decoded, tile.shape.dtype)) ASSERT_TRUE(std::isfinite(v));
  }

  // Both codecs encode; each decodes what either wrote.
  void ExpectTwins(const testing::Tile& tile, const TileEncodeOptions& options,
                   const RotaryTable* rotary = nullptr) {
    SCOPED_TRACE(Describe(tile.shape) + " codec " +
                 std::to_string(static_cast<int>(options.codec)) + " bits " +
                 std::to_string(options.bits));
    const auto mine = testing::EncodeOne(*codec_, tile.shape, tile.bytes, options, rotary);
    const auto other = testing::EncodeOne(Oracle(), tile.shape, tile.bytes, options, rotary);
    const auto decoded = testing::DecodeOne(*codec_, tile.shape, mine, rotary);
    ExpectReportIsTrue(tile, mine, decoded);
    ExpectAgree(tile.shape, decoded, testing::DecodeOne(Oracle(), tile.shape, mine, rotary));
    ExpectAgree(tile.shape, testing::DecodeOne(*codec_, tile.shape, other, rotary),
                testing::DecodeOne(Oracle(), tile.shape, other, rotary));
    EXPECT_EQ(mine.head.mode, other.head.mode);
    EXPECT_EQ(mine.head.rank, other.head.rank);
    EXPECT_EQ(mine.head.exponent, other.head.exponent);
    EXPECT_EQ(mine.report.rank, mine.head.rank);
    EXPECT_EQ(mine.report.bits, mine.head.bits);
    ExpectClose(mine.report.sums.nmse(), other.report.sums.nmse(), 0.01, 1e-9, "nmse");
  }

  static TileEncodeOptions Options(CodecId codec, uint32_t bits, bool key_like) {
    TileEncodeOptions options;
    options.codec = codec;
    options.bits = bits;
    options.key_like = key_like;
    return options;
  }

  static RotaryEmbedding Embedding(uint32_t pairs, uint32_t offset,
                                   RotaryEmbedding::Pairing pairing) {
    RotaryEmbedding rotary;
    for (uint32_t i = 0; i < pairs; ++i) {
      rotary.inverse_frequencies.push_back(
          static_cast<float>(std::pow(10000.0, -static_cast<double>(i) / pairs)));
    }
    rotary.offset = offset;
    rotary.pairing = pairing;
    return rotary;
  }

  Codec* codec_ = nullptr;
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CodecConformance);

TEST_P(CodecConformance, HandlesEveryShapeAndType) {
  for (uint32_t dim : kDims) {
    for (uint32_t tokens : kTokens) {
      for (DType dtype : kDTypes) {
        // One dtype is enough for the largest shapes.
        if (size_t{dim} * tokens > 65536 && dtype != DType::kFp16) continue;
        const auto tile = testing::ContextTile({tokens, dim, dtype}, 3, dim + tokens);
        ExpectTwins(tile, Options(CodecId::kEOptShrinkQ, 2, false));
      }
    }
  }
}

TEST_P(CodecConformance, HandlesEveryCodecAndBits) {
  for (uint32_t dim : kDims) {
    const auto tile = testing::ContextTile({128, dim, DType::kFp16}, 4, dim);
    for (uint32_t bits = 1; bits <= 4; ++bits) {
      ExpectTwins(tile, Options(CodecId::kTurboQuant, bits, true));
      ExpectTwins(tile, Options(CodecId::kEOptShrinkQ, bits, true));
    }
    ExpectTwins(tile, Options(CodecId::kRaw, 2, true));
  }
}

TEST_P(CodecConformance, HandlesSettingsOfTheLowRankPart) {
  const auto tile = testing::ContextTile({128, 128, DType::kBf16}, 5, 1);
  for (Shrinker shrinker : {Shrinker::kOptimal, Shrinker::kTruncate}) {
    for (bool closed_loop : {false, true}) {
      TileEncodeOptions options = Options(CodecId::kEOptShrinkQ, 2, true);
      options.shrinker = shrinker;
      options.closed_loop = closed_loop;
      ExpectTwins(tile, options);
    }
  }
}

TEST_P(CodecConformance, FindsTheRankOfTheContext) {
  for (uint32_t dim : {64u, 128u, 576u}) {
    for (uint32_t rank : {0u, 1u, 3u, 6u}) {
      const auto tile = testing::ContextTile({128, dim, DType::kFp32}, rank, rank);
      const auto encoded = testing::EncodeOne(*codec_, tile.shape, tile.bytes,
                                              Options(CodecId::kEOptShrinkQ, 2, false));
      EXPECT_EQ(encoded.head.rank, rank) << "dim " << dim;
    }
  }
}

TEST_P(CodecConformance, DistortionOfGaussianRowsIsThatOfTheCodebook) {
  const double expected[] = {.3609, .1160, .0340, .0093};
  const auto tile = testing::ContextTile({512, 128, DType::kFp32}, 0, 3);
  for (uint32_t bits = 1; bits <= 4; ++bits) {
    const auto encoded = testing::EncodeOne(*codec_, tile.shape, tile.bytes,
                                            Options(CodecId::kTurboQuant, bits, false));
    EXPECT_NEAR(encoded.report.sums.nmse() / expected[bits - 1], 1, 0.02) << bits << " bits";
  }
}

TEST_P(CodecConformance, IsDeterministicAndBlindToTheBatch) {
  const TileShape shape{128, 128, DType::kFp16};
  std::vector<testing::Tile> tiles;
  std::vector<testing::EncodedTile> alone;
  const TileEncodeOptions options = Options(CodecId::kEOptShrinkQ, 2, true);
  for (uint32_t i = 0; i < 9; ++i) {
    tiles.push_back(testing::ContextTile(shape, i % 5, i));
    alone.push_back(testing::EncodeOne(*codec_, shape, tiles.back().bytes, options));
  }
  std::vector<std::vector<std::byte>> bodies(tiles.size());
  std::vector<TileEncodeJob> jobs(tiles.size());
  for (size_t i = 0; i < jobs.size(); ++i) {
    const size_t from = jobs.size() - 1 - i;
    bodies[i].resize(MaxTileBodyBytes(shape));
    jobs[i].shape = shape;
    jobs[i].values = tiles[from].bytes.data();
    jobs[i].row_stride = shape.dim * 2;
    jobs[i].options = options;
    jobs[i].body = bodies[i].data();
  }
  ASSERT_TRUE(codec_->Encode(std::span(jobs)).ok());
  for (size_t i = 0; i < jobs.size(); ++i) {
    const auto& expected = alone[jobs.size() - 1 - i];
    EXPECT_EQ(jobs[i].head, expected.head);
    bodies[i].resize(TileBodyBytes(shape, jobs[i].head));
    EXPECT_EQ(bodies[i], expected.body);
  }
}

TEST_P(CodecConformance, KeepsNonFiniteTilesBitForBit) {
  for (DType dtype : kDTypes) {
    for (double bad :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      auto tile = testing::ContextTile({128, 128, dtype}, 2, 5);
      tile.values[77 * 128 + 5] = bad;
      tile.bytes = testing::ToElements(tile.values, dtype);
      const auto encoded = testing::EncodeOne(*codec_, tile.shape, tile.bytes,
                                              Options(CodecId::kEOptShrinkQ, 2, true));
      EXPECT_EQ(encoded.head.mode, TileMode::kRaw);
      EXPECT_TRUE(encoded.report.raw);
      EXPECT_EQ(testing::DecodeOne(*codec_, tile.shape, encoded), tile.bytes);
    }
  }
}

TEST_P(CodecConformance, SurvivesAdversarialTiles) {
  for (DType dtype : kDTypes) {
    for (uint32_t dim : {64u, 128u, 192u}) {
      for (const auto& [name, tile] : testing::AdversarialTiles({128, dim, dtype})) {
        SCOPED_TRACE(name + " " + Describe(tile.shape));
        for (CodecId codec : {CodecId::kTurboQuant, CodecId::kEOptShrinkQ}) {
          const auto encoded =
              testing::EncodeOne(*codec_, tile.shape, tile.bytes, Options(codec, 4, true));
          const auto decoded = testing::DecodeOne(*codec_, tile.shape, encoded);
          ExpectReportIsTrue(tile, encoded, decoded);
          ExpectAgree(tile.shape, decoded, testing::DecodeOne(Oracle(), tile.shape, encoded));
          EXPECT_LE(encoded.report.sums.nmse(),
                    name == "least subnormal" || name == "tiny" ? 0.3 : 0.03);
        }
      }
    }
  }
}

// As many tiles as fill a device, every other one of them bad: none changes what its neighbours
// become, there or back.
TEST_P(CodecConformance, AdversarialTilesAmongManyHarmNobody) {
  constexpr size_t kTiles = 2048;
  const TileShape shape{128, 128, DType::kFp16};
  auto kinds = testing::AdversarialTiles(shape);
  for (double bad : {std::numeric_limits<double>::quiet_NaN(), HUGE_VAL, -HUGE_VAL}) {
    auto tile = testing::ContextTile(shape, 2, 5);
    tile.values[77 * 128 + 5] = bad;
    tile.bytes = testing::ToElements(tile.values, shape.dtype);
    kinds.push_back({"not finite", std::move(tile)});
  }
  for (uint32_t i = 0, bad = kinds.size(); i < bad; ++i) {
    kinds.push_back({"ordinary", testing::ContextTile(shape, i % 5, i)});
  }
  const TileEncodeOptions options = Options(CodecId::kEOptShrinkQ, 2, true);
  std::vector<testing::EncodedTile> alone;
  std::vector<std::vector<std::byte>> decoded;
  for (const auto& kind : kinds) {
    alone.push_back(testing::EncodeOne(*codec_, shape, kind.tile.bytes, options));
    decoded.push_back(testing::DecodeOne(*codec_, shape, alone.back()));
  }
  const auto kind_of = [&](size_t i) { return i * 7 % kinds.size(); };
  std::vector<std::vector<std::byte>> bodies(kTiles);
  std::vector<TileEncodeJob> jobs(kTiles);
  for (size_t i = 0; i < kTiles; ++i) {
    bodies[i].resize(MaxTileBodyBytes(shape));
    jobs[i].shape = shape;
    jobs[i].values = kinds[kind_of(i)].tile.bytes.data();
    jobs[i].row_stride = shape.dim * 2;
    jobs[i].options = options;
    jobs[i].body = bodies[i].data();
  }
  ASSERT_TRUE(codec_->Encode(std::span(jobs)).ok());
  std::vector<std::vector<std::byte>> outs(kTiles, std::vector<std::byte>(shape.bytes()));
  std::vector<TileDecodeJob> back(kTiles);
  for (size_t i = 0; i < kTiles; ++i) {
    SCOPED_TRACE(kinds[kind_of(i)].name);
    const auto& expected = alone[kind_of(i)];
    ASSERT_EQ(jobs[i].head, expected.head);
    bodies[i].resize(TileBodyBytes(shape, jobs[i].head));
    ASSERT_EQ(bodies[i], expected.body);
    back[i].shape = shape;
    back[i].head = jobs[i].head;
    back[i].body = bodies[i].data();
    back[i].values = outs[i].data();
    back[i].row_stride = shape.dim * 2;
  }
  ASSERT_TRUE(codec_->Decode(std::span(back)).ok());
  for (size_t i = 0; i < kTiles; ++i) {
    ASSERT_EQ(outs[i], decoded[kind_of(i)]) << kinds[kind_of(i)].name;
  }
}

TEST_P(CodecConformance, GivesZerosBackExactly) {
  const testing::Tile tile =
      testing::MakeTile({128, 96, DType::kFp16}, std::vector<double>(128 * 96));
  const auto encoded =
      testing::EncodeOne(*codec_, tile.shape, tile.bytes, Options(CodecId::kEOptShrinkQ, 2, true));
  EXPECT_EQ(encoded.head.mode, TileMode::kCoded);
  EXPECT_EQ(encoded.head.rank, 0);
  EXPECT_EQ(testing::DecodeOne(*codec_, tile.shape, encoded), tile.bytes);
  EXPECT_EQ(encoded.report.sums.nmse(), 0);
  EXPECT_EQ(encoded.report.sums.centred_nmse(), 0);
}

TEST_P(CodecConformance, HonoursTheErrorBound) {
  const auto tile = testing::ContextTile({128, 128, DType::kFp16}, 0, 11);
  const struct {
    double bound;
    uint32_t bits;
  } cases[] = {{0.2, 2}, {0.05, 3}, {0.015, 4}, {0.001, 0}};
  for (const auto& [bound, bits] : cases) {
    for (bool key_like : {false, true}) {
      TileEncodeOptions options = Options(CodecId::kEOptShrinkQ, 2, key_like);
      options.max_relative_error = bound;
      const auto encoded = testing::EncodeOne(*codec_, tile.shape, tile.bytes, options);
      EXPECT_EQ(encoded.head.bits, bits) << "bound " << bound;
      EXPECT_EQ(encoded.report.raw, bits == 0);
      const ErrorSums truth =
          testing::MeasureInDouble(tile, testing::DecodeOne(*codec_, tile.shape, encoded));
      EXPECT_LE(key_like ? truth.centred_nmse() : truth.nmse(), bound);
    }
  }
}

TEST_P(CodecConformance, TakesStridedRowsAndWritesNothingBetween) {
  const auto tile = testing::ContextTile({128, 80, DType::kFp16}, 2, 4);
  constexpr size_t kRowBytes = 160;
  constexpr size_t kStride = 200;
  std::vector<std::byte> strided(128 * kStride, std::byte{0x55});
  for (size_t t = 0; t < 128; ++t) {
    std::memcpy(strided.data() + t * kStride, tile.bytes.data() + t * kRowBytes, kRowBytes);
  }
  for (CodecId id : {CodecId::kRaw, CodecId::kEOptShrinkQ}) {
    const TileEncodeOptions options = Options(id, 2, true);
    const auto dense = testing::EncodeOne(*codec_, tile.shape, tile.bytes, options);
    TileEncodeJob job;
    job.shape = tile.shape;
    job.values = strided.data();
    job.row_stride = kStride;
    job.options = options;
    std::vector<std::byte> body(MaxTileBodyBytes(tile.shape));
    job.body = body.data();
    ASSERT_TRUE(codec_->Encode({&job, 1}).ok());
    body.resize(TileBodyBytes(job.shape, job.head));
    EXPECT_EQ(body, dense.body);

    std::vector<std::byte> out(128 * kStride, std::byte{0x55});
    TileDecodeJob decode;
    decode.shape = tile.shape;
    decode.head = job.head;
    decode.body = body.data();
    decode.values = out.data();
    decode.row_stride = kStride;
    ASSERT_TRUE(codec_->Decode({&decode, 1}).ok());
    const auto expected = testing::DecodeOne(*codec_, tile.shape, dense);
    for (size_t t = 0; t < 128; ++t) {
      EXPECT_EQ(std::memcmp(out.data() + t * kStride, expected.data() + t * kRowBytes, kRowBytes),
                0);
      for (size_t i = kRowBytes; i < kStride; ++i) {
        ASSERT_EQ(out[t * kStride + i], std::byte{0x55});
      }
    }
  }
}

TEST_P(CodecConformance, UndoesRotaryEmbeddings) {
  const struct {
    uint32_t dim, pairs, offset;
    RotaryEmbedding::Pairing pairing;
  } cases[] = {{128, 64, 0, RotaryEmbedding::Pairing::kHalf},
               {128, 64, 0, RotaryEmbedding::Pairing::kInterleaved},
               {128, 32, 0, RotaryEmbedding::Pairing::kHalf},
               {80, 5, 7, RotaryEmbedding::Pairing::kHalf},
               {80, 5, 7, RotaryEmbedding::Pairing::kInterleaved},
               {576, 32, 512, RotaryEmbedding::Pairing::kInterleaved}};
  for (const auto& c : cases) {
    for (uint64_t position : {uint64_t{0}, uint64_t{1000000}}) {
      SCOPED_TRACE("dim " + std::to_string(c.dim) + " pairs " + std::to_string(c.pairs));
      const RotaryEmbedding rotary = Embedding(c.pairs, c.offset, c.pairing);
      const RotaryOffsets offsets(rotary, 128);
      const RotaryTable table(offsets, position);
      const auto tile = testing::ContextTile({128, c.dim, DType::kFp16}, 3, c.dim);
      ExpectTwins(tile, Options(CodecId::kEOptShrinkQ, 4, true), &table);
      const auto encoded = testing::EncodeOne(*codec_, tile.shape, tile.bytes,
                                              Options(CodecId::kEOptShrinkQ, 4, true), &table);
      EXPECT_TRUE(encoded.head.rotary_undone);
      EXPECT_LE(encoded.report.sums.nmse(), 0.02);
    }
  }
}

TEST_P(CodecConformance, FindsContextBehindTheRotaryEmbedding) {
  // One direction for all tokens before rotation.
  const RotaryEmbedding rotary = Embedding(64, 0, RotaryEmbedding::Pairing::kHalf);
  const RotaryTable table(RotaryOffsets(rotary, 128), 4096);
  const auto noise = testing::ContextTile({128, 128, DType::kFp32}, 0, 9);
  std::vector<double> values = noise.values;
  for (size_t t = 0; t < 128; ++t) {
    for (size_t i = 0; i < 64; ++i) {
      const double angle = (4096.0 + static_cast<double>(t)) * rotary.inverse_frequencies[i];
      values[t * 128 + i] += 8 * std::cos(angle);
      values[t * 128 + 64 + i] += 8 * std::sin(angle);
    }
  }
  const auto tile = testing::MakeTile(noise.shape, values);
  const auto options = Options(CodecId::kEOptShrinkQ, 2, false);
  const auto kept = testing::EncodeOne(*codec_, tile.shape, tile.bytes, options);
  const auto undone = testing::EncodeOne(*codec_, tile.shape, tile.bytes, options, &table);
  EXPECT_EQ(undone.head.rank, 1);
  EXPECT_GT(kept.head.rank, 1);
  EXPECT_LT(undone.report.sums.nmse(), kept.report.sums.nmse());
}

TEST_P(CodecConformance, DecodesAnyBytesToFiniteValues) {
  std::mt19937_64 random(1);
  for (DType dtype : kDTypes) {
    for (int i = 0; i < 20; ++i) {
      const TileShape shape{128, kDims[static_cast<size_t>(i) % 8], dtype};
      testing::EncodedTile tile;
      tile.head.mode = TileMode::kCoded;
      tile.head.bits = static_cast<uint8_t>(1 + i % 4);
      tile.head.rank = static_cast<uint8_t>(random() % (kMaxRank + 1));
      tile.head.exponent = static_cast<int8_t>(random());
      tile.head.has_means = i % 2 == 0;
      tile.body.resize(TileBodyBytes(shape, tile.head));
      for (std::byte& b : tile.body) b = static_cast<std::byte>(random());
      for (double v : testing::FromElements(testing::DecodeOne(*codec_, shape, tile), dtype)) {
        ASSERT_TRUE(std::isfinite(v));
      }
    }
  }
}

TEST_P(CodecConformance, RefusesWhatItCannotDo) {
  const auto tile = testing::ContextTile({128, 128, DType::kFp16}, 0, 1);
  std::vector<std::byte> body(MaxTileBodyBytes(tile.shape));
  TileEncodeJob good;
  good.shape = tile.shape;
  good.values = tile.bytes.data();
  good.row_stride = 256;
  good.body = body.data();
  const auto refuses = [&](auto change) {
    TileEncodeJob job = good;
    change(job);
    EXPECT_EQ(codec_->Encode({&job, 1}).code(), absl::StatusCode::kInvalidArgument);
  };
  refuses([](TileEncodeJob& j) { j.shape.dim = 100; });
  refuses([](TileEncodeJob& j) { j.shape.tokens = 100; });
  refuses([](TileEncodeJob& j) { j.shape.dtype = static_cast<DType>(9); });
  refuses([](TileEncodeJob& j) { j.options.bits = 5; });
  refuses([](TileEncodeJob& j) { j.options.bits = 0; });
  refuses([](TileEncodeJob& j) { j.options.max_relative_error = -1; });
  refuses([](TileEncodeJob& j) { j.body = nullptr; });
  const RotaryEmbedding wide = Embedding(65, 0, RotaryEmbedding::Pairing::kHalf);
  const RotaryTable table(RotaryOffsets(wide, 128), 0);
  refuses([&](TileEncodeJob& j) { j.rotary = &table; });
  const RotaryTable empty(RotaryOffsets(Embedding(0, 0, RotaryEmbedding::Pairing::kHalf), 128), 0);
  refuses([&](TileEncodeJob& j) { j.rotary = &empty; });
  TileDecodeJob decode;
  decode.shape = tile.shape;
  decode.head.mode = TileMode::kCoded;
  decode.head.bits = 2;
  decode.head.rotary_undone = true;
  decode.body = body.data();
  decode.values = body.data();
  EXPECT_EQ(codec_->Decode({&decode, 1}).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace kvstow
