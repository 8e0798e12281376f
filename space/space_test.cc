#include <functional>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "space/fingerprint.h"
#include "space/plane_layout.h"
#include "space/space_spec.h"

namespace kvstow {
namespace {

using ::testing::HasSubstr;

SpaceSpec Llama() {
  SpaceSpec s;
  s.model = {"org/model", "abc", "digest"};
  LayerGroup g;
  g.layers = {0, 1, 2, 3};
  g.kv_heads = 8;
  g.k_dim = g.v_dim = 128;
  g.rotary = RotaryEmbedding{{1.0f, 0.5f, 0.25f}, RotaryEmbedding::Pairing::kHalf, 0};
  s.groups = {g};
  return s;
}

TEST(FingerprintTest, EveryFieldMatters) {
  using Edit = std::function<void(SpaceSpec&)>;
  const std::vector<Edit> edits = {
      [](SpaceSpec& s) { s.model.name += "x"; },
      [](SpaceSpec& s) { s.model.revision += "x"; },
      [](SpaceSpec& s) { s.model.weights_digest += "x"; },
      [](SpaceSpec& s) { s.groups.push_back(s.groups[0]); },
      [](SpaceSpec& s) { s.groups[0].layers.pop_back(); },
      [](SpaceSpec& s) { s.groups[0].layers[3] = 7; },
      [](SpaceSpec& s) { s.groups[0].kind = LayerGroup::Kind::kLatent; },
      [](SpaceSpec& s) { s.groups[0].kv_heads = 4; },
      [](SpaceSpec& s) { s.groups[0].k_dim = 64; },
      [](SpaceSpec& s) { s.groups[0].v_dim = 64; },
      [](SpaceSpec& s) { s.groups[0].dtype = DType::kBf16; },
      [](SpaceSpec& s) { s.groups[0].rotary.reset(); },
      [](SpaceSpec& s) { s.groups[0].rotary->inverse_frequencies[1] = 0.5000001f; },
      [](SpaceSpec& s) { s.groups[0].rotary->inverse_frequencies.pop_back(); },
      [](SpaceSpec& s) { s.groups[0].rotary->pairing = RotaryEmbedding::Pairing::kInterleaved; },
      [](SpaceSpec& s) { s.groups[0].rotary->offset = 2; },
      [](SpaceSpec& s) { s.groups[0].window = 4096; },
      [](SpaceSpec& s) { s.groups[0].opaque_bytes = 1; },
      [](SpaceSpec& s) { s.block_tokens = 256; },
      [](SpaceSpec& s) { s.codec.codec = CodecId::kRaw; },
      [](SpaceSpec& s) { s.codec.k_bits = 3; },
      [](SpaceSpec& s) { s.codec.v_bits = 3; },
      [](SpaceSpec& s) {
        s.codec.shrinker =
            s.codec.shrinker == Shrinker::kOptimal ? Shrinker::kTruncate : Shrinker::kOptimal;
      },
      [](SpaceSpec& s) { s.codec.closed_loop = false; },
      [](SpaceSpec& s) { s.codec.undo_rotary = false; },
      [](SpaceSpec& s) { s.codec.max_relative_error = 0.01; },
      [](SpaceSpec& s) { s.key_scheme = "engine sha256 seed 0"; },
  };
  std::set<Fingerprint> seen = {FingerprintOf(Llama())};
  for (size_t i = 0; i < edits.size(); ++i) {
    SpaceSpec s = Llama();
    edits[i](s);
    EXPECT_TRUE(seen.insert(FingerprintOf(s)).second) << "edit " << i << " changed nothing";
  }
}

TEST(FingerprintTest, BytesCannotMoveBetweenFields) {
  SpaceSpec a = Llama(), b = Llama();
  a.model.name = "ab";
  a.model.revision = "c";
  b.model.name = "a";
  b.model.revision = "bc";
  EXPECT_NE(FingerprintOf(a), FingerprintOf(b));
}

// Written down once; other languages must reproduce them (docs/keys.md).
TEST(FingerprintTest, GoldenValues) {
  const Fingerprint f = FingerprintOf(Llama());
  EXPECT_EQ(Hex(f), "394d36ae9f6cdc279b157fe7156ede43b10f0902003dd0b426872bb1f952490f");
  const BlockKey root = RootKey(f, {"adapter", "salt"});
  EXPECT_EQ(Hex(root), "7faae0fb298d44343e2344899f1ac7154ded001a8d1b3cbf7147950a61595a7b");
  const std::vector<uint32_t> tokens = {1, 2, 3, 0xffffffff};
  EXPECT_EQ(Hex(NextKey(root, tokens, "extra")),
            "8f002d5997dd6895787b766874a19c52f3311fb743732c96e0b9147b508939f7");
}

TEST(BlockKeyTest, ChainsWholeBlocksOnly) {
  const BlockKey root = RootKey(FingerprintOf(Llama()), {});
  std::vector<uint32_t> tokens(300);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<uint32_t>(i);
  const auto keys = KeysOf(root, tokens, 128);
  ASSERT_EQ(keys.size(), 2u);
  EXPECT_EQ(keys[0], NextKey(root, std::span(tokens).first(128), ""));
  EXPECT_EQ(keys[1], NextKey(keys[0], std::span(tokens).subspan(128, 128), ""));
  tokens[0] = 9;
  EXPECT_NE(KeysOf(root, tokens, 128)[1], keys[1]) << "a changed first token must change all keys";
}

TEST(BlockKeyTest, SaltAdapterAndExtraMatter) {
  const Fingerprint f = FingerprintOf(Llama());
  const BlockKey root = RootKey(f, {});
  EXPECT_NE(root, RootKey(f, {"a", ""}));
  EXPECT_NE(root, RootKey(f, {"", "a"}));
  EXPECT_NE(RootKey(f, {"a", ""}), RootKey(f, {"", "a"}));
  const std::vector<uint32_t> tokens(128, 5);
  EXPECT_NE(KeysOf(root, tokens, 128)[0],
            KeysOf(root, tokens, 128, std::vector<std::string>{"img"})[0]);
}

TEST(PlaneLayoutTest, LayersAscendAndKComesFirst) {
  SpaceSpec s = Llama();
  s.groups[0].layers = {3, 1};
  LayerGroup latent;
  latent.layers = {2};
  latent.kind = LayerGroup::Kind::kLatent;
  latent.kv_heads = 1;
  latent.k_dim = 576;
  LayerGroup opaque;
  opaque.layers = {0};
  opaque.kind = LayerGroup::Kind::kOpaque;
  opaque.opaque_bytes = 100;
  s.groups.push_back(latent);
  s.groups.push_back(opaque);
  auto layout = PlaneLayout::Create(s, Shard{});
  ASSERT_TRUE(layout.ok()) << layout.status();
  const auto& p = layout->planes();
  ASSERT_EQ(p.size(), 6u);
  EXPECT_EQ(p[0].kind, PlaneKind::kOpaque);
  EXPECT_EQ(p[1].kind, PlaneKind::kK);
  EXPECT_EQ(p[2].kind, PlaneKind::kV);
  EXPECT_EQ(p[3].kind, PlaneKind::kLatent);
  EXPECT_EQ(p[4].layer, 3u);
  EXPECT_NE(p[1].rotary, nullptr);
  EXPECT_EQ(p[2].rotary, nullptr);
  EXPECT_EQ(layout->first_plane(4), 6u);
  EXPECT_EQ(layout->raw_bytes(), 100u + 4 * (8 * 128 * 128 * 2) + 128 * 576 * 2);
}

TEST(PlaneLayoutTest, ShardsTakeTheirHeadsAndLayers) {
  Shard shard{1, {0, 1}, 1, 2, 2, 2};
  auto layout = PlaneLayout::Create(Llama(), shard);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->layers(), (std::vector<uint32_t>{2, 3}));
  EXPECT_EQ(layout->planes()[0].heads, 4u);
}

struct BadSpec {
  const char* what;
  std::function<void(SpaceSpec&)> edit;
};

TEST(ValidateTest, NamesWhatIsWrong) {
  const std::vector<BadSpec> bad = {
      {"model.name", [](SpaceSpec& s) { s.model.name.clear(); }},
      {"limit is 1024", [](SpaceSpec& s) { s.model.revision.assign(2000, 'x'); }},
      {"block_tokens", [](SpaceSpec& s) { s.block_tokens = 100; }},
      {"at least one layer group", [](SpaceSpec& s) { s.groups.clear(); }},
      {"no layers", [](SpaceSpec& s) { s.groups[0].layers.clear(); }},
      {"appears twice",
       [](SpaceSpec& s) {
         s.groups[0].layers = {1, 1};
       }},
      {"kv_heads", [](SpaceSpec& s) { s.groups[0].kv_heads = 0; }},
      {"kv_heads", [](SpaceSpec& s) { s.groups[0].kv_heads = 5000; }},
      {"k_dim is 100", [](SpaceSpec& s) { s.groups[0].k_dim = 100; }},
      {"v_dim is 0", [](SpaceSpec& s) { s.groups[0].v_dim = 0; }},
      {"dtype", [](SpaceSpec& s) { s.groups[0].dtype = static_cast<DType>(9); }},
      {"bits are 5", [](SpaceSpec& s) { s.codec.k_bits = 5; }},
      {"max_relative_error", [](SpaceSpec& s) { s.codec.max_relative_error = -1; }},
      {"names no codec", [](SpaceSpec& s) { s.codec.codec = static_cast<CodecId>(7); }},
      {"rotary covers", [](SpaceSpec& s) { s.groups[0].rotary->offset = 125; }},
      {"inverse_frequencies is empty",
       [](SpaceSpec& s) { s.groups[0].rotary->inverse_frequencies.clear(); }},
      {"one head", [](SpaceSpec& s) { s.groups[0].kind = LayerGroup::Kind::kLatent; }},
      {"opaque_bytes", [](SpaceSpec& s) { s.groups[0].kind = LayerGroup::Kind::kOpaque; }},
  };
  ASSERT_TRUE(Validate(Llama()).ok()) << Validate(Llama());
  for (const BadSpec& b : bad) {
    SpaceSpec s = Llama();
    b.edit(s);
    const absl::Status status = Validate(s);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << b.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr(b.what));
  }
}

TEST(ValidateTest, ShardMustExist) {
  const SpaceSpec s = Llama();
  EXPECT_TRUE(Validate(Shard{}, s).ok());
  EXPECT_FALSE(Validate(Shard{2, {0, 1}}, s).ok());
  EXPECT_FALSE(Validate(Shard{0, {}}, s).ok());
  EXPECT_FALSE(Validate(Shard{0, {0, 0}}, s).ok());
  EXPECT_FALSE(Validate(Shard{0, {1, 0}}, s).ok());
  EXPECT_FALSE(Validate(Shard{0, {0}, 0, 3}, s).ok()) << "8 heads over 3 ranks";
  EXPECT_FALSE(Validate(Shard{0, {0}, 2, 2}, s).ok());
  EXPECT_FALSE(PlaneLayout::Create(s, Shard{0, {0}, 0, 1, 9, 1}).ok()) << "no such layer";
}

}  // namespace
}  // namespace kvstow
