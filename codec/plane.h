// An encoded plane: a tile table (one TileHead a head, padded to 16 bytes), then the tiles' bodies.
// An opaque plane is its bytes and has no table. docs/format.md, "Planes".
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "codec/codec.h"
#include "codec/report.h"
#include "codec/scratch.h"
#include "space/plane_layout.h"

namespace kvstow {

// Inline: a Get asks for every plane of every record, before its first byte.
inline TileShape ShapeOf(const PlaneSpec& plane) { return {plane.tokens, plane.dim, plane.dtype}; }
inline size_t TileTableBytes(const PlaneSpec& plane) {
  return plane.is_opaque() ? 0 : RoundUpToTile(kTileHeadBytes * plane.heads);
}
// What a plane can take at most.
inline size_t MaxPlaneBytes(const PlaneSpec& plane) {
  if (plane.is_opaque()) return plane.raw_bytes;
  return TileTableBytes(plane) + plane.heads * MaxTileBodyBytes(ShapeOf(plane));
}

// A checked reading of an encoded plane. Borrows the bytes and the spec.
class PlaneView {
 public:
  // DATA_LOSS when the bytes are no plane of this spec: table invalid, sizes that do not add up,
  // tiles of a mode the plane's kind does not allow.
  static absl::StatusOr<PlaneView> Parse(std::span<const std::byte> bytes, const PlaneSpec& plane);

  const PlaneSpec& spec() const { return *spec_; }
  size_t tiles() const { return tiles_.size(); }
  const TileHead& head(size_t tile) const { return tiles_[tile].head; }
  std::span<const std::byte> body(size_t tile) const { return tiles_[tile].body; }

 private:
  struct Tile {
    TileHead head;
    std::span<const std::byte> body;
  };
  const PlaneSpec* spec_ = nullptr;
  std::vector<Tile> tiles_;
};

struct EncodedPlane {
  Scratch<std::byte> bytes;
  QualityReport report;
};

// Planes that no codec touches: opaque ones, and those of codec `raw`. Their encoded form is a
// table (none for opaque ones) in front of the values as they came.
bool IsVerbatim(const PlaneSpec& plane, const CodecSettings& settings);
// Where the values begin in it.
size_t VerbatimOffset(const PlaneSpec& plane);
// What lies before them: VerbatimOffset() bytes.
std::vector<std::byte> VerbatimTable(const PlaneSpec& plane);
// Whether the encoded plane is its values behind that; others, of a plane that may be verbatim, are
// left to DecodePlane.
bool HoldsVerbatim(const PlaneSpec& plane, const CodecSettings& settings,
                   std::span<const std::byte> bytes);
// No energy, as nothing was measured, and no error.
QualityReport VerbatimReport(const PlaneSpec& plane);
// `bytes`: VerbatimOffset() bytes to be written here, then the values.
QualityReport FinishVerbatim(const PlaneSpec& plane, std::span<std::byte> bytes);

// Whole planes, tile after tile on the calling thread. `values` is spec.raw_bytes long; `rotary` is
// required where spec.rotary is set. INVALID_ARGUMENT as Codec.
absl::StatusOr<EncodedPlane> EncodePlane(Codec& codec, const PlaneSpec& plane,
                                         const CodecSettings& settings, const RotaryTable* rotary,
                                         std::span<const std::byte> values);
// DATA_LOSS as PlaneView::Parse. `out` is spec.raw_bytes long.
absl::Status DecodePlane(Codec& codec, const PlaneSpec& plane, const RotaryTable* rotary,
                         std::span<const std::byte> bytes, std::span<std::byte> out,
                         uint32_t owner = 0);

// The two halves of EncodePlane, for callers that run tiles on several threads: jobs that write to
// scratch of their own, then the plane out of finished jobs.
struct PlaneEncodeJobs {
  Scratch<std::byte> scratch;
  std::vector<TileEncodeJob> jobs;
};
PlaneEncodeJobs MakeEncodeJobs(const PlaneSpec& plane, const CodecSettings& settings,
                               const RotaryTable* rotary, std::span<const std::byte> values,
                               uint32_t owner = 0);
EncodedPlane AssemblePlane(const PlaneSpec& plane, const PlaneEncodeJobs& jobs);
// The jobs of DecodePlane; `out` is the plane's raw_bytes long.
std::vector<TileDecodeJob> MakeDecodeJobs(const PlaneView& view, const RotaryTable* rotary,
                                          std::span<std::byte> out, uint32_t owner = 0);

}  // namespace kvstow
