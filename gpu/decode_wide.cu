// Decoding kernels of dimensions from 128 up.
#include "gpu/decode_tile.cuh"

namespace kvstow::gpu {

template cudaError_t LaunchDecodeOf<128>(const DecodeArguments&);
template cudaError_t LaunchDecodeOf<192>(const DecodeArguments&);
template cudaError_t LaunchDecodeOf<256>(const DecodeArguments&);
template cudaError_t LaunchDecodeOf<576>(const DecodeArguments&);

}  // namespace kvstow::gpu
