// Device memory that processes share through file descriptors, by CUDA's virtual memory management.
// Unlike memory shared by cudaIpcGetMemHandle it needs no common PID or IPC namespace, so that
// containers share it over a Unix socket, and it is counted: it goes with its last mapping, whoever
// dies first, and freeing it under another's feet cannot happen.
//
// Move-only, not thread-safe.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "absl/status/statusor.h"

namespace kvstow::gpu {

class SharedMapping {
 public:
  SharedMapping() = default;
  SharedMapping(SharedMapping&& o) noexcept
      : bytes_(std::exchange(o.bytes_, {})), descriptor_(std::exchange(o.descriptor_, -1)) {}
  SharedMapping& operator=(SharedMapping&& o) noexcept {
    std::swap(bytes_, o.bytes_);
    std::swap(descriptor_, o.descriptor_);
    return *this;
  }
  ~SharedMapping();

  // Zeros on device `device`, `bytes` rounded up to its large pages. RESOURCE_EXHAUSTED when there
  // is not so much, UNIMPLEMENTED where the driver shares none.
  static absl::StatusOr<SharedMapping> Create(int device, size_t bytes);
  // What another process made, of exactly this size. The descriptor stays the caller's.
  // FAILED_PRECONDITION when it is no such memory, or of another device.
  static absl::StatusOr<SharedMapping> Import(int device, int descriptor, size_t bytes);

  std::span<std::byte> bytes() const { return bytes_; }
  // Of memory that was made here, until it is closed; else -1.
  int descriptor() const { return descriptor_; }
  void CloseDescriptor();

 private:
  std::span<std::byte> bytes_;
  int descriptor_ = -1;
};

}  // namespace kvstow::gpu
