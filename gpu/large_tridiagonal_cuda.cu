// Gram matrix and tridiagonal form for p above 128: blocks of 64 x 64 of the Gram matrix, then one
// block a tile. For 192 and 256 the lower triangle lies in shared memory and steps go as in
// gpu/tridiagonal_cuda.cu; 512 works on a matrix in device memory, in plain steps.
#include "gpu/elements.cuh"
#include "gpu/householder.cuh"
#include "gpu/kernels.h"
#include "gpu/large_tridiagonal.h"
#include "gpu/round_slots.cuh"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kSide = 16;   // threads a side
constexpr uint32_t kChunk = 16;  // long-side entries in shared memory at a time
constexpr uint32_t kLargeThreads = 1024;
constexpr uint32_t kLargeP = 512;

// 64 x 64 of the Gram matrix a block; with lower_only those on the diagonal and below.
__global__ void __launch_bounds__(kThreads)
    LargeGramKernel(const __grid_constant__ EncodeBatch b, uint32_t round, bool lower_only) {
  __shared__ float rows[kChunk][64], cols[kChunk][64];
  const uint32_t p = b.p, blocks = p / 64;
  const uint32_t count = SlotCount(b, round);
  const uint32_t i0 = blockIdx.y / blocks * 64, j0 = blockIdx.y % blocks * 64;
  if (lower_only && j0 > i0) return;
  const uint32_t tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  for (uint32_t at = blockIdx.x; at < count; at += gridDim.x) {
    const uint32_t slot = SlotAt(b, round, at);
    if (b.slots[slot].finite == 0) continue;
    const float* y = (b.slots[slot].deflated > 0 ? b.deflated : b.x) + size_t{slot} * b.n * b.d;
    float acc[4][4] = {};
    for (uint32_t first = 0; first < b.q; first += kChunk) {
      __syncthreads();
      for (uint32_t i = threadIdx.x; i < kChunk * 64; i += kThreads) {
        if (b.tokens_short != 0) {
          const uint32_t k = i / 64, j = i % 64;
          rows[k][j] = y[size_t{first + k} * p + i0 + j];
          cols[k][j] = y[size_t{first + k} * p + j0 + j];
        } else {
          const uint32_t j = i / kChunk, k = i % kChunk;
          rows[k][j] = y[size_t{i0 + j} * b.n + first + k];
          cols[k][j] = y[size_t{j0 + j} * b.n + first + k];
        }
      }
      __syncthreads();
      for (uint32_t k = 0; k < kChunk; ++k) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
#pragma unroll
          for (uint32_t j = 0; j < 4; ++j) {
            acc[i][j] = fmaf(rows[k][ty + 16 * i], cols[k][tx + 16 * j], acc[i][j]);
          }
        }
      }
    }
    float* g = b.gram + size_t{slot} * p * p;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) {
        g[size_t{i0 + ty + 16 * i} * p + j0 + tx + 16 * j] = acc[i][j];
      }
    }
  }
}

// Shared memory of a tile of side kP.
template <uint32_t kP>
struct SharedTile {
  float triangle[kP * (kP + 1) / 2];
  float columns[32][kP + 8];  // each warp's part of A x from above the diagonal
  float v[kP], w[kP], x[kP];
  float row[kP];       // row m of A
  float products[kP];  // the part of A x from the diagonal and below
  float squares[32], quadratics[32];
  float2 at_m;  // x and A x
};

// The update of the step before, and the products with x; a warp takes every 32nd row.
template <uint32_t kP>
__device__ __forceinline__ void SharedPass(SharedTile<kP>& tile, uint32_t m) {
  constexpr uint32_t kBlocks = kP / kWarp;
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  float v[kBlocks], w[kBlocks], x[kBlocks], sums[kBlocks];
#pragma unroll
  for (uint32_t k = 0; k < kBlocks; ++k) {
    sums[k] = 0;
    if (kWarp * k > m) continue;
    v[k] = tile.v[lane + kWarp * k];
    w[k] = tile.w[lane + kWarp * k];
    x[k] = tile.x[lane + kWarp * k];
  }
#pragma unroll
  for (uint32_t r = 0; r < kBlocks; ++r) {
    const uint32_t i = warp + kWarp * r;
    if (i > m) continue;
    const float v_i = tile.v[i], w_i = tile.w[i], x_i = tile.x[i];
    float* a = tile.triangle + i * (i + 1) / 2 + lane;
    float sum = 0;
#pragma unroll
    for (uint32_t k = 0; k <= r; ++k) {
      const bool inside = k < r || lane <= warp;
      float e = inside ? a[kWarp * k] : 0.0f;
      e = fmaf(-v_i, w[k], e);
      e = fmaf(-w_i, v[k], e);
      if (!inside) continue;
      a[kWarp * k] = e;
      sum = fmaf(e, x[k], sum);
      // The diagonal counts once.
      if (k < r || lane < warp) sums[k] = fmaf(e, x_i, sums[k]);
      if (i == m) tile.row[lane + kWarp * k] = e;
    }
    sum = WarpSum(sum);
    if (lane == 0) tile.products[i] = sum;
  }
#pragma unroll
  for (uint32_t k = 0; k < kBlocks; ++k) tile.columns[warp][lane + kWarp * k] = sums[k];
}

