// A tile is one head of a plane: n tokens x d channels, the codec's unit. This file holds what the
// record format says about one encoded tile: its 4-byte head and the sizes that follow from it.
// docs/format.md, "Planes" and "Body of a coded tile", is the normative description.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "space/dtype.h"

namespace kvstow {

struct TileShape {
  uint32_t tokens = 0;  // n, rows
  uint32_t dim = 0;     // d, columns
  DType dtype = DType::kFp16;

  size_t entries() const { return size_t{tokens} * dim; }
  size_t bytes() const { return entries() * SizeOf(dtype); }
};

enum class TileMode : uint8_t {
  kRaw = 0,    // n*d elements as they came, bit for bit
  kCoded = 1,  // residual codes, and a low-rank part when rank > 0
};

// Four bytes in the plane's tile table. Everything about the body's size follows from the shape and
// these, so a prefix sum over the table finds any tile.
struct TileHead {
  TileMode mode = TileMode::kRaw;  // bits 0..3 of byte 0
  uint8_t bits = 0;                // bits 4..7 of byte 0: residual bits 1..4, 0 when raw
  uint8_t rank = 0;                // byte 1: r of the low-rank part, <= kMaxRank
  int8_t exponent = 0;             // byte 2: decoded values are multiplied by 2^exponent
  bool has_means = false;          // bit 0 of byte 3: d channel means present
  bool rotary_undone = false;      // bit 1 of byte 3: decoder rotates forward

  bool operator==(const TileHead&) const = default;
};

inline constexpr size_t kTileHeadBytes = 4;
inline constexpr uint32_t kMaxRank = 32;  // k <= 22 for p <= 512, and r <= k
inline constexpr size_t kTileAlignment = 16;
constexpr uint64_t RoundUpToTile(uint64_t bytes) {
  return (bytes + kTileAlignment - 1) / kTileAlignment * kTileAlignment;
}

// Where the parts of a coded tile's body lie, in bytes from its start. Parts that are absent have
// length 0. `total` is rounded up to kTileAlignment.
struct TileBodyLayout {
  size_t codes = 0;      // n*d*bits/8, LSB first within a row
  size_t lengths = 0;    // n u8
  size_t u_codes = 0;    // rank * n / 2, component by component, low nibble first
  size_t v_codes = 0;    // rank * d / 2
  size_t u_levels = 0;   // 16 i8, only when rank > 0
  size_t v_levels = 0;   // 16 i8
  size_t reference = 0;  // f32, length of code 1
  size_t phi = 0;        // rank f16
  size_t means = 0;      // d f16
  size_t total = 0;
};
TileBodyLayout LayoutOf(const TileShape& shape, const TileHead& head);
size_t TileBodyBytes(const TileShape& shape, const TileHead& head);
// Enough for any head an encoder may choose: no tile is ever larger than kept raw.
inline size_t MaxTileBodyBytes(const TileShape& shape) { return RoundUpToTile(shape.bytes()); }

void PackTileHead(const TileHead& head, std::byte* out);
// INVALID_ARGUMENT for reserved bits, unknown modes, bits or rank out of range.
absl::Status UnpackTileHead(const std::byte* in, TileHead* head);

}  // namespace kvstow
