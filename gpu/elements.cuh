// FP16, BF16 and FP32 elements to floats and back, and the small reductions every kernel uses.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace kvstow::gpu {

inline constexpr uint32_t kFp16 = 1, kBf16 = 2, kFp32 = 3;
inline constexpr uint32_t kWarp = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;

// Magnitude bits of an element widened to a float's; at least 0x7f800000 where it is not finite.
__device__ inline uint32_t MagnitudeBits(const uint8_t* row, uint32_t column, uint32_t dtype) {
  if (dtype == kFp32) return reinterpret_cast<const uint32_t*>(row)[column] & 0x7fffffffu;
  const uint32_t h = reinterpret_cast<const uint16_t*>(row)[column] & 0x7fffu;
  if (dtype == kBf16) return h << 16;
  if (h >= 0x7c00u) return 0x7f800000u;
  return __float_as_uint(__half2float(__ushort_as_half(static_cast<uint16_t>(h))));
}

__device__ inline float LoadElement(const uint8_t* row, uint32_t column, uint32_t dtype) {
  if (dtype == kFp32) return reinterpret_cast<const float*>(row)[column];
  const uint16_t h = reinterpret_cast<const uint16_t*>(row)[column];
  if (dtype == kBf16) return __uint_as_float(static_cast<uint32_t>(h) << 16);
  return __half2float(__ushort_as_half(h));
}

// Two 16-bit elements in one word.
__device__ inline float2 UnpackPair(uint32_t word, uint32_t dtype) {
  if (dtype == kBf16)
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
  return __half22float2(*reinterpret_cast<const __half2*>(&word));
}

// Eight 16-bit elements, and as many floats. One branch for all of them.
inline constexpr uint32_t kEight = 8;
__device__ __forceinline__ void UnpackEight(const uint4& words, uint32_t dtype,
                                            float (&x)[kEight]) {
  const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
  const auto unpack = [&](uint32_t known) {
#pragma unroll
    for (uint32_t i = 0; i < kEight; i += 2) {
      const float2 two = UnpackPair(pairs[i / 2], known);
      x[i] = two.x;
      x[i + 1] = two.y;
    }
  };
  if (dtype == kBf16) {
    unpack(kBf16);
  } else {
    unpack(kFp16);
  }
}

// Saturates to the largest finite value; NaN becomes finite, too.
__device__ inline uint32_t PackPair(float a, float b, uint32_t dtype) {
  if (dtype == kFp16) {
    const __half2 largest = __half2half2(__ushort_as_half(0x7bff));
    const __half2 h = __hmin2(__hmax2(__floats2half2_rn(a, b), __hneg2(largest)), largest);
    return *reinterpret_cast<const uint32_t*>(&h);
  }
  const __nv_bfloat162 largest = __bfloat162bfloat162(__ushort_as_bfloat16(0x7f7f));
  const __nv_bfloat162 h = __hmin2(__hmax2(__floats2bfloat162_rn(a, b), __hneg2(largest)), largest);
  return *reinterpret_cast<const uint32_t*>(&h);
}

__device__ inline float SaturateFp32(float x) {
  constexpr float kLargest = 3.402823466e38f;
  return fminf(fmaxf(x, -kLargest), kLargest);
}

__device__ inline void StoreElement(float x, uint8_t* row, uint32_t column, uint32_t dtype) {
  if (dtype == kFp32) {
    reinterpret_cast<float*>(row)[column] = SaturateFp32(x);
  } else {
    reinterpret_cast<uint16_t*>(row)[column] = static_cast<uint16_t>(PackPair(x, x, dtype));
  }
}

// Non-finite side values count as 0.
__device__ inline float SideValue(uint16_t half) {
  return (half & 0x7c00u) == 0x7c00u ? 0.0f : __half2float(__ushort_as_half(half));
}

__device__ inline uint16_t ToSideValue(float x) {
  if (x != x) return 0;
  return __half_as_ushort(__float2half_rn(fminf(fmaxf(x, -65504.0f), 65504.0f)));
}

template <typename T>
__device__ inline T WarpSum(T x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

__device__ inline uint32_t WarpMax(uint32_t x) { return __reduce_max_sync(kAllLanes, x); }

// sums[i], i < 2 kHalf, over the warp, of which lanes differ in bits 2 kHalf and below still: each
// half of the lanes keeps half of the sums.
template <uint32_t kHalf>
__device__ __forceinline__ void SpreadHalf(float (&sums)[16]) {
  const bool high = (threadIdx.x & 2 * kHalf) != 0;
#pragma unroll
  for (uint32_t i = 0; i < kHalf; ++i) {
    const float other = __shfl_xor_sync(kAllLanes, high ? sums[i] : sums[i + kHalf], 2 * kHalf);
    sums[i] = (high ? sums[i + kHalf] : sums[i]) + other;
  }
  if constexpr (kHalf > 1) SpreadHalf<kHalf / 2>(sums);
}

// sums[i], i < 16, over the warp; lanes 2 i and 2 i + 1 get that of i.
__device__ __forceinline__ float SpreadSixteen(float (&sums)[16]) {
  SpreadHalf<8>(sums);
  return sums[0] + __shfl_xor_sync(kAllLanes, sums[0], 1);
}

// Sum over the block in a fixed order, for everybody. `room` holds one value a warp.
template <typename T>
__device__ inline T BlockSum(T x, T* room) {
  x = WarpSum(x);
  if (threadIdx.x % kWarp == 0) room[threadIdx.x / kWarp] = x;
  __syncthreads();
  T sum = 0;
  for (uint32_t w = 0; w < blockDim.x / kWarp; ++w) sum += room[w];
  __syncthreads();
  return sum;
}

__device__ inline uint32_t BlockMax(uint32_t x, uint32_t* room) {
  x = WarpMax(x);
  if (threadIdx.x % kWarp == 0) room[threadIdx.x / kWarp] = x;
  __syncthreads();
  uint32_t largest = 0;
  for (uint32_t w = 0; w < blockDim.x / kWarp; ++w) largest = max(largest, room[w]);
  __syncthreads();
  return largest;
}

}  // namespace kvstow::gpu