template <uint32_t kP>
__device__ __forceinline__ void SharedStep(SharedTile<kP>& tile, uint32_t m, float* g, float* tri) {
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  SharedPass(tile, m);
  __syncthreads();
  // Four threads an entry; all of them end with its product.
  const uint32_t own = threadIdx.x / 4, part = threadIdx.x % 4;
  float product = 0, x = 0;
  if (own < kP) {
#pragma unroll
    for (uint32_t k = 0; k < 32; k += 4) product += tile.columns[part + k][own];
    x = tile.x[own];
  }
  product += __shfl_xor_sync(kAllLanes, product, 1);
  product += __shfl_xor_sync(kAllLanes, product, 2);
  if (own <= m) product += tile.products[own];
  const float mine = part == 0 ? x : 0.0f;
  const float both = SumTwo(own == m ? 0.0f : mine * mine, mine * product, lane);
  if (lane == 0) tile.squares[warp] = both;
  if (lane == 16) tile.quadratics[warp] = both;
  if (own == m && part == 0) tile.at_m = make_float2(x, product);
  __syncthreads();
  const float row_m = tile.row[m];
  const Reflector r = MakeReflector(WarpSum(tile.squares[lane]), tile.at_m.x,
                                    WarpSum(tile.quadratics[lane]), tile.at_m.y, row_m);
  if (part == 0 && own < kP) {
    const StepEntry e = MakeEntry(r, own, m, x, product, own <= m ? tile.row[own] : 0.0f);
    tile.x[own] = e.next;
    tile.v[own] = e.v;
    tile.w[own] = e.w;
    if (own <= m) g[(m + 1) * kP + own] = e.v;
    if (own == m) {
      tri[m] = row_m - 2 * r.head * r.w_m;
      tri[kP + m] = r.off;
      tri[2 * kP + m + 1] = r.factor;
    }
  }
  __syncthreads();
}

template <uint32_t kP>
__global__ void __launch_bounds__(kLargeThreads, 1)
    SharedTridiagonalKernel(const __grid_constant__ EncodeBatch b, uint32_t round) {
  extern __shared__ __align__(16) uint8_t memory[];
  auto& tile = *reinterpret_cast<SharedTile<kP>*>(memory);
  const uint32_t count = SlotCount(b, round);
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (uint32_t at = blockIdx.x; at < count; at += gridDim.x) {
    const uint32_t slot = SlotAt(b, round, at);
    if (b.slots[slot].finite == 0) continue;
    float* g = b.gram + size_t{slot} * kP * kP;
    float* tri = b.tri + size_t{slot} * 3 * kP;
    for (uint32_t i = warp; i + 1 < kP; i += kWarp) {
      for (uint32_t c = lane; c <= i; c += kWarp) {
        tile.triangle[i * (i + 1) / 2 + c] = g[i * kP + c];
      }
    }
    // The last row is x; nothing is pending.
    for (uint32_t c = threadIdx.x; c < kP; c += kLargeThreads) {
      tile.x[c] = c + 1 < kP ? g[(kP - 1) * kP + c] : 0.0f;
      tile.v[c] = tile.w[c] = 0;
      if (c + 1 == kP) {
        tri[c] = g[kP * kP - 1];
        tri[2 * kP] = 0;
      }
    }
    __syncthreads();
    for (uint32_t m = kP - 1; m-- > 0;) SharedStep(tile, m, g, tri);
  }
}

