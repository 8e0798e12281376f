// First step of an encode: the tile as floats, scaled by a power of two, its rotary embedding
// undone, transposed to [d, n] so that later kernels may give a thread a token and still read whole
// lines. Tiles whose channel means may pay get a second slot with the means taken off.
//
// A block a tile: the exponent needs the whole tile first, and the second pass finds it in the L2.
#include "gpu/elements.cuh"
#include "gpu/kernels.h"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kWarps = kThreads / kWarp;
constexpr uint32_t kRows = 32;  // transposed at a time
// Channel means are tried where they hold at least this share of the energy left without them.
constexpr double kMeansShare = 8;

__device__ uint32_t LargestMagnitude(const EncodeBatch& b, const EncodeTile& job) {
  const uint32_t row_bytes = b.d * b.element_bytes;
  uint32_t largest = 0;
  if (((reinterpret_cast<uintptr_t>(job.values) | job.row_stride | row_bytes) & 15) == 0) {
    const uint32_t pieces = row_bytes / 16;
    for (uint32_t i = threadIdx.x; i < b.n * pieces; i += kThreads) {
      const uint4 w = *reinterpret_cast<const uint4*>(job.values + i / pieces * job.row_stride +
                                                      i % pieces * 16);
      const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (uint32_t word : words) {
        if (b.dtype == kFp32) {
          largest = max(largest, word & 0x7fffffffu);
        } else {
          // Magnitudes order like their bits, so widening waits until the end.
          largest = max(largest, max(word & 0x7fffu, word >> 16 & 0x7fffu));
        }
      }
    }
    if (b.dtype == kBf16) largest <<= 16;
    if (b.dtype == kFp16) {
      largest =
          largest >= 0x7c00u
              ? 0x7f800000u
              : __float_as_uint(__half2float(__ushort_as_half(static_cast<uint16_t>(largest))));
    }
    return largest;
  }
  for (uint32_t i = threadIdx.x; i < b.n * b.d; i += kThreads) {
    largest = max(largest, MagnitudeBits(job.values + i / b.d * job.row_stride, i % b.d, b.dtype));
  }
  return largest;
}

__device__ void Unrotate(const EncodeBatch& b, const EncodeTile& job, uint32_t first_row,
                         float* rows, uint32_t stride) {
  const uint32_t pairs = b.rotary.pairs;
  for (uint32_t i = threadIdx.x; i < kRows * pairs; i += kThreads) {
    const uint32_t row = i / pairs, k = i % pairs;
    float* x = rows + row * stride + b.rotary.offset;
    const size_t at = size_t{first_row + row} * pairs + k;
    const float cos = job.cos[at], sin = -job.sin[at];
    const uint32_t first = b.rotary.interleaved != 0 ? 2 * k : k;
    const uint32_t second = b.rotary.interleaved != 0 ? 2 * k + 1 : pairs + k;
    const float p = x[first], q = x[second];
    x[first] = p * cos - q * sin;
    x[second] = p * sin + q * cos;
  }
}

constexpr uint32_t kMaxDim = 576;
constexpr uint32_t kOwned = (kMaxDim + kThreads - 1) / kThreads;  // channels of a thread

// Sums over the tokens of a thread's channels: of differences to the first token, exact for
// constant channels, and of squares.
struct ChannelSums {
  float first[kOwned], sum[kOwned], squares[kOwned];
};

__device__ void AddRows(const float* rows, uint32_t stride, uint32_t d, bool start,
                        ChannelSums* sums) {
#pragma unroll
  for (uint32_t k = 0; k < kOwned; ++k) {
    const uint32_t c = threadIdx.x + k * kThreads;
    if (c >= d) break;
    if (start) {
      sums->first[k] = rows[c];
      sums->sum[k] = sums->squares[k] = 0;
    }
#pragma unroll 8
    for (uint32_t row = 0; row < kRows; ++row) {
      const float x = rows[row * stride + c];
      sums->sum[k] += x - sums->first[k];
      sums->squares[k] = fmaf(x, x, sums->squares[k]);
    }
  }
}

// Channel means, and whether they hold enough of the energy.
__device__ bool MeansMayPay(const EncodeBatch& b, const ChannelSums& sums, uint16_t* half_means,
                            double* room) {
  double held = 0, total = 0;
#pragma unroll
  for (uint32_t k = 0; k < kOwned; ++k) {
    const uint32_t c = threadIdx.x + k * kThreads;
    if (c >= b.d) break;
    const float mean = sums.first[k] + sums.sum[k] * (1.0f / static_cast<float>(b.n));
    held += static_cast<double>(mean) * mean;
    total += sums.squares[k];
    half_means[c] = ToSideValue(mean);
  }
  held = BlockSum(held, room) * b.n;
  total = BlockSum(total, room);
  return held > kMeansShare * (total - held);
}

