#include "server/core/client_plane.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "codec/crc32c.h"
#include "codec/plane.h"
#include "codec/testing/tiles.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvstow {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kTokens = 128, kDim = 64, kHeads = 2;
const double kNan = std::numeric_limits<double>::quiet_NaN();
const double kInfinity = std::numeric_limits<double>::infinity();

// A plane as a client sends it, and the space that it is of.
struct Sent {
  CodecSettings settings;
  RotaryEmbedding rotary = {.inverse_frequencies = std::vector<float>(kDim / 2, 0.01f)};
  PlaneSpec spec;
  std::vector<std::byte> bytes;
  PlaneDeclaration declared;
  QualityReport report;  // of the encoder

  // As an honest client does: what it encodes is what `settings` ask for.
  void Encode(std::span<const std::byte> values) {
    spec.raw_bytes = values.size();
    const RotaryTable table(RotaryOffsets(rotary, kTokens), 256);
    PlaneEncodeJobs jobs = MakeEncodeJobs(spec, settings, &table, values);
    ASSERT_TRUE(CpuCodec()->Encode(std::span(jobs.jobs)).ok());
    const EncodedPlane plane = AssemblePlane(spec, jobs);
    bytes.assign(plane.bytes.begin(), plane.bytes.end());
    report = plane.report;
    declared.tiles.clear();
    for (const TileEncodeJob& job : jobs.jobs) declared.tiles.push_back(job.report.sums);
    if (IsVerbatim(spec, settings)) declared.tiles.clear();
    Seal();
  }
  void Seal() { declared.crc32c = Crc32c(bytes); }

  std::optional<PlaneFinding> Find(uint64_t sample = 0, QualityReport* found = nullptr) {
    if (auto f = FindFaultInSize(spec, settings, bytes.size(), declared)) return f;
    const RotaryTable table(RotaryOffsets(rotary, kTokens), 256);
    QualityReport unused;
    return FindFault(
        {&spec, &settings, spec.rotary == nullptr ? nullptr : &table, bytes, &declared},
        *CpuCodec(), sample, found == nullptr ? &unused : found);
  }
};

Sent OfSpace(CodecId codec, PlaneKind kind, DType dtype = DType::kFp16, double bound = 0) {
  Sent sent;
  sent.settings.codec = codec;
  sent.settings.max_relative_error = bound;
  sent.spec = {
      .layer = 3, .kind = kind, .dtype = dtype, .heads = kHeads, .tokens = kTokens, .dim = kDim};
  return sent;
}

std::vector<std::byte> TwoTiles(const std::vector<std::byte>& tile) {
  std::vector<std::byte> values = tile;
  values.insert(values.end(), tile.begin(), tile.end());
  return values;
}

// K of a space without a bound, of tiles that look like KV.
Sent Honest(CodecId codec = CodecId::kEOptShrinkQ, double bound = 0) {
  Sent sent = OfSpace(codec, PlaneKind::kK, DType::kFp16, bound);
  sent.Encode(TwoTiles(testing::ContextTile({kTokens, kDim, DType::kFp16}, 4, 1).bytes));
  return sent;
}

std::string Say(const std::optional<PlaneFinding>& f) {
  return f ? std::string(Name(f->fault)) + ": " + f->what : "fine";
}

void ExpectFault(Sent& sent, PlaneFault fault, const std::string& words, uint64_t sample = 0) {
  const auto found = sent.Find(sample);
  ASSERT_TRUE(found) << "should be " << Name(fault) << ", " << words;
  EXPECT_EQ(found->fault, fault) << Say(found);
  EXPECT_THAT(found->what, HasSubstr(words));
}

// Whatever an encoder writes passes, and counts as the encoder counted it.
TEST(ClientPlane, WhatTheCodecWritesPasses) {
  size_t planes = 0;
  for (DType dtype : {DType::kFp16, DType::kBf16, DType::kFp32}) {
    for (const auto& [name, tile] : testing::AdversarialTiles({kTokens, kDim, dtype})) {
      for (CodecId codec : {CodecId::kRaw, CodecId::kTurboQuant, CodecId::kEOptShrinkQ}) {
        for (PlaneKind kind : {PlaneKind::kK, PlaneKind::kV}) {
          for (double bound : {0.0, 0.02}) {
            Sent sent = OfSpace(codec, kind, dtype, bound);
            if (kind == PlaneKind::kK) sent.spec.rotary = &sent.rotary;
            sent.Encode(TwoTiles(tile.bytes));
            QualityReport report;
            const auto found = sent.Find(planes, &report);
            ASSERT_FALSE(found) << name << " " << Name(dtype) << " " << Say(found);
            EXPECT_EQ(report.tiles, sent.report.tiles);
            EXPECT_EQ(report.tiles_raw, sent.report.tiles_raw) << name;
            EXPECT_EQ(report.rank_sum, sent.report.rank_sum);
            EXPECT_EQ(report.rank_max, sent.report.rank_max);
            EXPECT_EQ(report.bytes, sent.report.bytes);
            EXPECT_EQ(report.entries, sent.report.entries);
            if (codec != CodecId::kRaw) {
              EXPECT_EQ(report.sums.error, sent.report.sums.error);
              EXPECT_EQ(report.worst_centred_nmse, sent.report.worst_centred_nmse);
            }
            ++planes;
          }
        }
      }
    }
  }
  EXPECT_GT(planes, 300u);
}

