// Error sums of a slot against what the decoder gave back, and the choice between a tile's slots.
//
// A thread takes eight channels of every so many rows, so that reads are lines and every sum has a
// fixed order. Channel means come first, then centred sums, so that a large mean costs no digits;
// the second pass hits caches.
#include "gpu/elements.cuh"
#include "gpu/kernels.h"
#include "gpu/tile_body.cuh"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kWarps = kThreads / kWarp;
constexpr uint32_t kEach = 8;  // channels of a thread
constexpr uint32_t kMaxDim = 576;

// Eight elements from channel c on, in units of the tile's scale. kWide: 16-bit ones in rows that
// allow 16-byte loads.
template <bool kWide>
__device__ __forceinline__ void LoadEight(const uint8_t* row, uint32_t c, uint32_t dtype, float a,
                                          float b, float (&x)[kEach]) {
  if constexpr (kWide) {
    const uint4 words = *reinterpret_cast<const uint4*>(row + 2 * c);
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (uint32_t i = 0; i < kEach; i += 2) {
      const float2 two = UnpackPair(pairs[i / 2], dtype);
      x[i] = two.x * a * b;
      x[i + 1] = two.y * a * b;
    }
  } else {
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) x[i] = LoadElement(row, c + i, dtype) * a * b;
  }
}

// Rows of the original and of what the decoder gave back, as a thread reads them: eight channels of
// every stride-th row.
struct Rows {
  const uint8_t *values, *decoded;
  size_t row_stride, decoded_stride;
  uint32_t dtype, channel;
  float a, b;

  template <bool kWide>
  __device__ __forceinline__ void Load(uint32_t t, float (&x)[kEach], float (&error)[kEach]) const {
    LoadEight<kWide>(values + t * row_stride, channel, dtype, a, b, x);
    LoadEight<kWide>(decoded + t * decoded_stride, channel, dtype, a, b, error);
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) error[i] -= x[i];
  }
};

// Sums over the rows of partial sums of d columns each, to `out`.
__device__ inline void SumColumns(const float* parts, uint32_t rows, uint32_t d, float scale,
                                  const float* origin, float* out) {
  for (uint32_t c = threadIdx.x; c < d; c += kThreads) {
    float sum = 0;
    for (uint32_t r = 0; r < rows; ++r) sum += parts[r * d + c];
    out[c] = fmaf(sum, scale, origin[c]);
  }
}

// Energy, error, both centred, and the inner product: the thread's share.
struct Sums {
  double of[5];
};

struct MeasureRoom {
  // Partial sums of every row of threads, kThreads * kEach floats at most.
  alignas(16) float parts[2][kThreads * kEach];
  alignas(16) float origins[2][kMaxDim];
  alignas(16) float means[2][kMaxDim];
};

template <bool kWide>
__device__ __forceinline__ Sums SumRows(const Rows& rows, uint32_t n, uint32_t d,
                                        MeasureRoom& room) {
  const uint32_t pieces = d / kEach, step = kThreads / pieces, first = threadIdx.x / pieces;
  const bool active = first < step;
  // Means first, as differences to the first row: exact for constant channels.
  if (active) {
    float origin_x[kEach], origin_e[kEach], sum_x[kEach] = {}, sum_e[kEach] = {};
    rows.Load<kWide>(0, origin_x, origin_e);
#pragma unroll 4
    for (uint32_t t = first; t < n; t += step) {
      float x[kEach], e[kEach];
      rows.Load<kWide>(t, x, e);
#pragma unroll
      for (uint32_t i = 0; i < kEach; ++i) {
        sum_x[i] += x[i] - origin_x[i];
        sum_e[i] += e[i] - origin_e[i];
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) {
      room.parts[0][first * d + rows.channel + i] = sum_x[i];
      room.parts[1][first * d + rows.channel + i] = sum_e[i];
      if (first == 0) {
        room.origins[0][rows.channel + i] = origin_x[i];
        room.origins[1][rows.channel + i] = origin_e[i];
      }
    }
  }
  __syncthreads();
  const float inverse = 1.0f / static_cast<float>(n);
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    SumColumns(room.parts[i], step, d, inverse, room.origins[i], room.means[i]);
  }
  __syncthreads();
  Sums sums = {};
  if (!active) return sums;
  float mean_x[kEach], mean_e[kEach];
#pragma unroll
  for (uint32_t i = 0; i < kEach; ++i) {
    mean_x[i] = room.means[0][rows.channel + i];
    mean_e[i] = room.means[1][rows.channel + i];
  }
#pragma unroll 4
  for (uint32_t t = first; t < n; t += step) {
    float x[kEach], e[kEach], part[5] = {};
    rows.Load<kWide>(t, x, e);
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) {
      const float centred = x[i] - mean_x[i], centred_error = e[i] - mean_e[i];
      part[0] = fmaf(x[i], x[i], part[0]);
      part[1] = fmaf(e[i], e[i], part[1]);
      part[2] = fmaf(centred, centred, part[2]);
      part[3] = fmaf(centred_error, centred_error, part[3]);
      part[4] = fmaf(x[i], x[i] + e[i], part[4]);
    }
#pragma unroll
    for (uint32_t i = 0; i < 5; ++i) sums.of[i] += static_cast<double>(part[i]);
  }
  return sums;
}

__global__ void __launch_bounds__(kThreads)
    MeasureKernel(const __grid_constant__ EncodeBatch b, uint32_t bits) {
  __shared__ MeasureRoom room;
  __shared__ double sum_room[kWarps];
  const uint32_t index = blockIdx.x;
  if (index >= b.counters[0]) return;
  Slot* slot = &b.slots[index];
  if (slot->done != 0) return;
  const uint32_t n = b.n, d = b.d;
  const EncodeTile job = b.jobs[slot->tile];
  Rows rows;
  rows.values = job.values;
  rows.row_stride = job.row_stride;
  rows.decoded = b.raw != 0 ? job.values : b.decoded + size_t{index} * n * d * b.element_bytes;
  rows.decoded_stride = b.raw != 0 ? job.row_stride : size_t{d} * b.element_bytes;
  rows.dtype = b.dtype;
  rows.channel = threadIdx.x % (d / kEach) * kEach;
  rows.a = slot->scale_a;
  rows.b = slot->scale_b;
  const bool wide =
      b.dtype != kFp32 && ((reinterpret_cast<uintptr_t>(job.values) | job.row_stride) & 15) == 0;
  const Sums mine = wide ? SumRows<true>(rows, n, d, room) : SumRows<false>(rows, n, d, room);
  double sums[5];
#pragma unroll
  for (uint32_t i = 0; i < 5; ++i) sums[i] = BlockSum(mine.of[i], sum_room);
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
