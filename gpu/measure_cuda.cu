// Error sums of a slot against what the decoder gave back, and the choice between a tile's slots.
//
// Lanes take channel pairs and warps take rows, so that reads are lines and every sum has a fixed
// order. Channel means come first (sums of differences to the first row, exact for constant
// channels), then centred sums, so that a large mean costs no digits; the second pass hits caches.
#include "gpu/elements.cuh"
#include "gpu/kernels.h"
#include "gpu/tile_body.cuh"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kWarps = kThreads / kWarp;

struct Pair {
  float x[2], y[2];  // original and decoded, in units of the tile's scale
};

__device__ inline Pair LoadPair(const uint8_t* x, const uint8_t* y, uint32_t c, uint32_t dtype,
                                float a, float b) {
  Pair pair;
  if (dtype != kFp32 &&
      ((reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y)) & 3) == 0) {
    const uint32_t both[2] = {reinterpret_cast<const uint32_t*>(x)[c / 2],
                              reinterpret_cast<const uint32_t*>(y)[c / 2]};
    const float2 wide_x = UnpackPair(both[0], dtype), wide_y = UnpackPair(both[1], dtype);
    pair.x[0] = wide_x.x * a * b;
    pair.x[1] = wide_x.y * a * b;
    pair.y[0] = wide_y.x * a * b;
    pair.y[1] = wide_y.y * a * b;
    return pair;
  }
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    pair.x[i] = LoadElement(x, c + i, dtype) * a * b;
    pair.y[i] = LoadElement(y, c + i, dtype) * a * b;
  }
  return pair;
}

__global__ void __launch_bounds__(kThreads)
    MeasureKernel(const __grid_constant__ EncodeBatch b, uint32_t bits) {
  __shared__ float means[kWarps][4][kWarp];
  __shared__ double room[kWarps];
  const uint32_t index = blockIdx.x;
  if (index >= b.counters[0]) return;
  Slot* slot = &b.slots[index];
  if (slot->done != 0) return;
  const uint32_t n = b.n, d = b.d, dtype = b.dtype;
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const EncodeTile job = b.jobs[slot->tile];
  const float scale_a = slot->scale_a, scale_b = slot->scale_b;
  const uint8_t* decoded =
      b.raw != 0 ? job.values : b.decoded + size_t{index} * n * d * b.element_bytes;
  const size_t stride = b.raw != 0 ? job.row_stride : size_t{d} * b.element_bytes;
  double sums[5] = {};
  for (uint32_t first = 0; first < d; first += 2 * kWarp) {
    const uint32_t c = first + 2 * lane;
    const bool active = c < d;
    Pair origin = {};
    float sum_x[2] = {}, sum_e[2] = {};
    if (active) {
      origin = LoadPair(job.values, decoded, c, dtype, scale_a, scale_b);
      for (uint32_t t = warp; t < n; t += kWarps) {
        const Pair e = LoadPair(job.values + t * job.row_stride, decoded + t * stride, c, dtype,
                                scale_a, scale_b);
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
          sum_x[i] += e.x[i] - origin.x[i];
          sum_e[i] += (e.y[i] - e.x[i]) - (origin.y[i] - origin.x[i]);
        }
      }
    }
    __syncthreads();
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      means[warp][i][lane] = sum_x[i];
      means[warp][2 + i][lane] = sum_e[i];
    }
    __syncthreads();
    float mean_x[2], mean_e[2];
    const float inverse = 1.0f / static_cast<float>(n);
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      float x = 0, e = 0;
      for (uint32_t w = 0; w < kWarps; ++w) {
        x += means[w][i][lane];
        e += means[w][2 + i][lane];
      }
      mean_x[i] = origin.x[i] + x * inverse;
      mean_e[i] = (origin.y[i] - origin.x[i]) + e * inverse;
    }
    if (!active) continue;
    float part[5] = {};
    for (uint32_t t = warp; t < n; t += kWarps) {
      const Pair e = LoadPair(job.values + t * job.row_stride, decoded + t * stride, c, dtype,
                              scale_a, scale_b);
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        const float x = e.x[i], error = e.y[i] - e.x[i];
        const float centred = x - mean_x[i], centred_error = error - mean_e[i];
        part[0] = fmaf(x, x, part[0]);
        part[1] = fmaf(error, error, part[1]);
        part[2] = fmaf(centred, centred, part[2]);
        part[3] = fmaf(centred_error, centred_error, part[3]);
        part[4] = fmaf(x, e.y[i], part[4]);
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < 5; ++i) sums[i] += static_cast<double>(part[i]);
  }
