// Records that lie in pieces, as the pipelines read them: host memory is pinned.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "codec/stored_record.h"
#include "space/plane_layout.h"

namespace kvstow::gpu {

// INVALID_ARGUMENT where the pieces are not aligned or do not cover the record, or the index is of
// another layout.
absl::Status CheckRecord(const StoredRecord& record, const PlaneLayout& layout);

// Finds ranges in the pieces of one record, front to back.
class PieceCursor {
 public:
  // REQUIRES an offset not below that of the last call, and a record that passed CheckRecord. The
  // range where it lies, if one piece holds all of it; else null.
  const std::byte* Whole(const StoredRecord& record, uint64_t offset, uint64_t size) {
    MoveTo(record, offset);
    const uint64_t within = offset - begin_;
    const RecordPiece& piece = record.pieces[piece_];
    return within + size <= piece.size ? piece.data + within : nullptr;
  }

  // Calls take(bytes, size, starts_piece) for each part of the range, in order.
  template <typename Take>
  void ForEach(const StoredRecord& record, uint64_t offset, uint64_t size, Take take) {
    while (size > 0) {
      MoveTo(record, offset);
      const uint64_t within = offset - begin_;
      const RecordPiece& piece = record.pieces[piece_];
      const uint64_t part = size < piece.size - within ? size : piece.size - within;
      take(piece.data + within, part, within == 0);
      offset += part;
      size -= part;
    }
  }

 private:
  void MoveTo(const StoredRecord& record, uint64_t offset) {
    while (offset >= begin_ + record.pieces[piece_].size) begin_ += record.pieces[piece_++].size;
  }

  size_t piece_ = 0;
  uint64_t begin_ = 0;  // of the piece in the record
};

}  // namespace kvstow::gpu
