#include "gpu/rotary_cache.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvstow::gpu {

absl::StatusOr<RotaryCache> RotaryCache::Create(const PlaneLayout& layout, size_t max_blocks,
                                                cudaStream_t stream) {
  RotaryCache out;
  const auto& planes = layout.planes();
  out.needed_ = std::any_of(planes.begin(), planes.end(),
                            [](const PlaneSpec& plane) { return plane.rotary != nullptr; });
  out.max_blocks_ = max_blocks;
  out.stream_ = stream;
  if (!out.needed_) return out;
  auto rotary = DeviceRotary::Create(layout, max_blocks);
  if (!rotary.ok()) return rotary.status();
  out.rotary_ = std::make_unique<DeviceRotary>(*std::move(rotary));
  KVSTOW_RETURN_IF_ERROR(out.positions_host_.Reserve(max_blocks * sizeof(uint64_t)));
  KVSTOW_RETURN_IF_ERROR(out.positions_.Reserve(max_blocks * sizeof(uint64_t)));
  auto copied = MakeEvent();
  if (!copied.ok()) return copied.status();
  out.copied_ = *std::move(copied);
  return out;
}

absl::Status RotaryCache::Fill() {
  const size_t blocks = block_at_.size();
  if (blocks > max_blocks_) {
    block_at_.clear();
    return absl::InvalidArgumentError(
        absl::StrCat("planes of ", blocks, " blocks at a time; the limit is ", max_blocks_));
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(copied_.get()));
  auto* host = reinterpret_cast<uint64_t*>(positions_host_.data());
  for (const auto& [position, at] : block_at_) host[at] = position;
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(positions_.data(), host, blocks * sizeof(uint64_t),
                                              cudaMemcpyHostToDevice, stream_));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(copied_.get(), stream_));
  return rotary_->Fill(reinterpret_cast<const uint64_t*>(positions_.data()), blocks, stream_);
}

}  // namespace kvstow::gpu
