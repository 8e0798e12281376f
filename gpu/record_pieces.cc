#include "gpu/record_pieces.h"

#include <cstdint>

namespace kvstow::gpu {

absl::Status CheckRecord(const StoredRecord& record, const PlaneLayout& layout) {
  if (record.index == nullptr || record.index->planes().size() != layout.planes().size()) {
    return absl::InvalidArgumentError("record without an index of this layout");
  }
  uint64_t covered = 0;
  for (const RecordPiece& piece : record.pieces) {
    if (reinterpret_cast<uintptr_t>(piece.data) % kTileAlignment != 0 ||
        covered % kTileAlignment != 0) {
      return absl::InvalidArgumentError("pieces of a record are not aligned");
    }
    covered += piece.size;
  }
  if (covered < record.index->header().record_bytes) {
    return absl::InvalidArgumentError("pieces do not cover their record");
  }
  return absl::OkStatus();
}

}  // namespace kvstow::gpu