#pragma unroll
  for (double& sum : sums) sum = BlockSum(sum, room);
  if (threadIdx.x != 0) return;
  const double unit = ldexp(1.0, 2 * slot->exponent);
  for (uint32_t i = 0; i < 5; ++i) slot->sums[i] = sums[i] * unit;
  const double energy = b.key_like != 0 ? sums[2] : sums[0];
  const double error = b.key_like != 0 ? sums[3] : sums[1];
  // As ErrorSums: 0 where energy and error are 0.
  const double relative = error == 0 ? 0 : energy > 0 ? error / energy : INFINITY;
  slot->met = b.bound == 0 || relative <= b.bound;
  slot->done = slot->met != 0 || bits >= 4;
}

__device__ double BoundedError(const EncodeBatch& b, const Slot& slot) {
  const double energy = b.key_like != 0 ? slot.sums[2] : slot.sums[0];
  const double error = b.key_like != 0 ? slot.sums[3] : slot.sums[1];
  return error == 0 ? 0 : energy > 0 ? error / energy : INFINITY;
}

// Slot whose body the tile gets; its own where nothing better is known.
__device__ uint32_t BestSlot(const EncodeBatch& b, uint32_t tile) {
  const Slot& plain = b.slots[tile];
  if (plain.second == 0) return tile;
  const Slot& centred = b.slots[plain.second];
  const double extra_bits =
      8.0 * (static_cast<double>(centred.body_bytes) - static_cast<double>(plain.body_bytes)) /
      (static_cast<double>(b.n) * b.d);
  // Bits spent on the residual buy 6.02 dB each; the means have to beat that.
  const double worth = BoundedError(b, centred) * exp2(2 * extra_bits);
  if (centred.met != plain.met) return centred.met != 0 ? plain.second : tile;
  return worth < BoundedError(b, plain) ? plain.second : tile;
}

__global__ void __launch_bounds__(kThreads) ChooseKernel(const __grid_constant__ EncodeBatch b) {
  __shared__ uint32_t best;
  const uint32_t tile = blockIdx.x;
  const EncodeTile job = b.jobs[tile];
  if (threadIdx.x == 0) best = BestSlot(b, tile);
  __syncthreads();
  const Slot& slot = b.slots[best];
  const uint32_t raw_bytes = b.n * b.d * b.element_bytes;
  const bool coded = b.raw == 0 && slot.finite != 0 && slot.met != 0 && slot.body_bytes < raw_bytes;
  EncodeResult result = {};
  if (slot.finite != 0) {
    result.energy = slot.sums[0];
    result.error = coded ? slot.sums[1] : 0;
    result.centred_energy = slot.sums[2];
    result.centred_error = coded ? slot.sums[3] : 0;
    result.inner_product = coded ? slot.sums[4] : slot.sums[0];
  }
  if (coded) {
    const uint4* from = reinterpret_cast<const uint4*>(b.body + size_t{best} * b.max_body);
    for (uint32_t i = threadIdx.x; i < slot.body_bytes / 16; i += kThreads) {
      reinterpret_cast<uint4*>(job.body)[i] = from[i];
    }
    result.head = slot.head;
    result.body_bytes = slot.body_bytes;
  } else {
    const uint32_t row_halves = b.d * b.element_bytes / 2;
    auto* out = reinterpret_cast<uint16_t*>(job.body);
    for (uint32_t i = threadIdx.x; i < b.n * row_halves; i += kThreads) {
      out[i] = reinterpret_cast<const uint16_t*>(job.values +
                                                 i / row_halves * job.row_stride)[i % row_halves];
    }
    for (uint32_t i = raw_bytes / 2 + threadIdx.x; i < b.max_body / 2; i += kThreads) out[i] = 0;
    result.body_bytes = b.max_body;
    result.raw = b.raw == 0;
  }
  if (threadIdx.x != 0) return;
  b.results[tile] = result;
  if (b.ranges != nullptr) b.ranges[tile] = {job.body, result.body_bytes};
}

}  // namespace

cudaError_t LaunchMeasure(const EncodeBatch& b, uint32_t bits, cudaStream_t stream) {
  MeasureKernel<<<b.max_slots, kThreads, 0, stream>>>(b, bits);
  return cudaGetLastError();
}

cudaError_t LaunchChoose(const EncodeBatch& b, cudaStream_t stream) {
  ChooseKernel<<<b.tiles, kThreads, 0, stream>>>(b);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
