// Residual kernels of dimensions from 128 up.
#include "gpu/residual_tile.cuh"

namespace kvstow::gpu {

template cudaError_t LaunchResidualOf<128>(const EncodeBatch&, uint32_t, cudaStream_t);
template cudaError_t LaunchResidualOf<192>(const EncodeBatch&, uint32_t, cudaStream_t);
template cudaError_t LaunchResidualOf<256>(const EncodeBatch&, uint32_t, cudaStream_t);
template cudaError_t LaunchResidualOf<576>(const EncodeBatch&, uint32_t, cudaStream_t);

}  // namespace kvstow::gpu
