// Buffers for what is enqueued and still under way, a few in turns: one is used again once the
// stream has passed what used it before.
//
// Not thread-safe. Ends when the stream has passed all of it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

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

  absl::Status Allocate();
  // Waits until nothing uses them any more.
  absl::StatusOr<Buffers*> Borrow();
  // What uses them has been enqueued.
  absl::Status Return(Buffers* buffers);
  // Waits for all of it.
  absl::Status AwaitAll();

 private:
  const int device_;
  const cudaStream_t stream_;
  Buffers buffers_[4];
  size_t next_ = 0;
};

}  // namespace kvstow
