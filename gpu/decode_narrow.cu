// Decoding kernels of dimensions below 128.
#include "gpu/decode_tile.cuh"

namespace kvstow::gpu {

template cudaError_t LaunchDecodeOf<64>(const DecodeArguments&);
template cudaError_t LaunchDecodeOf<80>(const DecodeArguments&);
template cudaError_t LaunchDecodeOf<96>(const DecodeArguments&);
template cudaError_t LaunchDecodeOf<112>(const DecodeArguments&);

}  // namespace kvstow::gpu
