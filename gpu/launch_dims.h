// Kernels that are compiled once a dimension: each launcher is instantiated in a .cu file, narrow
// and wide dimensions apart so that they compile side by side, and chosen in launch_dims.cc.
#pragma once

#include "gpu/kernels.h"

namespace kvstow::gpu {

struct DecodeArguments {
  const DecodeTile* tiles;
  uint32_t count, n, dtype;
  const RotaryShape& rotary;
  const TileTables& tables;
  cudaStream_t stream;
};

template <uint32_t kDim>
cudaError_t LaunchDecodeOf(const DecodeArguments& a);

template <uint32_t kDim>
cudaError_t LaunchResidualOf(const EncodeBatch& b, uint32_t bits, cudaStream_t stream);

}  // namespace kvstow::gpu
