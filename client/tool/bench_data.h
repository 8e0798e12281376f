// KV for load tests: real, from arrays, or synthetic.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "client/tool/kv_arrays.h"
#include "space/plane_layout.h"

namespace kvstow::tool {

// Planes of a few distinct blocks, made once. Immutable and thread-safe.
class BenchData {
 public:
  // The whole blocks of the arrays. REQUIRES arrays.Check(layout) and at least one block.
  static BenchData FromArrays(const PlaneLayout& layout, const KvArrays& arrays);
  // Low rank plus noise with an outlier channel or two, roughly as KV looks: never zeros, which
  // would compress to nothing.
  static BenchData Synthetic(const PlaneLayout& layout, size_t blocks);

  size_t blocks() const { return blocks_; }  // distinct ones
  std::span<const std::byte> Plane(size_t plane_index, size_t block) const {
    return planes_[(block % blocks_) * planes_of_block_ + plane_index];
  }

 private:
  size_t blocks_ = 0;
  size_t planes_of_block_ = 0;
  std::vector<std::vector<std::byte>> planes_;
};

}  // namespace kvstow::tool
