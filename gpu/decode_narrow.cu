// Decoding kernels of dimensions below 128.
#include "gpu/decode_dims.h"
#include "gpu/decode_tile.cuh"

namespace kvstow::gpu {

cudaError_t LaunchDecode64(const DecodeArguments& a) {
  return LaunchDecodeOf<64>(a.tiles, a.count, a.n, a.dtype, a.rotary, a.tables, a.stream);
}
cudaError_t LaunchDecode80(const DecodeArguments& a) {
  return LaunchDecodeOf<80>(a.tiles, a.count, a.n, a.dtype, a.rotary, a.tables, a.stream);
}
cudaError_t LaunchDecode96(const DecodeArguments& a) {
  return LaunchDecodeOf<96>(a.tiles, a.count, a.n, a.dtype, a.rotary, a.tables, a.stream);
}
cudaError_t LaunchDecode112(const DecodeArguments& a) {
  return LaunchDecodeOf<112>(a.tiles, a.count, a.n, a.dtype, a.rotary, a.tables, a.stream);
}

}  // namespace kvstow::gpu
