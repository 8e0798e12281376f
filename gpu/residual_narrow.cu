// Residual kernels of dimensions below 128.
#include "gpu/residual_tile.cuh"

namespace kvstow::gpu {

template cudaError_t LaunchResidualOf<64>(const EncodeBatch&, uint32_t, cudaStream_t);
template cudaError_t LaunchResidualOf<80>(const EncodeBatch&, uint32_t, cudaStream_t);
template cudaError_t LaunchResidualOf<96>(const EncodeBatch&, uint32_t, cudaStream_t);
template cudaError_t LaunchResidualOf<112>(const EncodeBatch&, uint32_t, cudaStream_t);

}  // namespace kvstow::gpu
