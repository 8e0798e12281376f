// Many small copies to device memory, enqueued as few: from pinned host memory by the copy engine,
// from device memory by one kernel. Copies of their own would cost more to launch than to make.
//
// Not thread-safe. Descriptions of device copies are read by the kernel where they are: nothing may
// be added again until the stream has passed the last Enqueue.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "gpu/piece_copy.h"
#include "gpu/staging.h"

namespace kvstow::gpu {

class PieceCopies {
 public:
  void Reserve(size_t pieces);
  void Clear();
  // By the copy engine: from pinned host memory, or from the device. What follows the copy before
  // at both ends becomes one with it, but for where a piece starts: memory registered in two calls
  // cannot be copied in one. With one copy from memory that is not `pinned` all go one by one.
  void Add(const std::byte* from, std::byte* to, size_t bytes, bool starts_piece, bool pinned);
  // By the kernel, from device memory; all three multiples of 16.
  void AddOnDevice(const std::byte* from, std::byte* to, size_t bytes);
  // RESOURCE_EXHAUSTED when there is no pinned memory for the descriptions.
  absl::Status Enqueue(cudaStream_t stream);

  // Of the copy engine.
  size_t pieces() const { return sizes_.size(); }

 private:
  absl::Status EnqueueCopies(cudaStream_t stream) const;
  absl::Status EnqueueKernel(cudaStream_t stream);

  std::vector<void*> to_;
  std::vector<const void*> from_;
  std::vector<size_t> sizes_;
  const std::byte* end_of_from_ = nullptr;  // of the last
  const std::byte* end_of_to_ = nullptr;
  bool pinned_ = true;  // all of them
  std::vector<PieceCopy> on_device_;
  PinnedBuffer descriptions_;
};

}  // namespace kvstow::gpu
