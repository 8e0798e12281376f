// Gram matrix of a tile's short side and its Householder tridiagonal form, G = Q T Q^T.
//
// For p <= 128 a block of 16 x 16 threads holds G in registers, thread (ty, tx) the rows ty + 16 a
// and the columns tx + 16 b, so that work stays even while the active matrix shrinks, and the Gram
// product leaves its sums where the reduction wants them. From the last row up, a step is one pass
// of all warps over the matrix (the rank-two update of the step before, and the product with the
// next row) and a short turn of one warp that makes the next vectors. The reflector v differs from
// the row x in one element, v = x + delta e_m, so A v = A x + delta A e_m needs no norm before the
// product, and the next row needs no pass of its own.
//
// Larger p (192, 256, 512) run one block a tile on a matrix in device memory, in plain steps.
#include "gpu/elements.cuh"
#include "gpu/kernels.h"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kSide = 16;   // threads a side
constexpr uint32_t kChunk = 16;  // long-side entries in shared memory at a time
// Below this a row is taken as eliminated.
constexpr float kNegligible = 1e-30f;

// Where index j = t + 16 b lies in a shared vector: a thread's eight values are two 16-byte
// accesses, and neighbouring threads' are neighbours.
__device__ inline uint32_t Place(uint32_t j) {
  const uint32_t t = j % kSide, b = j / kSide;
  return b / 4 * 64 + t * 4 + b % 4;
}

// The thread's first kCount values of a vector.
template <uint32_t kCount>
__device__ inline void LoadVector(const float* vector, uint32_t t, float (&out)[8]) {
  const float4 lo = *reinterpret_cast<const float4*>(vector + t * 4);
  out[0] = lo.x, out[1] = lo.y, out[2] = lo.z, out[3] = lo.w;
  if constexpr (kCount > 4) {
    const float4 hi = *reinterpret_cast<const float4*>(vector + 64 + t * 4);
    out[4] = hi.x, out[5] = hi.y, out[6] = hi.z, out[7] = hi.w;
  }
}

// sums[a] over the 16 lanes; lane tx gets that of a = tx / 2.
__device__ inline float SpreadSums(float (&sums)[8], uint32_t tx) {
  float four[4], two[2];
  const bool high8 = (tx & 8) != 0, high4 = (tx & 4) != 0, high2 = (tx & 2) != 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float other = __shfl_xor_sync(kAllLanes, high8 ? sums[i] : sums[i + 4], 8);
    four[i] = (high8 ? sums[i + 4] : sums[i]) + other;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float other = __shfl_xor_sync(kAllLanes, high4 ? four[i] : four[i + 2], 4);
    two[i] = (high4 ? four[i + 2] : four[i]) + other;
  }
  const float other = __shfl_xor_sync(kAllLanes, high2 ? two[0] : two[1], 2);
  const float one = (high2 ? two[1] : two[0]) + other;
  return one + __shfl_xor_sync(kAllLanes, one, 1);
}

// Vectors of the step, in Place order.
struct StepVectors {
  float v[128], w[128];  // pending update A -= v w^T + w v^T
  float x[128];          // row m + 1, active part
  float product[128];    // A x
  float row[128];        // row m of A
  float parts[8];        // of x^T A x, one a warp
};

struct Reflector {
  float alpha, head, factor, off;
  bool eliminate;
};

