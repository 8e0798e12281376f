// A record where a tier keeps it: runs of pages in host or device memory. Plain structs that
// borrow.
#pragma once

#include <cstddef>
#include <span>

#include "codec/record.h"

namespace kvstow {

// Consecutive bytes of a record. Address and size are multiples of 16, the last size excepted.
struct RecordPiece {
  const std::byte* data = nullptr;
  size_t size = 0;
};

struct StoredRecord {
  const RecordIndex* index = nullptr;   // read with the layout it is used with
  bool on_device = false;               // else in host memory
  std::span<const RecordPiece> pieces;  // in order; at least the record's bytes
  bool pinned = true;                   // of host memory: copies of it go at the bus's speed
};

}  // namespace kvstow
