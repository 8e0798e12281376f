// Copies of pieces of device memory by one kernel.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace kvstow::gpu {

// Addresses and size are multiples of 16.
struct PieceCopy {
  const uint8_t* from = nullptr;
  uint8_t* to = nullptr;
  uint64_t bytes = 0;
};

// `copies`: memory that the device can read.
cudaError_t LaunchPieceCopies(const PieceCopy* copies, uint32_t count, cudaStream_t stream);

}  // namespace kvstow::gpu
