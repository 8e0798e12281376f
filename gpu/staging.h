// Buffers in device and pinned memory that grow and are freed with their owner. Not thread-safe.
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
      : data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)) {}
  GrowingBuffer& operator=(GrowingBuffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    return *this;
  }
  ~GrowingBuffer() { (void)Memory::Free(data_); }

  // Contents are lost when it grows. RESOURCE_EXHAUSTED when there is no such room.
  absl::Status Reserve(size_t bytes) {
    if (bytes <= size_) return absl::OkStatus();
    void* p = nullptr;
    // Doubling: every growth stops the device.
    const size_t rounded = std::bit_ceil(std::max(bytes, size_t{1} << 20));
    // The old one stays where there is no room for a larger one.
    KVSTOW_CUDA_RETURN_IF_ERROR(Memory::Allocate(&p, rounded));
    const cudaError_t freed = Memory::Free(data_);
    data_ = static_cast<std::byte*>(p);
    size_ = rounded;
    KVSTOW_CUDA_RETURN_IF_ERROR(freed);
    return absl::OkStatus();
  }
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

using DeviceBuffer = GrowingBuffer<DeviceMemory>;
using PinnedBuffer = GrowingBuffer<PinnedMemory>;

}  // namespace kvstow::gpu
