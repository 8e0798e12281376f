// Residual kernels of dimension 128 and up.
#include "gpu/residual_tile.cuh"

namespace kvstow::gpu {

cudaError_t LaunchResidual(const EncodeBatch& b, uint32_t bits, cudaStream_t stream) {
  switch (b.d) {
    case 64:
      return LaunchResidual64(b, bits, stream);
    case 80:
      return LaunchResidual80(b, bits, stream);
    case 96:
      return LaunchResidual96(b, bits, stream);
    case 112:
      return LaunchResidual112(b, bits, stream);
    case 128:
      return LaunchResidualOf<128>(b, bits, stream);
    case 192:
      return LaunchResidualOf<192>(b, bits, stream);
    case 256:
      return LaunchResidualOf<256>(b, bits, stream);
    case 576:
      return LaunchResidualOf<576>(b, bits, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace kvstow::gpu
