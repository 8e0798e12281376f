// Residual kernels of dimensions below 128.
#include "gpu/residual_tile.cuh"

namespace kvstow::gpu {

cudaError_t LaunchResidual64(const EncodeBatch& b, uint32_t bits, cudaStream_t stream) {
  return LaunchResidualOf<64>(b, bits, stream);
}
cudaError_t LaunchResidual80(const EncodeBatch& b, uint32_t bits, cudaStream_t stream) {
  return LaunchResidualOf<80>(b, bits, stream);
}
cudaError_t LaunchResidual96(const EncodeBatch& b, uint32_t bits, cudaStream_t stream) {
  return LaunchResidualOf<96>(b, bits, stream);
}
cudaError_t LaunchResidual112(const EncodeBatch& b, uint32_t bits, cudaStream_t stream) {
  return LaunchResidualOf<112>(b, bits, stream);
}

}  // namespace kvstow::gpu
