// Decoding kernels of dimension 128 and up.
#include "gpu/decode_dims.h"
#include "gpu/decode_tile.cuh"

namespace kvstow::gpu {

cudaError_t LaunchDecode128(const DecodeArguments& a) {
  return LaunchDecodeOf<128>(a.tiles, a.count, a.n, a.dtype, a.rotary, a.tables, a.stream);
}
cudaError_t LaunchDecode192(const DecodeArguments& a) {
  return LaunchDecodeOf<192>(a.tiles, a.count, a.n, a.dtype, a.rotary, a.tables, a.stream);
}
cudaError_t LaunchDecode256(const DecodeArguments& a) {
  return LaunchDecodeOf<256>(a.tiles, a.count, a.n, a.dtype, a.rotary, a.tables, a.stream);
}
cudaError_t LaunchDecode576(const DecodeArguments& a) {
  return LaunchDecodeOf<576>(a.tiles, a.count, a.n, a.dtype, a.rotary, a.tables, a.stream);
}

cudaError_t LaunchDecode(const DecodeTile* tiles, uint32_t count, uint32_t n, uint32_t d,
                         uint32_t dtype, const RotaryShape& rotary, const TileTables& tables,
                         cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const DecodeArguments a = {tiles, count, n, dtype, rotary, tables, stream};
  switch (d) {
    case 64:
      return LaunchDecode64(a);
    case 80:
      return LaunchDecode80(a);
    case 96:
      return LaunchDecode96(a);
    case 112:
      return LaunchDecode112(a);
    case 128:
      return LaunchDecode128(a);
    case 192:
      return LaunchDecode192(a);
    case 256:
      return LaunchDecode256(a);
    case 576:
      return LaunchDecode576(a);
  }
  return cudaErrorInvalidValue;
}

}  // namespace kvstow::gpu