// Of row m + 1. Every warp makes it for itself during the pass, where its latency costs nothing.
__device__ __forceinline__ Reflector MakeReflector(const StepVectors& step, uint32_t m) {
  const uint32_t lane = threadIdx.x % kWarp;
  const float4 x4 = reinterpret_cast<const float4*>(step.x)[lane];
  const float x[4] = {x4.x, x4.y, x4.z, x4.w};
  const uint32_t first = lane % kSide + lane / kSide * 64;
  float sigma = 0;
#pragma unroll
  for (uint32_t e = 0; e < 4; ++e) {
    const float y = first + kSide * e == m ? 0.0f : x[e];
    sigma = fmaf(y, y, sigma);
  }
  sigma = WarpSum(sigma);
  Reflector r;
  r.alpha = step.x[Place(m)];
  r.eliminate = sigma >= kNegligible;
  const float squares = fmaf(r.alpha, r.alpha, sigma);
  const float length = squares * rsqrtf(squares);
  r.head = r.eliminate ? (r.alpha < 0 ? r.alpha - length : r.alpha + length) : 0.0f;
  r.factor = r.eliminate ? __fdividef(2.0f, fmaf(r.head, r.head, sigma)) : 0.0f;
  r.off = r.eliminate ? (r.alpha < 0 ? length : -length) : r.alpha;
  return r;
}

// One warp makes the update of the step out of x and A x, and the row that follows: four values a
// lane, those of four neighbouring places.
__device__ __forceinline__ void Advance(StepVectors& step, const Reflector& r, uint32_t m,
                                        uint32_t p, float* g, float* diag, float* off,
                                        float* beta) {
  const uint32_t lane = threadIdx.x;
  float4* const vectors[3] = {reinterpret_cast<float4*>(step.v) + lane,
                              reinterpret_cast<float4*>(step.w) + lane,
                              reinterpret_cast<float4*>(step.x) + lane};
  const float4 x4 = *vectors[2];
  const float4 product4 = reinterpret_cast<const float4*>(step.product)[lane];
  const float4 row4 = reinterpret_cast<const float4*>(step.row)[lane];
  const float row_m = step.row[Place(m)], product_m = step.product[Place(m)];
  const float x[4] = {x4.x, x4.y, x4.z, x4.w};
  const float product[4] = {product4.x, product4.y, product4.z, product4.w};
  const float row[4] = {row4.x, row4.y, row4.z, row4.w};
  const uint32_t first = lane % kSide + lane / kSide * 64;  // index of value e is first + 16 e
  const float4 parts0 = *reinterpret_cast<const float4*>(step.parts);
  const float4 parts1 = *reinterpret_cast<const float4*>(step.parts + 4);
  const float quadratic = ((parts0.x + parts0.y) + (parts0.z + parts0.w)) +
                          ((parts1.x + parts1.y) + (parts1.z + parts1.w));
  const bool eliminate = r.eliminate;
  const float head = r.head, factor = r.factor;
  const float delta = head - r.alpha;
  const float whole = fmaf(delta, fmaf(delta, row_m, 2 * product_m), quadratic);
  const float half = 0.5f * factor * whole;
  const float w_m = factor * (fmaf(delta, row_m, product_m) - half * head);
  float v[4], w[4], next[4];
#pragma unroll
  for (uint32_t e = 0; e < 4; ++e) {
    const uint32_t i = first + kSide * e;
    // Without a reflector v and w are zero; beyond the active rows everything is.
    v[e] = !eliminate || i > m ? 0.0f : i == m ? head : x[e];
    w[e] = i > m ? 0.0f : factor * (fmaf(delta, row[e], product[e]) - half * v[e]);
    next[e] = i < m ? row[e] - head * w[e] - w_m * v[e] : 0.0f;
    if (i < p) g[size_t{m + 1} * p + i] = v[e];
  }
  *vectors[0] = make_float4(v[0], v[1], v[2], v[3]);
  *vectors[1] = make_float4(w[0], w[1], w[2], w[3]);
  *vectors[2] = make_float4(next[0], next[1], next[2], next[3]);
  if (lane == 0) {
    off[m] = r.off;
    beta[m + 1] = factor;
    diag[m] = row_m - 2 * head * w_m;
  }
}

