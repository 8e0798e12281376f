// LaunchTridiagonalise for p above 128.
#pragma once

#include "gpu/kernels.h"

namespace kvstow::gpu {

cudaError_t LaunchLargeTridiagonalise(const EncodeBatch& batch, uint32_t round,
                                      cudaStream_t stream);

}  // namespace kvstow::gpu
