#include "codec/space_rotary.h"

#include <algorithm>

namespace kvstow {

SpaceRotary::SpaceRotary(const PlaneLayout& layout) {
  for (const PlaneSpec& plane : layout.planes()) {
    if (plane.rotary == nullptr) {
      table_of_plane_.push_back(-1);
      continue;
    }
    auto same = std::find_if(offsets_.begin(), offsets_.end(),
                             [&](const RotaryOffsets& o) { return o.rotary() == *plane.rotary; });
    if (same == offsets_.end()) {
      offsets_.emplace_back(*plane.rotary, plane.tokens);
      same = offsets_.end() - 1;
    }
    table_of_plane_.push_back(static_cast<int>(same - offsets_.begin()));
  }
}

BlockRotary SpaceRotary::At(uint64_t first_position) const {
  BlockRotary rotary;
  rotary.table_of_plane_ = &table_of_plane_;
  rotary.tables_.reserve(offsets_.size());
  for (const RotaryOffsets& o : offsets_) rotary.tables_.emplace_back(o, first_position);
  return rotary;
}

}  // namespace kvstow