// Eliminates row m + 1 for the m of block kBlocks - 1, downwards, so that register indices are
// constants.
template <uint32_t kBlocks>
__device__ __forceinline__ void ReduceBlock(float (&a)[8][8], StepVectors& step, uint32_t p,
                                            float* g, float* diag, float* off, float* beta) {
  constexpr uint32_t kLast = kBlocks - 1;
  const uint32_t tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  const uint32_t top = min(kBlocks * kSide, p - 1);
  for (uint32_t m = top; m-- > kLast * kSide;) {
    float x_col[8], v_col[8], w_col[8], v_row[8], w_row[8], sums[8] = {};
    LoadVector<kBlocks>(step.x, tx, x_col);
    LoadVector<kBlocks>(step.v, tx, v_col);
    LoadVector<kBlocks>(step.w, tx, w_col);
    LoadVector<kBlocks>(step.v, ty, v_row);
    LoadVector<kBlocks>(step.w, ty, w_row);
#pragma unroll
    for (uint32_t i = 0; i < kBlocks; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < kBlocks; ++j) {
        float e = a[i][j];
        e = fmaf(-v_row[i], w_col[j], e);
        e = fmaf(-w_row[i], v_col[j], e);
        a[i][j] = e;
        sums[i] = fmaf(e, x_col[j], sums[i]);
      }
    }
    if (ty == m % kSide) {
#pragma unroll
      for (uint32_t j = 0; j < kBlocks; ++j) step.row[Place(tx + kSide * j)] = a[kLast][j];
    }
    const Reflector r = MakeReflector(step, m);
    const float product = SpreadSums(sums, tx);
    // Lane tx holds the product of one row, and so does its neighbour.
    const uint32_t place = Place(ty + kSide * (tx / 2));
    const float quadratic = WarpSum(tx % 2 == 0 ? product * step.x[place] : 0.0f);
    if (tx % 2 == 0) step.product[place] = product;
    if (threadIdx.x % kWarp == 0) step.parts[threadIdx.x / kWarp] = quadratic;
    __syncthreads();
    if (threadIdx.x < kWarp) Advance(step, r, m, p, g, diag, off, beta);
    __syncthreads();
  }
}

template <uint32_t kBlocks>
__device__ __forceinline__ void ReduceFrom(float (&a)[8][8], StepVectors& step, uint32_t p,
                                           float* g, float* diag, float* off, float* beta) {
  ReduceBlock<kBlocks>(a, step, p, g, diag, off, beta);
  if constexpr (kBlocks > 1) ReduceFrom<kBlocks - 1>(a, step, p, g, diag, off, beta);
}

// Chunk of kChunk long-side entries to shared memory, each a vector of p short-side ones in Place
// order.
__device__ inline void LoadChunk(const EncodeBatch& b, const float* y, uint32_t first,
                                 float (*chunk)[128]) {
  if (b.tokens_short != 0) {
    for (uint32_t i = threadIdx.x; i < kChunk * b.p; i += kThreads) {
      chunk[i / b.p][Place(i % b.p)] = y[size_t{first} * b.p + i];
    }
  } else {
    for (uint32_t i = threadIdx.x; i < kChunk * b.p; i += kThreads) {
      const uint32_t c = i / kChunk, k = i % kChunk;
      chunk[k][Place(c)] = y[size_t{c} * b.n + first + k];
    }
  }
}

