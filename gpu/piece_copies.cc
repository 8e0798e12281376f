#include "gpu/piece_copies.h"

#include <algorithm>

#include "gpu/cuda_status.h"

namespace kvstow::gpu {

void PieceCopies::Reserve(size_t pieces) {
  to_.reserve(pieces);
  from_.reserve(pieces);
  sizes_.reserve(pieces);
}

void PieceCopies::Clear() {
  to_.clear();
  from_.clear();
  sizes_.clear();
  on_device_.clear();
  end_of_from_ = end_of_to_ = nullptr;
  pinned_ = true;
}

void PieceCopies::Add(const std::byte* from, std::byte* to, size_t bytes, bool starts_piece,
                      bool pinned) {
  pinned_ = pinned_ && pinned;
  if (!starts_piece && end_of_from_ == from && end_of_to_ == to) {
    sizes_.back() += bytes;
  } else {
    to_.push_back(to);
    from_.push_back(from);
    sizes_.push_back(bytes);
  }
  end_of_from_ = from + bytes;
  end_of_to_ = to + bytes;
}

void PieceCopies::AddOnDevice(const std::byte* from, std::byte* to, size_t bytes) {
  on_device_.push_back(
      {reinterpret_cast<const uint8_t*>(from), reinterpret_cast<uint8_t*>(to), bytes});
}

absl::Status PieceCopies::Enqueue(cudaStream_t stream) {
  if (!sizes_.empty()) KVSTOW_RETURN_IF_ERROR(EnqueueCopies(stream));
  if (!on_device_.empty()) KVSTOW_RETURN_IF_ERROR(EnqueueKernel(stream));
  return absl::OkStatus();
}

absl::Status PieceCopies::EnqueueCopies(cudaStream_t stream) const {
  if (!pinned_) {
    for (size_t i = 0; i < sizes_.size(); ++i) {
      KVSTOW_CUDA_RETURN_IF_ERROR(
          cudaMemcpyAsync(to_[i], from_[i], sizes_[i], cudaMemcpyDefault, stream));
    }
    return absl::OkStatus();
  }
  cudaMemcpyAttributes attributes = {};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
  size_t first = 0;
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyBatchAsync(to_.data(), from_.data(), sizes_.data(),
                                                   sizes_.size(), &attributes, &first, 1, stream));
  return absl::OkStatus();
}

absl::Status PieceCopies::EnqueueKernel(cudaStream_t stream) {
  KVSTOW_RETURN_IF_ERROR(descriptions_.Reserve(on_device_.size() * sizeof(PieceCopy)));
  auto* descriptions = reinterpret_cast<PieceCopy*>(descriptions_.data());
  std::copy(on_device_.begin(), on_device_.end(), descriptions);
  KVSTOW_CUDA_RETURN_IF_ERROR(
      LaunchPieceCopies(descriptions, static_cast<uint32_t>(on_device_.size()), stream));
  return absl::OkStatus();
}

}  // namespace kvstow::gpu
