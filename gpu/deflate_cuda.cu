// Takes dominant directions out of a tile before its Gram matrix is formed afresh: a float Gram
// matrix loses the bulk behind them. Few tiles need it; a block walks the round's list.
#include "gpu/project.cuh"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    DeflateKernel(const __grid_constant__ EncodeBatch b, uint32_t round) {
  const uint32_t count = b.counters[1 + round];
  const uint32_t p = b.p, q = b.q;
  for (uint32_t at = blockIdx.x; at < count; at += gridDim.x) {
    const uint32_t index = b.pending[size_t{round} * b.max_slots + at];
    Slot* slot = &b.slots[index];
    const size_t tile = size_t{index} * b.n * b.d;
    const uint32_t first = slot->deflated, vectors = slot->vectors - first;
    const float* from = (first > 0 ? b.deflated : b.x) + tile;
    float* to = b.deflated + tile;
    const float* shorts = b.shorts + (size_t{index} * kMaxVectors + first) * p;
    float* longs = b.longs + (size_t{index} * kMaxVectors + first) * q;
    Project(b, from, shorts, vectors, longs);
    __syncthreads();
    for (uint32_t i = threadIdx.x / kWarp; i < vectors; i += kThreads / kWarp) {
      const double energy = WarpEnergy(longs + size_t{i} * q, q);
      if (threadIdx.x % kWarp == 0) slot->direction_lambda[first + i] = energy;
    }
    for (uint32_t i = threadIdx.x; i < p * q; i += kThreads) {
      // Entry i of [d, n]: the inner index runs over tokens.
      const uint32_t outer = i / b.n, inner = i % b.n;
      const uint32_t l = b.tokens_short != 0 ? outer : inner;
      const uint32_t j = b.tokens_short != 0 ? inner : outer;
      float e = from[i];
      for (uint32_t k = 0; k < vectors; ++k) {
        e = fmaf(-longs[size_t{k} * q + l], shorts[size_t{k} * p + j], e);
      }
      to[i] = e;
    }
    __syncthreads();
    if (threadIdx.x == 0) slot->deflated = slot->vectors;
  }
}

}  // namespace

cudaError_t LaunchDeflate(const EncodeBatch& b, uint32_t round, cudaStream_t stream) {
  const uint32_t grid = b.max_slots < 264 ? b.max_slots : 264;
  DeflateKernel<<<grid, kThreads, 0, stream>>>(b, round);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