template <uint32_t kBlocks>
__device__ void TridiagonaliseSlot(const EncodeBatch& b, uint32_t slot, float (*chunk)[128],
                                   StepVectors& step) {
  const uint32_t tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  const uint32_t p = b.p;
  const Slot& state = b.slots[slot];
  const float* y = (state.deflated > 0 ? b.deflated : b.x) + size_t{slot} * b.n * b.d;
  float a[8][8] = {};
  for (uint32_t first = 0; first < b.q; first += kChunk) {
    __syncthreads();
    LoadChunk(b, y, first, chunk);
    __syncthreads();
#pragma unroll 4
    for (uint32_t k = 0; k < kChunk; ++k) {
      float rows[8], cols[8];
      LoadVector<kBlocks>(chunk[k], ty, rows);
      LoadVector<kBlocks>(chunk[k], tx, cols);
#pragma unroll
      for (uint32_t i = 0; i < kBlocks; ++i) {
#pragma unroll
        for (uint32_t j = 0; j < kBlocks; ++j) a[i][j] = fmaf(rows[i], cols[j], a[i][j]);
      }
    }
  }
  float* g = b.gram + size_t{slot} * p * p;
  float* diag = b.tri + size_t{slot} * 3 * p;
  float* off = diag + p;
  float* beta = off + p;
  // The last row starts as x, and nothing is pending.
  __syncthreads();
  if (threadIdx.x < 128) step.v[threadIdx.x] = step.w[threadIdx.x] = step.x[threadIdx.x] = 0;
  __syncthreads();
  if (ty == kSide - 1) {
#pragma unroll
    for (uint32_t j = 0; j < kBlocks; ++j) {
      const uint32_t c = tx + kSide * j;
      if (c + 1 < p) step.x[Place(c)] = a[kBlocks - 1][j];
      if (c + 1 == p) diag[p - 1] = a[kBlocks - 1][j];
    }
  }
  if (threadIdx.x == 0) beta[0] = 0;
  __syncthreads();
  ReduceFrom<kBlocks>(a, step, p, g, diag, off, beta);
}

// Slots of this round: all in use, or those on the list.
__device__ inline uint32_t SlotCount(const EncodeBatch& b, uint32_t round) {
  return round == 0 ? b.counters[0] : b.counters[round];
}
__device__ inline uint32_t SlotAt(const EncodeBatch& b, uint32_t round, uint32_t i) {
  return round == 0 ? i : b.pending[size_t{round - 1} * b.max_slots + i];
}

template <uint32_t kBlocks>
__global__ void __launch_bounds__(kThreads, 2)
    TridiagonalKernel(const __grid_constant__ EncodeBatch b, uint32_t round) {
  __shared__ __align__(16) float chunk[kChunk][128];
  __shared__ __align__(16) StepVectors step;
  const uint32_t count = SlotCount(b, round);
  for (uint32_t i = blockIdx.x; i < count; i += gridDim.x) {
    const uint32_t slot = SlotAt(b, round, i);
    if (b.slots[slot].finite == 0) continue;
    __syncthreads();
    TridiagonaliseSlot<kBlocks>(b, slot, chunk, step);
  }
}

constexpr uint32_t kLargeThreads = 1024;
constexpr uint32_t kLargeP = 512;

// 64 x 64 of the Gram matrix a block.
__global__ void __launch_bounds__(kThreads)
    LargeGramKernel(const __grid_constant__ EncodeBatch b, uint32_t round) {
  __shared__ float rows[kChunk][64], cols[kChunk][64];
  const uint32_t p = b.p, blocks = p / 64;
  const uint32_t count = SlotCount(b, round);
  const uint32_t i0 = blockIdx.y / blocks * 64, j0 = blockIdx.y % blocks * 64;
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

}  // namespace

cudaError_t LaunchTridiagonalise(const EncodeBatch& b, uint32_t round, cudaStream_t stream) {
  // Later rounds are rare: few blocks walk the list of tiles that need them.
  const uint32_t grid = round == 0 || b.max_slots < 264 ? b.max_slots : 264;
  switch (b.p) {
    case 64:
      TridiagonalKernel<4><<<grid, kThreads, 0, stream>>>(b, round);
      break;
    case 80:
      TridiagonalKernel<5><<<grid, kThreads, 0, stream>>>(b, round);
      break;
    case 96:
      TridiagonalKernel<6><<<grid, kThreads, 0, stream>>>(b, round);
      break;
    case 112:
      TridiagonalKernel<7><<<grid, kThreads, 0, stream>>>(b, round);
      break;
    case 128:
      TridiagonalKernel<8><<<grid, kThreads, 0, stream>>>(b, round);
      break;
    default:
      LargeGramKernel<<<dim3(grid, b.p / 64 * (b.p / 64)), kThreads, 0, stream>>>(b, round);
      LargeTridiagonalKernel<<<grid, kLargeThreads, 0, stream>>>(b, round);
  }
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
