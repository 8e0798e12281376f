#include "client/convert.h"

#include <functional>

#include "gtest/gtest.h"

namespace kvstow::client {
namespace {

SpaceSpec FullSpec() {
  SpaceSpec spec;
  spec.model = {"org/model", "rev", std::string("\0\xff", 2)};
  LayerGroup kv;
  kv.layers = {0, 2, 4};
  kv.kv_heads = 8;
  kv.k_dim = 128;
  kv.v_dim = 64;
  kv.dtype = DType::kBf16;
  kv.rotary = RotaryEmbedding{{1.0f, 0.1f}, RotaryEmbedding::Pairing::kInterleaved, 12};
  kv.window = 4096;
  LayerGroup opaque;
  opaque.layers = {1};
  opaque.kind = LayerGroup::Kind::kOpaque;
  opaque.opaque_bytes = uint64_t{5} << 33;
  spec.groups = {kv, opaque};
  spec.block_tokens = 256;
  spec.codec = {CodecId::kTurboQuant, 3, 4, Shrinker::kOptimal, false, false, 0.125};
  spec.key_scheme = "engine:sha256:7";
  return spec;
}

TEST(ConvertTest, EachFieldOfASpecSurvivesTheRoundTrip) {
  const std::vector<std::function<void(SpaceSpec&)>> changes = {
      [](SpaceSpec&) {},
      [](SpaceSpec& s) { s.model.name += 'x'; },
      [](SpaceSpec& s) { s.model.revision += 'x'; },
      [](SpaceSpec& s) { s.model.weights_digest += 'x'; },
      [](SpaceSpec& s) { s.groups.pop_back(); },
      [](SpaceSpec& s) { s.groups[0].layers = {7}; },
      [](SpaceSpec& s) { s.groups[0].kind = LayerGroup::Kind::kLatent; },
      [](SpaceSpec& s) { s.groups[0].kv_heads = 1; },
      [](SpaceSpec& s) { s.groups[0].k_dim = 576; },
      [](SpaceSpec& s) { s.groups[0].v_dim = 0; },
      [](SpaceSpec& s) { s.groups[0].dtype = DType::kFp32; },
      [](SpaceSpec& s) { s.groups[0].dtype = DType::kFp16; },
      [](SpaceSpec& s) { s.groups[0].rotary.reset(); },
      [](SpaceSpec& s) { s.groups[0].rotary->inverse_frequencies = {0.3f}; },
      [](SpaceSpec& s) { s.groups[0].rotary->pairing = RotaryEmbedding::Pairing::kHalf; },
      [](SpaceSpec& s) { s.groups[0].rotary->offset = 0; },
      [](SpaceSpec& s) { s.groups[0].window = 0; },
      [](SpaceSpec& s) { s.groups[1].opaque_bytes = 1; },
      [](SpaceSpec& s) { s.block_tokens = 512; },
      [](SpaceSpec& s) { s.codec.codec = CodecId::kRaw; },
      [](SpaceSpec& s) { s.codec.codec = CodecId::kEOptShrinkQ; },
      [](SpaceSpec& s) { s.codec.k_bits = 1; },
      [](SpaceSpec& s) { s.codec.v_bits = 1; },
      [](SpaceSpec& s) { s.codec.shrinker = Shrinker::kTruncate; },
      [](SpaceSpec& s) { s.codec.closed_loop = true; },
      [](SpaceSpec& s) { s.codec.undo_rotary = true; },
      [](SpaceSpec& s) { s.codec.max_relative_error = 0; },
      [](SpaceSpec& s) { s.key_scheme.clear(); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    SpaceSpec spec = FullSpec();
    changes[i](spec);
    auto back = FromProto(ToProto(spec));
    ASSERT_TRUE(back.ok()) << i << back.status();
    EXPECT_TRUE(*back == spec) << "change " << i;
    EXPECT_EQ(FingerprintOf(*back), FingerprintOf(spec)) << "change " << i;
  }
}

TEST(ConvertTest, WireNumbersAreTheContract) {
  const v1::SpaceSpec proto = ToProto(FullSpec());
  EXPECT_EQ(proto.groups(0).kind(), v1::LayerGroup::KIND_KV);
  EXPECT_EQ(proto.groups(1).kind(), v1::LayerGroup::KIND_OPAQUE);
  EXPECT_EQ(proto.groups(0).dtype(), v1::DTYPE_BF16);
  EXPECT_EQ(proto.groups(0).rotary().pairing(), v1::RotaryEmbedding::PAIRING_INTERLEAVED);
  EXPECT_EQ(proto.codec().codec(), v1::CODEC_TURBOQUANT);
  EXPECT_EQ(proto.codec().shrinker(), v1::SHRINKER_OPTIMAL);
  EXPECT_TRUE(proto.codec().open_loop());
  EXPECT_TRUE(proto.codec().keep_rotary());
}

TEST(ConvertTest, UnspecifiedTakesDefaultsButForTheElementType) {
  v1::SpaceSpec proto;
  v1::LayerGroup* group = proto.add_groups();
  EXPECT_EQ(FromProto(proto).status().code(), absl::StatusCode::kInvalidArgument);
  group->set_dtype(v1::DTYPE_FP16);
  auto spec = FromProto(proto);
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->block_tokens, 128u);
  EXPECT_TRUE(spec->codec == CodecSettings());
  EXPECT_EQ(spec->groups[0].kind, LayerGroup::Kind::kKv);
}

TEST(ConvertTest, UnknownEnumValuesAreRefused) {
  const auto code = [](const v1::SpaceSpec& p) { return FromProto(p).status().code(); };
  for (int field = 0; field < 5; ++field) {
    v1::SpaceSpec p = ToProto(FullSpec());
    if (field == 0) p.mutable_groups(0)->set_kind(static_cast<v1::LayerGroup::Kind>(9));
    if (field == 1) p.mutable_groups(0)->set_dtype(static_cast<v1::DType>(9));
    if (field == 2) {
      p.mutable_groups(0)->mutable_rotary()->set_pairing(
          static_cast<v1::RotaryEmbedding::Pairing>(9));
    }
    if (field == 3) p.mutable_codec()->set_codec(static_cast<v1::CodecId>(-1));
    if (field == 4) p.mutable_codec()->set_shrinker(static_cast<v1::Shrinker>(9));
    EXPECT_EQ(code(p), absl::StatusCode::kInvalidArgument) << field;
  }
}

TEST(ConvertTest, Shards) {
  const Shard shard{3, {1, 3}, 1, 2, 10, 20};
  EXPECT_TRUE(FromProto(ToProto(shard)) == shard);
  v1::Shard bare;
  bare.set_index(4);
  EXPECT_TRUE(FromProto(bare) == (Shard{.index = 4, .expected = {4}}));
}

TEST(ConvertTest, QualityFieldsEachHaveTheirPlace) {
  v1::Quality q;
  q.set_nmse(1);
  q.set_centred_nmse(2);
  q.set_worst_nmse(3);
  q.set_worst_centred_nmse(4);
  q.set_bits_per_entry(5);
  q.set_rank_mean(6);
  q.set_rank_max(7);
  q.set_inner_product_bias(8);
  q.set_tiles(9);
  q.set_tiles_raw(10);
  const Fidelity f = FromProto(q);
  EXPECT_EQ(f.nmse, 1);
  EXPECT_EQ(f.centred_nmse, 2);
  EXPECT_EQ(f.worst_nmse, 3);
  EXPECT_EQ(f.worst_centred_nmse, 4);
  EXPECT_EQ(f.bits_per_entry, 5);
  EXPECT_EQ(f.rank_mean, 6);
  EXPECT_EQ(f.rank_max, 7u);
  EXPECT_EQ(f.inner_product_bias, 8);
  EXPECT_EQ(f.tiles, 9u);
  EXPECT_EQ(f.tiles_raw, 10u);
}

TEST(ConvertTest, KeysAreBytesOneAfterTheOther) {
  std::vector<BlockKey> keys(2);
  keys[0].fill(1);
  keys[1].fill(2);
  EXPECT_EQ(ToBytes(keys), std::string(32, 1) + std::string(32, 2));
  Digest digest;
  EXPECT_TRUE(FromBytes(std::string(32, 2), &digest));
  EXPECT_EQ(digest, keys[1]);
  EXPECT_FALSE(FromBytes(std::string(31, 2), &digest));
}

}  // namespace
}  // namespace kvstow::client
