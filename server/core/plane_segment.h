// How planes and pieces of them are named, as on the wire.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "codec/report.h"
#include "space/plane_layout.h"

namespace kvstow {

// How planes travel: as the engine has them, or as those of a record.
enum class PlaneForm { kDecoded, kEncoded };

// What is said of an encoded plane.
struct PlaneDeclaration {
  uint32_t crc32c = 0;
  std::vector<ErrorSums> tiles = {};  // of a Put, one a head of what a codec made
};

// A run of bytes of one plane of one block.
struct PlaneSegment {
  uint32_t layer = 0;
  PlaneKind kind = PlaneKind::kK;
  uint32_t block = 0;  // index into the announced (Put) or asked-for (Get) blocks
  uint32_t offset = 0;
  uint32_t length = 0;
  uint32_t plane_bytes = 0;  // of the whole plane, in the form that travels
  uint32_t staged_at = 0;    // of one that lies in the call's slot
  // Of an encoded plane, with its first bytes.
  std::optional<PlaneDeclaration> declared = std::nullopt;
};

}  // namespace kvstow
