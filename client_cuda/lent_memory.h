// Buffers for what is enqueued and still under way: one is used again once the stream has passed
// what used it before.
//
// Not thread-safe. Ends when the stream has passed all of it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu/cuda_handles.h"
#include "gpu/staging.h"

namespace kvstow {

class LentMemory {
 public:
  struct Buffers {
    gpu::PinnedBuffer host;
    gpu::DeviceBuffer device;
    gpu::Event passed;
  };

  LentMemory(int device, cudaStream_t stream) : device_(device), stream_(stream) {}
  ~LentMemory();

  // Some that nothing uses, with so much room, and does not wait for it: a stream that is late
  // leaves the caller its deadline. UNAVAILABLE when too many are under way.
  absl::StatusOr<Buffers*> Borrow(size_t host_bytes, size_t device_bytes = 0);
  // What uses them has been enqueued.
  absl::Status Return(Buffers* buffers);
  // Waits for all of it.
  absl::Status AwaitAll();

 private:
  // More than calls have under way, but for those that were given up.
  static constexpr size_t kMost = 16;

  absl::StatusOr<Buffers*> Add();

  const int device_;
  const cudaStream_t stream_;
  std::vector<std::unique_ptr<Buffers>> buffers_;
};

}  // namespace kvstow
