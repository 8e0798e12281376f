#include "space/space_spec.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "space/plane_layout.h"

namespace kvstow {
namespace {

absl::Status Invalid(absl::string_view what) { return absl::InvalidArgumentError(what); }

absl::Status ValidateCodec(const CodecSettings& c) {
  if (c.codec != CodecId::kRaw && c.codec != CodecId::kTurboQuant &&
      c.codec != CodecId::kEOptShrinkQ) {
    return Invalid(absl::StrCat("codec.codec is ", static_cast<int>(c.codec),
                                ", which names no codec; use raw, turboquant or eoptshrinkq"));
  }
  if (c.shrinker != Shrinker::kOptimal && c.shrinker != Shrinker::kTruncate) {
    return Invalid("codec.shrinker must be optimal or truncate");
  }
  for (uint32_t bits : {c.k_bits, c.v_bits}) {
    if (bits < 1 || bits > 4) {
      return Invalid(absl::StrCat("codec bits are ", bits, "; k_bits and v_bits must be 1 to 4"));
    }
  }
  if (!std::isfinite(c.max_relative_error) || c.max_relative_error < 0) {
    return Invalid("codec.max_relative_error must be finite and not negative; 0 means no bound");
  }
  return absl::OkStatus();
}

absl::Status ValidateRotary(const RotaryEmbedding& rotary, uint32_t dim) {
  if (rotary.pairing != RotaryEmbedding::Pairing::kHalf &&
      rotary.pairing != RotaryEmbedding::Pairing::kInterleaved) {
    return Invalid("rotary.pairing must be half or interleaved");
  }
  if (rotary.inverse_frequencies.empty()) {
    return Invalid("rotary.inverse_frequencies is empty; leave rotary unset for layers without it");
  }
  if (uint64_t{rotary.offset} + rotary.inverse_frequencies.size() * 2 > dim) {
    return Invalid(absl::StrCat("rotary covers coordinates up to ",
                                rotary.offset + rotary.inverse_frequencies.size() * 2,
                                " but the head has ", dim));
  }
  for (float f : rotary.inverse_frequencies) {
    if (!std::isfinite(f)) return Invalid("rotary.inverse_frequencies must be finite");
  }
  return absl::OkStatus();
}

absl::Status ValidateDim(absl::string_view field, uint32_t dim, CodecId codec) {
  if (dim == 0 || dim > 65535) return Invalid(absl::StrCat(field, " is ", dim, "; use 1 to 65535"));
  if (codec != CodecId::kRaw && !IsSupportedDim(dim)) {
    return Invalid(
        absl::StrCat(field, " is ", dim, ", which codec ", Name(codec),
                     " does not handle; it takes 64, 80, 96, 112, 128, 192, 256 and 576. "
                     "Use codec raw for other dimensions"));
  }
  return absl::OkStatus();
}

absl::Status ValidateOpaque(const LayerGroup& g) {
  if (g.opaque_bytes == 0 || g.opaque_bytes > kMaxPlaneBytes) {
    return Invalid(absl::StrCat("opaque_bytes is ", g.opaque_bytes, "; use 1 to ", kMaxPlaneBytes));
  }
  if (g.kv_heads != 0 || g.k_dim != 0 || g.v_dim != 0 || g.rotary) {
    return Invalid("an opaque group has no heads, dimensions or rotary embedding");
  }
  return absl::OkStatus();
}

absl::Status ValidateGroup(const LayerGroup& g, const SpaceSpec& spec) {
  if (g.layers.empty()) return Invalid("a layer group has no layers");
  if (g.kind == LayerGroup::Kind::kOpaque) return ValidateOpaque(g);
  if (g.kind != LayerGroup::Kind::kKv && g.kind != LayerGroup::Kind::kLatent) {
    return Invalid("a layer group's kind must be kv, latent or opaque");
  }
  const bool latent = g.kind == LayerGroup::Kind::kLatent;
  if (!IsValid(g.dtype)) return Invalid("dtype must be fp16, bf16 or fp32");
  if (g.opaque_bytes != 0) return Invalid("opaque_bytes belongs to opaque groups only");
  if (g.kv_heads == 0 || g.kv_heads > kMaxHeads) {
    return Invalid(absl::StrCat("kv_heads is ", g.kv_heads, "; use 1 to ", kMaxHeads));
  }
  if (latent && (g.kv_heads != 1 || g.v_dim != 0)) {
    return Invalid("a latent group has one head and no v_dim");
  }
  if (auto s = ValidateDim("k_dim", g.k_dim, spec.codec.codec); !s.ok()) return s;
  if (!latent) {
    if (auto s = ValidateDim("v_dim", g.v_dim, spec.codec.codec); !s.ok()) return s;
  }
  if (g.rotary) {
    if (auto s = ValidateRotary(*g.rotary, g.k_dim); !s.ok()) return s;
  }
  const uint64_t plane =
      uint64_t{g.kv_heads} * spec.block_tokens * std::max(g.k_dim, g.v_dim) * SizeOf(g.dtype);
  if (plane > kMaxPlaneBytes) {
    return Invalid(absl::StrCat("a plane would take ", plane, " bytes; the limit is ",
                                kMaxPlaneBytes, ". Use shorter blocks"));
  }
  return absl::OkStatus();
}

}  // namespace

bool IsSupportedDim(uint32_t dim) {
  switch (dim) {
    case 64:
    case 80:
    case 96:
    case 112:
    case 128:
    case 192:
    case 256:
    case 576:
      return true;
    default:
      return false;
  }
}

bool IsSupportedBlockTokens(uint32_t tokens) {
  return tokens == 128 || tokens == 256 || tokens == 512;
}

absl::string_view Name(CodecId codec) {
  switch (codec) {
    case CodecId::kRaw:
      return "raw";
    case CodecId::kTurboQuant:
      return "turboquant";
    case CodecId::kEOptShrinkQ:
      return "eoptshrinkq";
  }
  return "unknown";
}

absl::Status Validate(const SpaceSpec& spec) {
  if (spec.model.name.empty()) return Invalid("model.name is empty; name the model");
  for (const std::string* s :
       {&spec.model.name, &spec.model.revision, &spec.model.weights_digest, &spec.key_scheme}) {
    if (s->size() > kMaxNameBytes) {
      return Invalid(absl::StrCat("a name of ", s->size(), " bytes; the limit is ", kMaxNameBytes));
    }
  }
  if (!IsSupportedBlockTokens(spec.block_tokens)) {
    return Invalid(absl::StrCat("block_tokens is ", spec.block_tokens, "; use 128, 256 or 512"));
  }
  if (auto s = ValidateCodec(spec.codec); !s.ok()) return s;
  if (spec.groups.empty()) return Invalid("a space needs at least one layer group");
  std::set<uint32_t> seen;
  uint64_t block = 0;
  for (const LayerGroup& g : spec.groups) {
    if (auto s = ValidateGroup(g, spec); !s.ok()) return s;
    for (uint32_t layer : g.layers) {
      if (layer >= 65536) return Invalid(absl::StrCat("layer ", layer, "; use 0 to 65535"));
      if (!seen.insert(layer).second) {
        return Invalid(absl::StrCat("layer ", layer, " appears twice"));
      }
    }
    block += g.layers.size() * (g.kind == LayerGroup::Kind::kOpaque
                                    ? g.opaque_bytes
                                    : uint64_t{g.kv_heads} * spec.block_tokens *
                                          (g.k_dim + g.v_dim) * SizeOf(g.dtype));
  }
  if (seen.size() > kMaxLayers) {
    return Invalid(absl::StrCat(seen.size(), " layers; the limit is ", kMaxLayers));
  }
  if (block > kMaxBlockBytes) {
    return Invalid(absl::StrCat("a block would take ", block, " bytes; the limit is ",
                                kMaxBlockBytes, ". Use shorter blocks"));
  }
  return absl::OkStatus();
}

absl::Status Validate(const Shard& shard, const SpaceSpec& spec) {
  if (shard.expected.empty() || shard.expected.size() > kMaxShards) {
    return Invalid(absl::StrCat("shard.expected has ", shard.expected.size(), " entries; use 1 to ",
                                kMaxShards));
  }
  if (!std::is_sorted(shard.expected.begin(), shard.expected.end(), std::less_equal<>())) {
    return Invalid("shard.expected must be sorted and without duplicates");
  }
  if (!std::binary_search(shard.expected.begin(), shard.expected.end(), shard.index)) {
    return Invalid(absl::StrCat("shard.index ", shard.index, " is not in shard.expected"));
  }
  if (shard.tensor_size == 0 || shard.tensor_rank >= shard.tensor_size) {
    return Invalid(absl::StrCat("tensor_rank ", shard.tensor_rank, " of tensor_size ",
                                shard.tensor_size, " does not exist"));
  }
  for (const LayerGroup& g : spec.groups) {
    if (g.kind == LayerGroup::Kind::kKv && g.kv_heads % shard.tensor_size != 0) {
      return Invalid(absl::StrCat(
          "kv_heads ", g.kv_heads, " does not divide by tensor_size ", shard.tensor_size,
          ". Ranks that hold the same heads share one shard index and its tensor_rank"));
    }
  }
  return absl::OkStatus();
}

}  // namespace kvstow
