// Products of a tile with a few vectors of its short side.
//
// Where tokens are the short side a row of the transposed tile is a long-side entry and a warp
// takes four; where channels are, a thread takes a token and walks the channels. Both read lines.
#pragma once

#include "gpu/elements.cuh"
#include "gpu/kernels.h"

namespace kvstow::gpu {

inline constexpr uint32_t kProjected = 4;  // vectors at a time

// Four long-side entries l.. of the tile times kProjected vectors, those past `batch` not written.
__device__ __forceinline__ void ProjectFourRows(const float* y, const float* v, uint32_t p,
                                                uint32_t q, uint32_t l, uint32_t batch, float* to) {
  const uint32_t lane = threadIdx.x % kWarp;
  float sums[16] = {};  // [vector, row]
  for (uint32_t j = 4 * lane; j < p; j += 4 * kWarp) {
    float4 x[4];
#pragma unroll
    for (uint32_t r = 0; r < 4; ++r) {
      x[r] = *reinterpret_cast<const float4*>(y + size_t{l + r} * p + j);
    }
#pragma unroll
    for (uint32_t i = 0; i < kProjected; ++i) {
      if (i >= batch) continue;
      const float4 e = *reinterpret_cast<const float4*>(v + size_t{i} * p + j);
#pragma unroll
      for (uint32_t r = 0; r < 4; ++r) {
        float& sum = sums[4 * i + r];
        sum = fmaf(x[r].x, e.x, fmaf(x[r].y, e.y, fmaf(x[r].z, e.z, fmaf(x[r].w, e.w, sum))));
      }
    }
  }
  const float sum = SpreadSixteen(sums);
  const uint32_t i = lane / 8, r = lane / 2 % 4;
  if (lane % 2 == 0 && i < batch) to[size_t{i} * q + l + r] = sum;
}

// out[i][l] = sum_j y(l, j) vectors[i][j] for i < count; the whole block.
__device__ inline void Project(const EncodeBatch& b, const float* y, const float* vectors,
                               uint32_t count, float* out) {
  const uint32_t p = b.p, q = b.q;
  for (uint32_t first = 0; first < count; first += kProjected) {
    const uint32_t batch = min(kProjected, count - first);
    const float* v = vectors + size_t{first} * p;
    float* to = out + size_t{first} * q;
    if (b.tokens_short != 0) {
      for (uint32_t l = threadIdx.x / kWarp * 4; l < q; l += blockDim.x / kWarp * 4) {
        ProjectFourRows(y, v, p, q, l, batch, to);
      }
      continue;
    }
    for (uint32_t l = threadIdx.x; l < q; l += blockDim.x) {
      float sums[kProjected] = {};
#pragma unroll 2
      for (uint32_t j = 0; j < p; j += 4) {
        float x[4];
#pragma unroll
        for (uint32_t k = 0; k < 4; ++k) x[k] = y[size_t{j + k} * q + l];
#pragma unroll
        for (uint32_t i = 0; i < kProjected; ++i) {
          if (i >= batch) break;
          const float4 e = *reinterpret_cast<const float4*>(v + size_t{i} * p + j);
          sums[i] = fmaf(x[0], e.x, fmaf(x[1], e.y, fmaf(x[2], e.z, fmaf(x[3], e.w, sums[i]))));
        }
      }
#pragma unroll
      for (uint32_t i = 0; i < kProjected; ++i) {
        if (i < batch) to[size_t{i} * q + l] = sums[i];
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
