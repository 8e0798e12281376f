#include "space/plane_layout.h"

#include <algorithm>
#include <map>
#include <utility>

namespace kvstow {
namespace {

PlaneSpec MakePlane(const LayerGroup& g, const SpaceSpec& spec, uint32_t layer, PlaneKind kind,
                    uint32_t heads, uint32_t dim) {
  PlaneSpec p;
  p.layer = layer;
  p.kind = kind;
  p.dtype = g.dtype;
  p.heads = heads;
  p.tokens = spec.block_tokens;
  p.dim = dim;
  p.raw_bytes = p.entries() * SizeOf(g.dtype);
  if (p.is_key_like() && g.rotary && spec.codec.undo_rotary && spec.codec.codec != CodecId::kRaw) {
    p.rotary = &*g.rotary;
  }
  return p;
}

void AppendPlanes(const LayerGroup& g, const SpaceSpec& spec, const Shard& shard, uint32_t layer,
                  std::vector<PlaneSpec>* out) {
  switch (g.kind) {
    case LayerGroup::Kind::kKv: {
      const uint32_t heads = g.kv_heads / shard.tensor_size;
      out->push_back(MakePlane(g, spec, layer, PlaneKind::kK, heads, g.k_dim));
      out->push_back(MakePlane(g, spec, layer, PlaneKind::kV, heads, g.v_dim));
      return;
    }
    case LayerGroup::Kind::kLatent:
      // Every tensor rank holds the whole latent.
      out->push_back(MakePlane(g, spec, layer, PlaneKind::kLatent, 1, g.k_dim));
      return;
    case LayerGroup::Kind::kOpaque: {
      PlaneSpec p;
      p.layer = layer;
      p.kind = PlaneKind::kOpaque;
      p.raw_bytes = g.opaque_bytes;
      out->push_back(p);
      return;
    }
  }
}

}  // namespace

absl::string_view Name(PlaneKind kind) {
  switch (kind) {
    case PlaneKind::kK:
      return "k";
    case PlaneKind::kV:
      return "v";
    case PlaneKind::kLatent:
      return "latent";
    case PlaneKind::kOpaque:
      return "opaque";
  }
  return "unknown";
}

absl::StatusOr<PlaneLayout> PlaneLayout::Create(SpaceSpec spec, Shard shard) {
  if (auto s = Validate(spec); !s.ok()) return s;
  if (auto s = Validate(shard, spec); !s.ok()) return s;
  PlaneLayout layout;
  layout.spec_ = std::make_unique<const SpaceSpec>(std::move(spec));
  layout.shard_ = std::move(shard);

  std::map<uint32_t, const LayerGroup*> by_layer;
  const uint64_t end = layout.shard_.layer_count == 0
                           ? UINT64_MAX
                           : uint64_t{layout.shard_.first_layer} + layout.shard_.layer_count;
  for (const LayerGroup& g : layout.spec_->groups) {
    for (uint32_t layer : g.layers) {
      if (layer >= layout.shard_.first_layer && layer < end) by_layer[layer] = &g;
    }
  }
  if (by_layer.empty()) {
    return absl::InvalidArgumentError(
        "shard.first_layer and layer_count leave no layer of the space");
  }
  for (const auto& [layer, group] : by_layer) {
    layout.layers_.push_back(layer);
    layout.first_plane_.push_back(layout.planes_.size());
    AppendPlanes(*group, *layout.spec_, layout.shard_, layer, &layout.planes_);
  }
  layout.first_plane_.push_back(layout.planes_.size());
  for (const PlaneSpec& p : layout.planes_) {
    layout.raw_bytes_ += p.raw_bytes;
    layout.entries_ += p.entries();
  }
  return layout;
}

}  // namespace kvstow
