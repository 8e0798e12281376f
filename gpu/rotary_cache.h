// Which blocks DeviceRotary has tables of: a batch of planes names its blocks by their positions,
// and what an earlier batch had made is there already.
//
// Not thread-safe. Everything is enqueued on one stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "gpu/cuda_handles.h"
#include "gpu/device_rotary.h"
#include "gpu/staging.h"
#include "space/plane_layout.h"

namespace kvstow::gpu {

class RotaryCache {
 public:
  static absl::StatusOr<RotaryCache> Create(const PlaneLayout& layout, size_t max_blocks,
                                            cudaStream_t stream);

  // Whether Prepare would have nothing to make.
  template <typename Positions>
  bool Has(const Positions& positions) const {
    if (!needed_) return true;
    for (uint64_t position : positions) {
      if (!block_at_.contains(position)) return false;
    }
    return true;
  }

  // Makes the tables that a batch needs and that are not there. `positions` is any range of first
  // positions, repeated or not. INVALID_ARGUMENT for more than max_blocks different ones.
  template <typename Positions>
  absl::Status Prepare(const Positions& positions) {
    if (!needed_) return absl::OkStatus();
    const size_t known = block_at_.size();
    for (uint64_t position : positions) block_at_.try_emplace(position, block_at_.size());
    if (block_at_.size() == known) return absl::OkStatus();
    if (block_at_.size() > max_blocks_) {
      // Those of earlier batches make room.
      block_at_.clear();
      for (uint64_t position : positions) block_at_.try_emplace(position, block_at_.size());
    }
    return Fill();
  }

  // Null for planes whose rotary embedding is not undone.
  struct Tables {
    const float* cos = nullptr;
    const float* sin = nullptr;
  };
  // Of the layout's plane `plane` at a position that was prepared last.
  Tables At(size_t plane, uint64_t position) const {
    if (!needed_ || !rotary_->Undoes(plane)) return {};
    const size_t block = block_at_.at(position);
    return {rotary_->Cos(plane, block), rotary_->Sin(plane, block)};
  }

 private:
  absl::Status Fill();

  bool needed_ = false;  // by any plane
  size_t max_blocks_ = 0;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<DeviceRotary> rotary_;
  absl::flat_hash_map<uint64_t, size_t> block_at_;  // by first position: which of rotary_'s
  PinnedBuffer positions_host_;
  DeviceBuffer positions_;
  Event copied_;  // positions_host_ may be written again
};

}  // namespace kvstow::gpu
