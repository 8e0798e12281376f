// Rotary tables of blocks, as codec/rotary_table.h makes them: angles in double, those of a block's
// start and of the offsets joined by the addition theorem.
#include "gpu/plane_kernels.h"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    RotaryTablesKernel(const uint64_t* first_positions, const float* inverse_frequencies,
                       const double* offset_cos, const double* offset_sin, uint32_t tokens,
                       uint32_t pairs, float* tables) {
  extern __shared__ double start[];  // [2, pairs]
  const auto position = static_cast<double>(first_positions[blockIdx.x]);
  for (uint32_t i = threadIdx.x; i < pairs; i += kThreads) {
    sincos(position * static_cast<double>(inverse_frequencies[i]), &start[pairs + i], &start[i]);
  }
  __syncthreads();
  const uint32_t entries = tokens * pairs;
  float* const cos_out = tables + size_t{blockIdx.x} * 2 * entries;
  float* const sin_out = cos_out + entries;
  for (uint32_t at = threadIdx.x; at < entries; at += kThreads) {
    const double cos = start[at % pairs], sin = start[pairs + at % pairs];
    cos_out[at] = static_cast<float>(cos * offset_cos[at] - sin * offset_sin[at]);
    sin_out[at] = static_cast<float>(sin * offset_cos[at] + cos * offset_sin[at]);
  }
}

}  // namespace

cudaError_t LaunchRotaryTables(const uint64_t* first_positions, uint32_t blocks,
                               const float* inverse_frequencies, const double* offset_cos,
                               const double* offset_sin, uint32_t tokens, uint32_t pairs,
                               float* tables, cudaStream_t stream) {
  if (blocks == 0) return cudaSuccess;
  RotaryTablesKernel<<<blocks, kThreads, 2 * pairs * sizeof(double), stream>>>(
      first_positions, inverse_frequencies, offset_cos, offset_sin, tokens, pairs, tables);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