__device__ void InitialiseSlot(Slot* slot, uint32_t tile, int32_t exponent, bool finite) {
  slot->tile = tile;
  slot->exponent = exponent;
  slot->scale_a = ldexpf(1.0f, -(exponent / 2));
  slot->scale_b = ldexpf(1.0f, -(exponent - exponent / 2));
  slot->finite = finite;
  slot->with_means = 0;
  slot->vectors = slot->deflated = slot->dominant = slot->rank = 0;
  slot->deficient = slot->solved = slot->met = slot->second = 0;
  slot->bits = slot->body_bytes = 0;
  for (double& sum : slot->sums) sum = 0;
  slot->done = finite ? 0 : 1;
}

__global__ void __launch_bounds__(kThreads) PrepareKernel(const __grid_constant__ EncodeBatch b) {
  extern __shared__ float rows[];
  __shared__ uint32_t max_room[kWarps];
  __shared__ double sum_room[kWarps];
  __shared__ uint32_t second;
  const uint32_t tile = blockIdx.x;
  const EncodeTile job = b.jobs[tile];
  const uint32_t largest = BlockMax(LargestMagnitude(b, job), max_room);
  const bool finite = largest < 0x7f800000u;
  const int32_t exponent =
      finite && largest > 0 ? max(-128, min(127, ilogbf(__uint_as_float(largest)))) : 0;
  Slot* slot = &b.slots[tile];
  if (threadIdx.x == 0) InitialiseSlot(slot, tile, exponent, finite);
  if (!finite || b.raw != 0) return;

  const float scale_a = ldexpf(1.0f, -(exponent / 2));
  const float scale_b = ldexpf(1.0f, -(exponent - exponent / 2));
  const uint32_t stride = b.d + 1;
  float* x = b.x + size_t{tile} * b.n * b.d;
  const bool try_means = b.key_like != 0 && b.eoptshrinkq != 0;
  ChannelSums sums;
  for (uint32_t first = 0; first < b.n; first += kRows) {
    __syncthreads();
    const bool pairs =
        b.dtype != kFp32 && ((reinterpret_cast<uintptr_t>(job.values) | job.row_stride) & 3) == 0;
    for (uint32_t i = threadIdx.x; pairs && i < kRows * b.d / 2; i += kThreads) {
      const uint32_t row = i / (b.d / 2), c = i % (b.d / 2);
      const uint8_t* from = job.values + (first + row) * job.row_stride;
      const float2 two = UnpackPair(reinterpret_cast<const uint32_t*>(from)[c], b.dtype);
      rows[row * stride + 2 * c] = two.x * scale_a * scale_b;
      rows[row * stride + 2 * c + 1] = two.y * scale_a * scale_b;
    }
    for (uint32_t i = threadIdx.x; !pairs && i < kRows * b.d; i += kThreads) {
      const uint32_t row = i / b.d, c = i % b.d;
      const uint8_t* from = job.values + (first + row) * job.row_stride;
      rows[row * stride + c] = LoadElement(from, c, b.dtype) * scale_a * scale_b;
    }
    __syncthreads();
    if (job.cos != nullptr) {
      Unrotate(b, job, first, rows, stride);
      __syncthreads();
    }
    for (uint32_t i = threadIdx.x; i < kRows * b.d; i += kThreads) {
      const uint32_t c = i / kRows, row = i % kRows;
      x[size_t{c} * b.n + first + row] = rows[row * stride + c];
    }
    if (try_means) AddRows(rows, stride, b.d, first == 0, &sums);
  }
  if (!try_means) return;
  uint16_t* half_means = b.means + size_t{tile} * b.d;
  if (!MeansMayPay(b, sums, half_means, sum_room)) return;
  if (threadIdx.x == 0) second = atomicAdd(&b.counters[0], 1);
  __syncthreads();
  const uint32_t centred = second;
  if (threadIdx.x == 0) {
    InitialiseSlot(&b.slots[centred], tile, exponent, true);
    b.slots[centred].with_means = 1;
    slot->second = centred;
  }
  float* y = b.x + size_t{centred} * b.n * b.d;
  for (uint32_t i = threadIdx.x; i < b.n * b.d; i += kThreads) {
    y[i] = x[i] - SideValue(half_means[i / b.n]);
  }
  for (uint32_t c = threadIdx.x; c < b.d; c += kThreads) {
    b.means[size_t{centred} * b.d + c] = half_means[c];
  }
}

__global__ void ResetKernel(const __grid_constant__ EncodeBatch b) {
  if (threadIdx.x == 0) b.counters[0] = b.tiles;
  if (threadIdx.x > 0 && threadIdx.x <= kMaxDeflationRounds) b.counters[threadIdx.x] = 0;
}

}  // namespace

cudaError_t LaunchPrepare(const EncodeBatch& b, cudaStream_t stream) {
  const uint32_t bytes = kRows * (b.d + 1) * sizeof(float);
  const cudaError_t error = cudaFuncSetAttribute(
      PrepareKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kRows * 577 * sizeof(float));
  if (error != cudaSuccess) return error;
  ResetKernel<<<1, kWarp, 0, stream>>>(b);
  PrepareKernel<<<b.tiles, kThreads, bytes, stream>>>(b);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
