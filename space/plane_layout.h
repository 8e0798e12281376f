// The planes of one block of one shard, in the one order that the wire, the record and the client
// use: layer by layer in ascending layer number, K before V.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "space/space_spec.h"

namespace kvstow {

// Values are part of the record format.
enum class PlaneKind : uint8_t { kK = 0, kV = 1, kLatent = 2, kOpaque = 3 };

absl::string_view Name(PlaneKind kind);

// One layer's K or V of one block, in memory a C-order array [heads, tokens, dim] of dtype, or
// raw_bytes opaque bytes.
struct PlaneSpec {
  uint32_t layer = 0;
  PlaneKind kind = PlaneKind::kK;
  DType dtype = DType::kFp16;
  uint32_t heads = 0;   // of this shard; 0 for opaque
  uint32_t tokens = 0;  // n; 0 for opaque
  uint32_t dim = 0;     // d; 0 for opaque
  size_t raw_bytes = 0;
  // Set where the keys' rotary embedding is to be undone; points into the SpaceSpec.
  const RotaryEmbedding* rotary = nullptr;

  bool is_opaque() const { return kind == PlaneKind::kOpaque; }
  // The error that bounds and reports speak of first: centred for what softmax sees.
  bool is_key_like() const { return kind == PlaneKind::kK || kind == PlaneKind::kLatent; }
  size_t tile_bytes() const { return size_t{tokens} * dim * SizeOf(dtype); }
  size_t entries() const { return is_opaque() ? 0 : size_t{heads} * tokens * dim; }
};

// Immutable after construction; owns the SpaceSpec its planes point into. Thread-safe.
class PlaneLayout {
 public:
  // INVALID_ARGUMENT as Validate() of spec and shard.
  static absl::StatusOr<PlaneLayout> Create(SpaceSpec spec, Shard shard);

  PlaneLayout(PlaneLayout&&) = default;
  PlaneLayout(const PlaneLayout&) = delete;

  const SpaceSpec& spec() const { return *spec_; }
  const Shard& shard() const { return shard_; }
  const std::vector<PlaneSpec>& planes() const { return planes_; }
  // Model layer numbers present in this shard, ascending; planes of layers()[i] are
  // planes()[first_plane(i)] up to first_plane(i + 1).
  const std::vector<uint32_t>& layers() const { return layers_; }
  size_t first_plane(size_t layer_index) const { return first_plane_[layer_index]; }

  // Of one block.
  size_t raw_bytes() const { return raw_bytes_; }
  size_t entries() const { return entries_; }

 private:
  PlaneLayout() = default;

  // On the heap, so that PlaneSpec::rotary survives a move.
  std::unique_ptr<const SpaceSpec> spec_;
  Shard shard_;
  std::vector<PlaneSpec> planes_;
  std::vector<uint32_t> layers_;
  std::vector<size_t> first_plane_;
  size_t raw_bytes_ = 0;
  size_t entries_ = 0;
};

}  // namespace kvstow