TEST(ClientPlane, TilesThatAreNotFinitePassWithoutSums) {
  auto values = testing::ContextTile({kTokens, kDim, DType::kFp16}, 4, 1).bytes;
  values[1] = std::byte{0x7e};  // NaN
  Sent sent = OfSpace(CodecId::kEOptShrinkQ, PlaneKind::kV);
  sent.Encode(TwoTiles(values));
  EXPECT_FALSE(sent.Find()) << Say(sent.Find());
  sent.declared.tiles[0] = {.energy = 5, .inner_product = 5};
  ExpectFault(sent, PlaneFault::kDeclaration, "decodes to an energy of");
}

TEST(ClientPlane, OpaqueBytesNeedTheirChecksum) {
  Sent sent;
  sent.spec = {.layer = 1, .kind = PlaneKind::kOpaque, .raw_bytes = 100};
  sent.bytes.assign(100, std::byte{7});
  sent.Seal();
  EXPECT_FALSE(sent.Find());
  sent.bytes[99] = std::byte{8};
  ExpectFault(sent, PlaneFault::kChecksum, "declared is");
  sent.bytes.push_back(std::byte{0});
  ExpectFault(sent, PlaneFault::kStructure, "101 bytes; encoded it takes 100 to 100");
}

TEST(ClientPlane, EveryFlippedByteFailsTheChecksum) {
  Sent sent = Honest();
  for (size_t at = 0; at < sent.bytes.size(); at += 97) {
    sent.bytes[at] ^= std::byte{1};
    ExpectFault(sent, PlaneFault::kChecksum, "CRC32C");
    sent.bytes[at] ^= std::byte{1};
  }
}

// From here on the checksum is right: the client means what it sends.
TEST(ClientPlane, Structure) {
  Sent sent = Honest();
  sent.bytes.resize(sent.bytes.size() - 16);
  sent.Seal();
  ExpectFault(sent, PlaneFault::kStructure, "tiles run past its end");
  sent.bytes.resize(sent.bytes.size() + 32);
  sent.Seal();
  ExpectFault(sent, PlaneFault::kStructure, "bytes left after its tiles");
  sent.bytes.resize(17);
  ExpectFault(sent, PlaneFault::kStructure, "17 bytes; encoded it takes");
  sent.bytes.resize(sent.spec.raw_bytes + 1000);
  ExpectFault(sent, PlaneFault::kStructure, "encoded it takes");
  sent = Honest();
  sent.bytes[4 * kHeads] = std::byte{1};
  sent.Seal();
  ExpectFault(sent, PlaneFault::kStructure, "padding of the tile table is not zero");
  sent = Honest();
  sent.bytes[0] = std::byte{0x72};
  sent.Seal();
  ExpectFault(sent, PlaneFault::kStructure, "tile mode 2 is unknown");
}

TEST(ClientPlane, Settings) {
  // What one space's settings make is not what another's allow.
  Sent sent = Honest(CodecId::kEOptShrinkQ);
  sent.settings.codec = CodecId::kTurboQuant;
  ExpectFault(sent, PlaneFault::kSettings, "codec turboquant");
  sent = Honest();
  sent.settings.k_bits = 3;
  ExpectFault(sent, PlaneFault::kSettings, "2 bits; the space's settings allow 3 to 3");
  sent = Honest();
  sent.settings.k_bits = 1;
  ExpectFault(sent, PlaneFault::kSettings, "2 bits; the space's settings allow 1 to 1");
  sent.settings.max_relative_error = 0.5;
  EXPECT_FALSE(sent.Find()) << "a bound allows more bits: " << Say(sent.Find());
  sent = Honest();
  sent.spec.rotary = &sent.rotary;
  ExpectFault(sent, PlaneFault::kSettings, "not undone");
  sent.Encode(TwoTiles(testing::ContextTile({kTokens, kDim, DType::kFp16}, 4, 1).bytes));
  EXPECT_FALSE(sent.Find()) << Say(sent.Find());
  sent.settings.undo_rotary = false;
  ExpectFault(sent, PlaneFault::kSettings, "settings keep it");
  sent.spec.rotary = nullptr;
  ExpectFault(sent, PlaneFault::kStructure, "declares no rotary");
}

