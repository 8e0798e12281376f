// A stream whose kernels run on some of the device's multiprocessors: a green context. Through the
// driver's entry points, so that nothing links libcuda.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace kvstow::gpu {

class GreenStream {
 public:
  // At least `multiprocessors`, rounded up to what the device can split; multiprocessors() says how
  // many. UNIMPLEMENTED where the driver has no green contexts.
  static absl::StatusOr<std::unique_ptr<GreenStream>> Create(int device, uint32_t multiprocessors);
  virtual ~GreenStream() = default;

  virtual cudaStream_t stream() const = 0;
  virtual uint32_t multiprocessors() const = 0;
};

}  // namespace kvstow::gpu
