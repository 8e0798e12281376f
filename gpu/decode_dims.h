// One launcher a dimension, so that their kernels compile apart.
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

cudaError_t LaunchDecode64(const DecodeArguments& a);
cudaError_t LaunchDecode80(const DecodeArguments& a);
cudaError_t LaunchDecode96(const DecodeArguments& a);
cudaError_t LaunchDecode112(const DecodeArguments& a);
cudaError_t LaunchDecode128(const DecodeArguments& a);
cudaError_t LaunchDecode192(const DecodeArguments& a);
cudaError_t LaunchDecode256(const DecodeArguments& a);
cudaError_t LaunchDecode576(const DecodeArguments& a);

}  // namespace kvstow::gpu