TEST(ClientPlane, CodedTilesHaveNoPlaceInARawSpace) {
  Sent sent = OfSpace(CodecId::kRaw, PlaneKind::kV);
  sent.Encode(TwoTiles(testing::ContextTile({kTokens, kDim, DType::kFp16}, 4, 1).bytes));
  EXPECT_FALSE(sent.Find()) << Say(sent.Find());
  sent.declared.tiles.resize(kHeads);
  ExpectFault(sent, PlaneFault::kDeclaration, "sums of 2 tiles; declare 0");
  Sent coded = Honest();
  coded.settings.codec = CodecId::kRaw;
  coded.declared.tiles.clear();
  ExpectFault(coded, PlaneFault::kStructure, "encoded it takes");
}

TEST(ClientPlane, Declarations) {
  struct Lie {
    const char* name;
    std::function<void(ErrorSums&)> tell;
  };
  const std::vector<Lie> lies = {
      {"NaN", [](ErrorSums& s) { s.error = kNan; }},
      {"NaN", [](ErrorSums& s) { s.inner_product = kNan; }},
      {"infinite", [](ErrorSums& s) { s.energy = kInfinity; }},
      {"infinite", [](ErrorSums& s) { s.inner_product = -kInfinity; }},
      {"negative", [](ErrorSums& s) { s.error = -1; }},
      {"negative", [](ErrorSums& s) { s.centred_energy = -1e-9; }},
      {"more than the dtype holds",
       [](ErrorSums& s) {
         s = {1e30, 0, 0, 0, 1e30};
       }},
      {"centred above plain", [](ErrorSums& s) { s.centred_energy = 2 * s.energy; }},
      {"centred above plain", [](ErrorSums& s) { s.centred_error = 2 * s.error; }},
      {"an error of nothing", [](ErrorSums& s) { s.energy = s.centred_energy = 0; }},
      {"no energy left", [](ErrorSums& s) { s.inner_product = 0.4 * s.energy; }},
      {"beyond Cauchy and Schwarz", [](ErrorSums& s) {
         s.error = 0.01 * s.energy;
         s.centred_error = 0;
         s.inner_product = 2 * s.energy;
       }}};
  for (const Lie& lie : lies) {
    SCOPED_TRACE(lie.name);
    Sent sent = Honest();
    lie.tell(sent.declared.tiles[1]);
    ExpectFault(sent, PlaneFault::kDeclaration, "tile 1: sums that no tile can have");
  }
  Sent sent = Honest();
  sent.declared.tiles.pop_back();
  ExpectFault(sent, PlaneFault::kDeclaration, "sums of 1 tiles; declare 2");
}

// Sums that agree with themselves and not with what is stored.
TEST(ClientPlane, TheTileThatIsDecodedMustHaveTheEnergy) {
  Sent sent = Honest();
  ErrorSums& s = sent.declared.tiles[1];
  for (double* x : {&s.energy, &s.error, &s.centred_energy, &s.centred_error, &s.inner_product}) {
    *x *= 1.1;
  }
  ExpectFault(sent, PlaneFault::kDeclaration, "tile 1: it decodes to an energy of", 1);
  EXPECT_FALSE(sent.Find(0)) << "of the other tile nothing is known: " << Say(sent.Find(0));
  EXPECT_TRUE(sent.Find(12345)) << "any number chooses a tile";
}

TEST(ClientPlane, RawTilesHaveNoError) {
  Sent sent = Honest(CodecId::kEOptShrinkQ, 1e-9);  // which nothing meets
  ASSERT_EQ(sent.report.tiles_raw, kHeads);
  EXPECT_FALSE(sent.Find()) << Say(sent.Find());
  sent.declared.tiles[0].error = 1e-12;
  ExpectFault(sent, PlaneFault::kDeclaration, "an error of a tile that is kept raw");
}

TEST(ClientPlane, TheBoundIsMetTileByTile) {
  Sent sent = Honest();
  const double error = sent.declared.tiles[1].centred_nmse();
  sent.settings.max_relative_error = error / 2;
  ExpectFault(sent, PlaneFault::kBound, "Code it with more bits, or keep it raw");
  sent.settings.max_relative_error = error * 1.01;
  EXPECT_FALSE(sent.Find()) << Say(sent.Find());
  // K by its centred error, V by the plain one.
  sent.spec.kind = PlaneKind::kV;
  sent.settings.v_bits = sent.settings.k_bits;
  sent.declared.tiles[0].centred_error = sent.declared.tiles[0].error;
  sent.settings.max_relative_error = sent.declared.tiles[0].nmse() * 0.99;
  ExpectFault(sent, PlaneFault::kBound, "tile 0: a relative error of");
}

}  // namespace
}  // namespace kvstow
