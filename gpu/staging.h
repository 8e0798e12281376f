// Buffers in device and pinned memory that grow and are freed with their owner, overwritten: what
// work on one tenant's KV left in them is not what the next allocation, perhaps another tenant's,
// begins with. Not thread-safe.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "gpu/cuda_status.h"

namespace kvstow::gpu {

struct DeviceMemory {
  static cudaError_t Allocate(void** p, size_t bytes) { return cudaMalloc(p, bytes); }
  static cudaError_t Free(void* p) { return cudaFree(p); }
};
struct PinnedMemory {
  static cudaError_t Allocate(void** p, size_t bytes) {
    return cudaHostAlloc(p, bytes, cudaHostAllocDefault);
  }
  static cudaError_t Free(void* p) { return cudaFreeHost(p); }
};

template <typename Memory>
class GrowingBuffer {
 public:
  GrowingBuffer() = default;
  GrowingBuffer(GrowingBuffer&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)),
        size_(std::exchange(o.size_, 0)),
        used_(std::exchange(o.used_, 0)) {}
  GrowingBuffer& operator=(GrowingBuffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    std::swap(used_, o.used_);
    return *this;
  }
  // REQUIRES that nothing on the device uses it any more.
  ~GrowingBuffer() { (void)Free(); }

  // Contents are lost when it grows, which REQUIRES that nothing uses it. RESOURCE_EXHAUSTED when
  // there is no such room.
  absl::Status Reserve(size_t bytes) {
    used_ = std::max(used_, std::min(bytes, size_));
    if (bytes <= size_) return absl::OkStatus();
    void* p = nullptr;
    // Doubling, once it grows: every growth stops the device.
    constexpr size_t kUnit = size_t{1} << 20;
    const size_t rounded =
        size_ == 0 ? (bytes + kUnit - 1) / kUnit * kUnit : std::bit_ceil(std::max(bytes, kUnit));
    // The old one stays where there is no room for a larger one.
    KVSTOW_CUDA_RETURN_IF_ERROR(Memory::Allocate(&p, rounded));
    const cudaError_t freed = Free();
    data_ = static_cast<std::byte*>(p);
    size_ = rounded;
    used_ = bytes;
    KVSTOW_CUDA_RETURN_IF_ERROR(freed);
    return absl::OkStatus();
  }
  // Enqueues zeros for all that was asked for with Reserve since the last time.
  absl::Status Overwrite(cudaStream_t stream) {
    if (used_ == 0) return absl::OkStatus();
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemsetAsync(data_, 0, std::exchange(used_, 0), stream));
    return absl::OkStatus();
  }
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  cudaError_t Free() {
    if (data_ == nullptr) return cudaSuccess;
    // On the device whose memory it is, whichever this thread uses.
    int current = 0;
    cudaPointerAttributes of = {};
    if (cudaGetDevice(&current) == cudaSuccess &&
        cudaPointerGetAttributes(&of, data_) == cudaSuccess &&
        cudaSetDevice(of.device) == cudaSuccess) {
      (void)cudaMemset(data_, 0, size_);
      (void)cudaSetDevice(current);
    }
    return Memory::Free(data_);
  }

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t used_ = 0;  // from the front, since it was overwritten
};

using DeviceBuffer = GrowingBuffer<DeviceMemory>;
using PinnedBuffer = GrowingBuffer<PinnedMemory>;

}  // namespace kvstow::gpu
