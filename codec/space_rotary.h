// The rotary tables of the planes of a space's blocks, one for each embedding in use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec/rotary_table.h"
#include "space/plane_layout.h"

namespace kvstow {

// Of one block's positions. Immutable, thread-safe; refers to the SpaceRotary it came from.
class BlockRotary {
 public:
  // Null for planes without a rotary embedding to undo; `plane_index` as in layout.planes().
  const RotaryTable* of_plane(size_t plane_index) const {
    const int table = (*table_of_plane_)[plane_index];
    return table < 0 ? nullptr : &tables_[static_cast<size_t>(table)];
  }

 private:
  friend class SpaceRotary;
  const std::vector<int>* table_of_plane_ = nullptr;
  std::vector<RotaryTable> tables_;
};

// Immutable, thread-safe.
class SpaceRotary {
 public:
  explicit SpaceRotary(const PlaneLayout& layout);

  BlockRotary At(uint64_t first_position) const;

 private:
  std::vector<RotaryOffsets> offsets_;  // one a distinct rotary embedding
  std::vector<int> table_of_plane_;     // index into offsets_, or -1
};

}  // namespace kvstow
