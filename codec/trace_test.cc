// What the codec makes of the real trace: every stored byte counted, pooled over all tiles.
#include <cstdio>
#include <cstring>
#include <random>

#include "codec/record.h"
#include "codec/testing/tiles.h"
#include "codec/testing/trace.h"
#include "gtest/gtest.h"

namespace kvstow {
namespace {

using ::kvstow::testing::Trace;

struct Setting {
  const char* name;
  CodecSettings codec;
};

struct Outcome {
  QualityReport k, v;
  double bits = 0;  // of the whole records
};

SpaceSpec SpecOf(const Trace& trace, const CodecSettings& codec) {
  SpaceSpec spec;
  spec.model = {"trace", "1", "0"};
  spec.block_tokens = 128;
  LayerGroup group;
  group.layers = trace.layers();
  group.kv_heads = Trace::kHeads;
  group.k_dim = group.v_dim = Trace::kDim;
  group.rotary = trace.rotary();
  spec.groups = {group};
  spec.codec = codec;
  return spec;
}

std::vector<std::byte> PlaneValues(const Trace& trace, const PlaneSpec& plane, uint32_t token) {
  std::vector<std::byte> values;
  for (uint32_t head = 0; head < plane.heads; ++head) {
    const auto rows =
        trace.Rows(plane.kind == PlaneKind::kK, plane.layer, head, token, plane.tokens);
    values.insert(values.end(), rows.begin(), rows.end());
  }
  return values;
}

Outcome Measure(const Trace& trace, const CodecSettings& settings) {
  auto layout = PlaneLayout::Create(SpecOf(trace, settings), {});
  EXPECT_TRUE(layout.ok()) << layout.status();
  const uint32_t n = layout->spec().block_tokens;
  const RotaryOffsets offsets(trace.rotary(), n);
  const Fingerprint fingerprint = FingerprintOf(layout->spec());
  Outcome out;
  size_t bytes = 0, entries = 0;
  for (uint32_t token = 0; token + n <= Trace::kTokens; token += n) {
    const RotaryTable table(offsets, token);
    RecordBuilder builder(*layout, fingerprint, token);
    for (size_t i = 0; i < layout->planes().size(); ++i) {
      const PlaneSpec& plane = layout->planes()[i];
      auto encoded = EncodePlane(*CpuCodec(), plane, settings, plane.rotary ? &table : nullptr,
                                 PlaneValues(trace, plane, token));
      EXPECT_TRUE(encoded.ok()) << encoded.status();
      builder.SetPlane(i, *std::move(encoded));
    }
    bytes += builder.FinishContiguous().size();
    entries += layout->entries();
    out.k.Merge(builder.k_report());
    out.v.Merge(builder.v_report());
  }
  out.bits = 8.0 * static_cast<double>(bytes) / static_cast<double>(entries);
  return out;
}

CodecSettings Codec2(bool undo_rotary, bool closed_loop, Shrinker shrinker) {
  CodecSettings codec;
  codec.undo_rotary = undo_rotary;
  codec.closed_loop = closed_loop;
  codec.shrinker = shrinker;
  return codec;
}

Outcome MeasureAndPrint(const Trace& trace, const char* name, const CodecSettings& settings) {
  const Outcome o = Measure(trace, settings);
  std::printf("| %-38s | %.4f | %.5f | %.5f | %.5f | %.2f | %.2f |\n", name, o.bits,
              o.k.sums.nmse(), o.k.sums.centred_nmse(), o.v.sums.nmse(), o.k.rank_mean(),
              o.v.rank_mean());
  return o;
}

struct Limits {
  double k_kept, v, bits_kept, k_undone, bits_undone;
};

void ExpectQuality(const Trace& trace, const Limits& limits) {
  const auto truncate = Shrinker::kTruncate;
  std::printf(
      "| 2 bits, n = 128                        | bits   | K NMSE  | centred | V NMSE  | K r  "
      "| V r  |\n");
  const Outcome kept = MeasureAndPrint(trace, "closed loop", Codec2(false, true, truncate));
  const Outcome undone =
      MeasureAndPrint(trace, "closed loop, RoPE undone", Codec2(true, true, truncate));
  const Outcome open =
      MeasureAndPrint(trace, "open loop (baseline)", Codec2(false, false, truncate));
  const Outcome open_undone =
      MeasureAndPrint(trace, "open loop (baseline), RoPE undone", Codec2(true, false, truncate));
  MeasureAndPrint(trace, "closed loop, optimal shrinker", Codec2(false, true, Shrinker::kOptimal));
  MeasureAndPrint(trace, "same, RoPE undone", Codec2(true, true, Shrinker::kOptimal));
  CodecSettings turboquant = Codec2(false, true, truncate);
  turboquant.codec = CodecId::kTurboQuant;
  MeasureAndPrint(trace, "stage 2 alone", turboquant);

  EXPECT_LE(kept.k.sums.nmse(), limits.k_kept);
  EXPECT_LE(kept.v.sums.nmse(), limits.v);
  EXPECT_LE(kept.bits, limits.bits_kept);
  EXPECT_LE(undone.k.sums.nmse(), limits.k_undone);
  EXPECT_LE(undone.v.sums.nmse(), limits.v);
  EXPECT_LE(undone.bits, limits.bits_undone);
  EXPECT_GE(open.k.sums.nmse(), 1.8 * kept.k.sums.nmse());
  EXPECT_GE(open_undone.k.sums.nmse(), 3 * undone.k.sums.nmse());
}

TEST(Trace, QualityOfTheCut) {
  ExpectQuality(
      Trace::Cut(),
      {.k_kept = 0.039, .v = 0.080, .bits_kept = 2.36, .k_undone = 0.0216, .bits_undone = 2.38});
}

TEST(Trace, QualityOfTheFullTrace) {
  std::string why;
  const Trace* trace = Trace::Full(&why);
  if (trace == nullptr) GTEST_SKIP() << why;
  ExpectQuality(
      *trace,
      {.k_kept = 0.036, .v = 0.079, .bits_kept = 2.35, .k_undone = 0.016, .bits_undone = 2.38});
}

// Keys as models with large biases make them: three constant channels, up to 180 times the size of
// an ordinary one. Plain relative error does not see what happens to the others.
testing::Tile WithConstantChannels(const TileShape& shape, std::vector<double> values) {
  double energy = 0;
  for (double v : values) energy += v * v;
  const double typical = std::sqrt(energy / static_cast<double>(values.size()));
  for (size_t t = 0; t < shape.tokens; ++t) {
    values[t * shape.dim + 10] += 60 * typical;
    values[t * shape.dim + 51] -= 100 * typical;
    values[t * shape.dim + 100] += 180 * typical;
  }
  return testing::MakeTile(shape, std::move(values));
}

// Keys before their rotary embedding.
std::vector<double> RotateBack(const Trace& trace, std::vector<double> values, uint32_t token) {
  const RotaryTable table(RotaryOffsets(trace.rotary(), 128), token);
  for (size_t t = 0; t < 128; ++t) {
    for (size_t i = 0; i < 64; ++i) {
      const double cos = table.cos()[t * 64 + i], sin = table.sin()[t * 64 + i];
      double& a = values[t * 128 + i];
      double& b = values[t * 128 + 64 + i];
      const double x = a * cos + b * sin;
      b = b * cos - a * sin;
      a = x;
    }
  }
  return values;
}

struct KeyTile {
  double centred = 0;
  double bits = 0;
  bool has_means = false;
};

KeyTile EncodeKeys(const testing::Tile& tile) {
  TileEncodeOptions options;
  options.key_like = true;
  const auto encoded = testing::EncodeOne(*CpuCodec(), tile.shape, tile.bytes, options);
  const ErrorSums sums =
      testing::MeasureInDouble(tile, testing::DecodeOne(*CpuCodec(), tile.shape, encoded));
  return {sums.centred_nmse(),
          8.0 * static_cast<double>(encoded.body.size() + kTileHeadBytes) /
              static_cast<double>(tile.shape.entries()),
          encoded.report.has_means};
}

TEST(Trace, ConstantChannelsDoNotHideTheKeys) {
  const Trace& trace = Trace::Cut();
  const TileShape shape{128, Trace::kDim, DType::kFp16};
  for (uint32_t layer : trace.layers()) {
    const auto rows = testing::FromElements(trace.Rows(true, layer, 0, 128, 128), DType::kFp16);
    for (bool before_rotary : {false, true}) {
      const auto values = before_rotary ? RotateBack(trace, rows, 128) : rows;
      const KeyTile plain = EncodeKeys(testing::MakeTile(shape, values));
      const KeyTile biased = EncodeKeys(WithConstantChannels(shape, values));
      std::printf("layer %u%s: centred NMSE %.4f without, %.4f with constant channels, %.3f bits\n",
                  layer, before_rotary ? " before RoPE" : "", plain.centred, biased.centred,
                  biased.bits);
      EXPECT_TRUE(biased.has_means);
      EXPECT_LE(biased.bits, 2.6);
      // What the tile costs without them, and no more.
      EXPECT_LE(biased.centred, 1.1 * plain.centred);
      if (before_rotary && layer == 0) {
        EXPECT_LE(biased.centred, 0.05);
      }
    }
  }
}

}  // namespace
}  // namespace kvstow
