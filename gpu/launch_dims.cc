#include "gpu/launch_dims.h"

#include <type_traits>

namespace kvstow::gpu {
namespace {

// Calls f with the dimension as a constant.
template <typename F>
cudaError_t ForDim(uint32_t d, const F& f) {
  switch (d) {
    case 64:
      return f(std::integral_constant<uint32_t, 64>());
    case 80:
      return f(std::integral_constant<uint32_t, 80>());
    case 96:
      return f(std::integral_constant<uint32_t, 96>());
    case 112:
      return f(std::integral_constant<uint32_t, 112>());
    case 128:
      return f(std::integral_constant<uint32_t, 128>());
    case 192:
      return f(std::integral_constant<uint32_t, 192>());
    case 256:
      return f(std::integral_constant<uint32_t, 256>());
    case 576:
      return f(std::integral_constant<uint32_t, 576>());
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t LaunchDecode(const DecodeTile* tiles, uint32_t count, uint32_t n, uint32_t d,
                         uint32_t dtype, const RotaryShape& rotary, const TileTables& tables,
                         cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const DecodeArguments a = {tiles, count, n, dtype, rotary, tables, stream};
  return ForDim(d, [&](auto dim) { return LaunchDecodeOf<dim()>(a); });
}

cudaError_t LaunchResidual(const EncodeBatch& b, uint32_t bits, cudaStream_t stream) {
  return ForDim(b.d, [&](auto dim) { return LaunchResidualOf<dim()>(b, bits, stream); });
}

}  // namespace kvstow::gpu
