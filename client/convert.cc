#include "client/convert.h"

#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"

namespace kvstow::client {
namespace {

template <typename Wire, typename Ours>
Wire OneAbove(Ours value) {
  return static_cast<Wire>(static_cast<int>(value) + 1);
}

// The value one below, `otherwise` for unspecified.
template <typename Ours>
absl::StatusOr<Ours> OneBelow(absl::string_view field, int wire, int highest, Ours otherwise) {
  if (wire == 0) return otherwise;
  if (wire < 0 || wire > highest) {
    return absl::InvalidArgumentError(absl::StrCat(field, " has the unknown value ", wire));
  }
  return static_cast<Ours>(wire - 1);
}

v1::RotaryEmbedding ToProto(const RotaryEmbedding& rotary) {
  v1::RotaryEmbedding proto;
  for (float f : rotary.inverse_frequencies) proto.add_inverse_frequencies(f);
  proto.set_pairing(OneAbove<v1::RotaryEmbedding::Pairing>(rotary.pairing));
  proto.set_offset(rotary.offset);
  return proto;
}

v1::LayerGroup ToProto(const LayerGroup& group) {
  v1::LayerGroup proto;
  for (uint32_t layer : group.layers) proto.add_layers(layer);
  proto.set_kind(OneAbove<v1::LayerGroup::Kind>(group.kind));
  proto.set_kv_heads(group.kv_heads);
  proto.set_k_dim(group.k_dim);
  proto.set_v_dim(group.v_dim);
  proto.set_dtype(static_cast<v1::DType>(group.dtype));
  if (group.rotary) *proto.mutable_rotary() = ToProto(*group.rotary);
  proto.set_window(group.window);
  proto.set_opaque_bytes(group.opaque_bytes);
  return proto;
}

v1::CodecSettings ToProto(const CodecSettings& codec) {
  v1::CodecSettings proto;
  proto.set_codec(OneAbove<v1::CodecId>(codec.codec));
  proto.set_k_bits(codec.k_bits);
  proto.set_v_bits(codec.v_bits);
  proto.set_shrinker(OneAbove<v1::Shrinker>(codec.shrinker));
  proto.set_open_loop(!codec.closed_loop);
  proto.set_keep_rotary(!codec.undo_rotary);
  proto.set_max_relative_error(codec.max_relative_error);
  return proto;
}

absl::StatusOr<RotaryEmbedding> RotaryFromProto(const v1::RotaryEmbedding& proto) {
  RotaryEmbedding rotary;
  rotary.inverse_frequencies.assign(proto.inverse_frequencies().begin(),
                                    proto.inverse_frequencies().end());
  auto pairing = OneBelow("rotary.pairing", proto.pairing(), v1::RotaryEmbedding::Pairing_MAX,
                          RotaryEmbedding::Pairing::kHalf);
  if (!pairing.ok()) return pairing.status();
  rotary.pairing = *pairing;
  rotary.offset = proto.offset();
  return rotary;
}

absl::StatusOr<LayerGroup> GroupFromProto(const v1::LayerGroup& proto) {
  LayerGroup group;
  group.layers.assign(proto.layers().begin(), proto.layers().end());
  auto kind =
      OneBelow("groups.kind", proto.kind(), v1::LayerGroup::Kind_MAX, LayerGroup::Kind::kKv);
  if (!kind.ok()) return kind.status();
  group.kind = *kind;
  group.kv_heads = proto.kv_heads();
  group.k_dim = proto.k_dim();
  group.v_dim = proto.v_dim();
  // The element type of opaque planes means nothing.
  if (proto.dtype() != v1::DTYPE_UNSPECIFIED || group.kind != LayerGroup::Kind::kOpaque) {
    group.dtype = static_cast<DType>(proto.dtype());
    if (!IsValid(group.dtype)) {
      return absl::InvalidArgumentError(
          "groups.dtype must be DTYPE_FP16, DTYPE_BF16 or DTYPE_FP32");
    }
  }
  if (proto.has_rotary()) {
    auto rotary = RotaryFromProto(proto.rotary());
    if (!rotary.ok()) return rotary.status();
    group.rotary = *std::move(rotary);
  }
  group.window = proto.window();
  group.opaque_bytes = proto.opaque_bytes();
  return group;
}

absl::StatusOr<CodecSettings> CodecFromProto(const v1::CodecSettings& proto) {
  CodecSettings codec;
  auto id = OneBelow("codec.codec", proto.codec(), v1::CodecId_MAX, codec.codec);
  if (!id.ok()) return id.status();
  auto shrinker = OneBelow("codec.shrinker", proto.shrinker(), v1::Shrinker_MAX, codec.shrinker);
  if (!shrinker.ok()) return shrinker.status();
  codec.codec = *id;
  codec.shrinker = *shrinker;
  if (proto.k_bits() != 0) codec.k_bits = proto.k_bits();
  if (proto.v_bits() != 0) codec.v_bits = proto.v_bits();
  codec.closed_loop = !proto.open_loop();
  codec.undo_rotary = !proto.keep_rotary();
  codec.max_relative_error = proto.max_relative_error();
  return codec;
}

}  // namespace

v1::SpaceSpec ToProto(const SpaceSpec& spec) {
  v1::SpaceSpec proto;
  proto.mutable_model()->set_name(spec.model.name);
  proto.mutable_model()->set_revision(spec.model.revision);
  proto.mutable_model()->set_weights_digest(spec.model.weights_digest);
  for (const LayerGroup& group : spec.groups) *proto.add_groups() = ToProto(group);
  proto.set_block_tokens(spec.block_tokens);
  *proto.mutable_codec() = ToProto(spec.codec);
  proto.set_key_scheme(spec.key_scheme);
  return proto;
}

v1::Shard ToProto(const Shard& shard) {
  v1::Shard proto;
  proto.set_index(shard.index);
  for (uint32_t index : shard.expected) proto.add_expected(index);
  proto.set_tensor_rank(shard.tensor_rank);
  proto.set_tensor_size(shard.tensor_size);
  proto.set_first_layer(shard.first_layer);
  proto.set_layer_count(shard.layer_count);
  return proto;
}

absl::StatusOr<SpaceSpec> FromProto(const v1::SpaceSpec& proto) {
  SpaceSpec spec;
  spec.model.name = proto.model().name();
  spec.model.revision = proto.model().revision();
  spec.model.weights_digest = proto.model().weights_digest();
  for (const v1::LayerGroup& group : proto.groups()) {
    auto converted = GroupFromProto(group);
    if (!converted.ok()) return converted.status();
    spec.groups.push_back(*std::move(converted));
  }
  if (proto.block_tokens() != 0) spec.block_tokens = proto.block_tokens();
  auto codec = CodecFromProto(proto.codec());
  if (!codec.ok()) return codec.status();
  spec.codec = *codec;
  spec.key_scheme = proto.key_scheme();
  return spec;
}

Shard FromProto(const v1::Shard& proto) {
  Shard shard;
  shard.index = proto.index();
  shard.expected.assign(proto.expected().begin(), proto.expected().end());
  if (shard.expected.empty()) shard.expected = {shard.index};
  shard.tensor_rank = proto.tensor_rank();
  shard.tensor_size = proto.tensor_size() == 0 ? 1 : proto.tensor_size();
  shard.first_layer = proto.first_layer();
  shard.layer_count = proto.layer_count();
  return shard;
}

Fidelity FromProto(const v1::Quality& quality) {
  Fidelity fidelity;
  fidelity.nmse = quality.nmse();
  fidelity.centred_nmse = quality.centred_nmse();
  fidelity.worst_nmse = quality.worst_nmse();
  fidelity.worst_centred_nmse = quality.worst_centred_nmse();
  fidelity.bits_per_entry = quality.bits_per_entry();
  fidelity.rank_mean = quality.rank_mean();
  fidelity.rank_max = quality.rank_max();
  fidelity.inner_product_bias = quality.inner_product_bias();
  fidelity.tiles = quality.tiles();
  fidelity.tiles_raw = quality.tiles_raw();
  return fidelity;
}

absl::string_view RefusalName(v1::Refusal refusal) {
  switch (refusal) {
    case v1::REFUSAL_NO_PARENT:
      return "no_parent";
    case v1::REFUSAL_PENDING:
      return "pending";
    case v1::REFUSAL_FULL:
      return "full";
    case v1::REFUSAL_TOO_LARGE:
      return "too_large";
    case v1::REFUSAL_QUOTA:
      return "quota";
    case v1::REFUSAL_LEASE_QUOTA:
      return "lease_quota";
    case v1::REFUSAL_BEHIND:
      return "behind";
    case v1::REFUSAL_DRAINING:
      return "draining";
    default:
      return "unspecified";
  }
}

std::string ToBytes(const Digest& digest) {
  return std::string(reinterpret_cast<const char*>(digest.data()), digest.size());
}

std::string ToBytes(std::span<const BlockKey> keys) {
  static_assert(sizeof(BlockKey) == kKeyBytes);
  return std::string(reinterpret_cast<const char*>(keys.data()), keys.size() * kKeyBytes);
}

bool FromBytes(absl::string_view bytes, Digest* digest) {
  if (bytes.size() != digest->size()) return false;
  std::memcpy(digest->data(), bytes.data(), bytes.size());
  return true;
}

}  // namespace kvstow::client