// Full matrix in device memory; the update of the step before runs with the product. A warp takes
// rows, so that reads are lines and products end in one reduction.
__global__ void __launch_bounds__(kLargeThreads, 1)
    LargeTridiagonalKernel(const __grid_constant__ EncodeBatch b, uint32_t round) {
  __shared__ float v[kLargeP], w[kLargeP], x[kLargeP], y[kLargeP];
  __shared__ float room[kLargeThreads / kWarp];
  const uint32_t p = b.p, count = SlotCount(b, round);
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (uint32_t at = blockIdx.x; at < count; at += gridDim.x) {
    const uint32_t slot = SlotAt(b, round, at);
    if (b.slots[slot].finite == 0) continue;
    float* g = b.gram + size_t{slot} * p * p;
    float* diag = b.tri + size_t{slot} * 3 * p;
    float* off = diag + p;
    float* beta = off + p;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < p; i += kLargeThreads) v[i] = w[i] = 0;
    __syncthreads();
    for (uint32_t s = p - 1; s >= 1; --s) {
      float* row = g + size_t{s} * p;
      // The row with the pending update; diagonal included.
      const float v_s = v[s], w_s = w[s];
      float squares = 0;
      for (uint32_t c = threadIdx.x; c <= s; c += kLargeThreads) {
        const float e = row[c] - v_s * w[c] - w_s * v[c];
        x[c] = e;
        if (c + 1 < s) squares = fmaf(e, e, squares);
      }
      const float sigma = BlockSum(squares, room);
      const float alpha = x[s - 1];
      float length = 0, head = 0, factor = 0;
      const bool eliminate = sigma >= kNegligible;
      if (eliminate) {
        length = sqrtf(fmaf(alpha, alpha, sigma));
        head = alpha < 0 ? alpha - length : alpha + length;
        factor = 2.0f / fmaf(head, head, sigma);
      }
      if (threadIdx.x == 0) {
        diag[s] = x[s];
        off[s - 1] = eliminate ? (alpha < 0 ? length : -length) : alpha;
        beta[s] = factor;
      }
      __syncthreads();
      for (uint32_t c = threadIdx.x; c <= s; c += kLargeThreads) {
        const float e = !eliminate || c == s ? 0.0f : c + 1 == s ? head : x[c];
        x[c] = e;
        if (c < s) row[c] = e;
      }
      __syncthreads();
      for (uint32_t i = warp; i < s; i += kLargeThreads / kWarp) {
        float* a = g + size_t{i} * p;
        const float v_i = v[i], w_i = w[i];
        float sum = 0;
        for (uint32_t c = lane; c < s; c += kWarp) {
          const float e = a[c] - v_i * w[c] - w_i * v[c];
          a[c] = e;
          sum = fmaf(e, x[c], sum);
        }
        sum = WarpSum(sum);
        if (lane == 0) y[i] = sum;
      }
      __syncthreads();
      float dot = 0;
      for (uint32_t c = threadIdx.x; c < s; c += kLargeThreads) dot = fmaf(x[c], y[c], dot);
      const float half = 0.5f * factor * BlockSum(dot, room);
      for (uint32_t c = threadIdx.x; c < s; c += kLargeThreads) {
        v[c] = x[c];
        w[c] = (y[c] - x[c] * half) * factor;
      }
      if (threadIdx.x == 0) v[s] = w[s] = 0;
      __syncthreads();
    }
    if (threadIdx.x == 0) {
      diag[0] = g[0] - 2 * v[0] * w[0];
      beta[0] = 0;
    }
  }
}

dim3 GramGrid(const EncodeBatch& b, uint32_t round) {
  return dim3(BlocksOfRound(b, round), b.p / 64 * (b.p / 64));
}

cudaError_t LaunchInDeviceMemory(const EncodeBatch& b, uint32_t round, cudaStream_t stream) {
  LargeGramKernel<<<GramGrid(b, round), kThreads, 0, stream>>>(b, round, false);
  LargeTridiagonalKernel<<<BlocksOfRound(b, round), kLargeThreads, 0, stream>>>(b, round);
  return cudaGetLastError();
}

// In shared memory where this device's blocks may have enough of it.
template <uint32_t kP>
cudaError_t LaunchShared(const EncodeBatch& b, uint32_t round, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedTile<kP>);
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  if (most < kBytes) return LaunchInDeviceMemory(b, round, stream);
  error = cudaFuncSetAttribute(SharedTridiagonalKernel<kP>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  LargeGramKernel<<<GramGrid(b, round), kThreads, 0, stream>>>(b, round, true);
  SharedTridiagonalKernel<kP><<<BlocksOfRound(b, round), kLargeThreads, kBytes, stream>>>(b, round);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchLargeTridiagonalise(const EncodeBatch& b, uint32_t round, cudaStream_t stream) {
  if (b.p == 192) return LaunchShared<192>(b, round, stream);
  if (b.p == 256) return LaunchShared<256>(b, round, stream);
  return LaunchInDeviceMemory(b, round, stream);
}

}  // namespace kvstow::gpu
