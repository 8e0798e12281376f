// Products of a tile with a few vectors of its short side.
//
// Where tokens are the short side a row of the transposed tile is a long-side entry and a warp
// takes it; where channels are, a thread takes a token and walks the channels. Both read lines.
#pragma once

#include "gpu/elements.cuh"
#include "gpu/kernels.h"

namespace kvstow::gpu {

inline constexpr uint32_t kProjected = 4;  // vectors at a time

// out[i][l] = sum_j y(l, j) vectors[i][j] for i < count; the whole block.
__device__ inline void Project(const EncodeBatch& b, const float* y, const float* vectors,
                               uint32_t count, float* out) {
  const uint32_t p = b.p, q = b.q;
  for (uint32_t first = 0; first < count; first += kProjected) {
    const uint32_t batch = min(kProjected, count - first);
    const float* v = vectors + size_t{first} * p;
    float* to = out + size_t{first} * q;
    if (b.tokens_short != 0) {
      const uint32_t lane = threadIdx.x % kWarp;
      for (uint32_t l = threadIdx.x / kWarp; l < q; l += blockDim.x / kWarp) {
        float sums[kProjected] = {};
        for (uint32_t j = lane; j < p; j += kWarp) {
          const float x = y[size_t{l} * p + j];
#pragma unroll
          for (uint32_t i = 0; i < kProjected; ++i) {
            if (i < batch) sums[i] = fmaf(x, v[size_t{i} * p + j], sums[i]);
          }
        }
#pragma unroll
        for (uint32_t i = 0; i < kProjected; ++i) {
          if (i >= batch) break;
          const float sum = WarpSum(sums[i]);
          if (lane == 0) to[size_t{i} * q + l] = sum;
        }
      }
    } else {
      for (uint32_t l = threadIdx.x; l < q; l += blockDim.x) {
        float sums[kProjected] = {};
        for (uint32_t j = 0; j < p; ++j) {
          const float x = y[size_t{j} * q + l];
#pragma unroll
          for (uint32_t i = 0; i < kProjected; ++i) {
            if (i < batch) sums[i] = fmaf(x, v[size_t{i} * p + j], sums[i]);
          }
        }
#pragma unroll
        for (uint32_t i = 0; i < kProjected; ++i) {
          if (i < batch) to[size_t{i} * q + l] = sums[i];
        }
      }
    }
  }
}

// Sum of squares of a vector, in double, for the calling warp.
__device__ inline double WarpEnergy(const float* x, uint32_t count) {
  double sum = 0;
  for (uint32_t i = threadIdx.x % kWarp; i < count; i += kWarp) {
    sum += static_cast<double>(x[i]) * x[i];
  }
  return WarpSum(sum);
}

}  // namespace kvstow::gpu
