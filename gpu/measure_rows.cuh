// Error sums of a tile against what the decoder gave back, over the threads of a block.
//
// A thread has eight channels of some rows, in two runs of four. Channel means come first, then
// centred sums, so that a large mean costs no digits, and every sum has a fixed order.
#pragma once

#include <cstdint>

#include "gpu/elements.cuh"
#include "gpu/kernels.h"

namespace kvstow::gpu {

// What a thread has of a tile of n rows and d channels: four channels from a on and four from b on,
// and the rows of one of `groups` groups.
struct Share {
  uint32_t n, d, a, b, group, groups;
  __device__ __forceinline__ bool active() const { return group < groups; }
  __device__ __forceinline__ uint32_t Channel(uint32_t i) const {
    return i < 4 ? a + i : b + i - 4;
  }
};

// What values are multiplied by, as two factors, because it may be no float itself.
struct Unit {
  float a, b;
};

// Sums are of values as they are where they are FP16, whose squares fit, and of scaled ones
// otherwise: the exponent of what was divided by.
__device__ inline int32_t ExponentOfSums(const EncodeBatch& b, const Slot& slot) {
  return b.dtype == kFp16 ? 0 : slot.exponent;
}

// 16-bit elements as values and errors. Those of FP16 stay as they are, so that sums over a channel
// of equal ones are exact.
template <uint32_t kDtype>
__device__ __forceinline__ void UnpackPair(const uint4& value, const uint4& decoded,
                                           const Unit& unit, float (&x)[kEight],
                                           float (&e)[kEight]) {
  UnpackEight(value, kDtype, x);
  UnpackEight(decoded, kDtype, e);
#pragma unroll
  for (uint32_t i = 0; i < kEight; ++i) {
    if constexpr (kDtype != kFp16) {
      x[i] = x[i] * unit.a * unit.b;
      e[i] = e[i] * unit.a * unit.b;
    }
    e[i] -= x[i];
  }
}

// A source of 16-bit elements (FindMeans): their sums need no other origin.
struct ZeroOrigin {
  __device__ __forceinline__ void Origin(float (&x)[kEight], float (&e)[kEight]) const {
#pragma unroll
    for (uint32_t i = 0; i < kEight; ++i) x[i] = e[i] = 0;
  }
};

// Of values x and errors e: squares of both, of both centred, and x (x + e).
struct Sums {
  double energy, error, centred_energy, centred_error, inner_product;

  __device__ void Add(const Sums& o) {
    energy += o.energy;
    error += o.error;
    centred_energy += o.centred_energy;
    centred_error += o.centred_error;
    inner_product += o.inner_product;
  }
  // What the means (x, e) of a channel of n entries add to its centred sums.
  __device__ void AddMeans(uint32_t n, double x, double e) {
    energy += n * x * x;
    error += n * e * e;
    inner_product += n * x * (x + e);
  }
  // Centred squares, and the products of one with the other.
  __device__ void AddCentred(double xx, double ee, double xe) {
    energy += xx;
    error += ee;
    centred_energy += xx;
    centred_error += ee;
    inner_product += xx + xe;
  }
};

// Shared memory of kThreads threads.
template <uint32_t kThreads, uint32_t kMaxDim>
struct MeasureRoom {
  static constexpr uint32_t kWarps = kThreads / kWarp;
  alignas(16) float parts[2][kThreads * kEight];  // sums of a group: of values and of errors
  alignas(16) float origins[2][kMaxDim];
  alignas(16) float means[2][kMaxDim];
  Sums sums[kWarps];
};

// Means of values and errors to the room, and what they add to sums that are centred otherwise.
// source.Origin(x, e) is what sums are differences to, source.ForAll(f) calls f(x, e) for each row.
template <typename Source, uint32_t kThreads, uint32_t kMaxDim>
__device__ __forceinline__ void FindMeans(const Source& source, const Share& share,
                                          MeasureRoom<kThreads, kMaxDim>& room, Sums* sums) {
  if (share.active()) {
    float origin_x[kEight], origin_e[kEight], sum_x[kEight] = {}, sum_e[kEight] = {};
    source.Origin(origin_x, origin_e);
    source.ForAll([&](const float(&x)[kEight], const float(&e)[kEight]) {
#pragma unroll
      for (uint32_t i = 0; i < kEight; ++i) {
        sum_x[i] += x[i] - origin_x[i];
        sum_e[i] += e[i] - origin_e[i];
      }
    });
#pragma unroll
    for (uint32_t i = 0; i < kEight; ++i) {
      const uint32_t c = share.Channel(i);
      room.parts[0][share.group * share.d + c] = sum_x[i];
      room.parts[1][share.group * share.d + c] = sum_e[i];
      if (share.group != 0) continue;
      room.origins[0][c] = origin_x[i];
      room.origins[1][c] = origin_e[i];
    }
  }
  __syncthreads();
  const float inverse = 1.0f / static_cast<float>(share.n);
  for (uint32_t c = threadIdx.x; c < share.d; c += kThreads) {
    float x = 0, e = 0;
    for (uint32_t g = 0; g < share.groups; ++g) {
      x += room.parts[0][g * share.d + c];
      e += room.parts[1][g * share.d + c];
    }
    room.means[0][c] = x = fmaf(x, inverse, room.origins[0][c]);
    room.means[1][c] = e = fmaf(e, inverse, room.origins[1][c]);
    sums->AddMeans(share.n, x, e);
  }
  __syncthreads();
}

// The thread's part of the tile's sums. The whole block calls it.
template <typename Source, uint32_t kThreads, uint32_t kMaxDim>
__device__ __forceinline__ Sums SumRows(const Source& source, const Share& share,
                                        MeasureRoom<kThreads, kMaxDim>& room) {
  Sums sums = {};
  FindMeans(source, share, room, &sums);
  if (!share.active()) return sums;
  float mean_x[kEight], mean_e[kEight];
#pragma unroll
  for (uint32_t i = 0; i < kEight; ++i) {
    mean_x[i] = room.means[0][share.Channel(i)];
    mean_e[i] = room.means[1][share.Channel(i)];
  }
  source.ForAll([&](const float(&x)[kEight], const float(&e)[kEight]) {
    float xx = 0, ee = 0, xe = 0;
#pragma unroll
    for (uint32_t i = 0; i < kEight; ++i) {
      const float centred = x[i] - mean_x[i], centred_error = e[i] - mean_e[i];
      xx = fmaf(centred, centred, xx);
      ee = fmaf(centred_error, centred_error, ee);
      xe = fmaf(centred, centred_error, xe);
    }
    sums.AddCentred(xx, ee, xe);
  });
  return sums;
}

// Over the block, for thread 0.
template <uint32_t kThreads, uint32_t kMaxDim>
__device__ __forceinline__ Sums SumBlock(const Sums& mine, MeasureRoom<kThreads, kMaxDim>& room) {
  Sums sums = {WarpSum(mine.energy), WarpSum(mine.error), WarpSum(mine.centred_energy),
               WarpSum(mine.centred_error), WarpSum(mine.inner_product)};
  if (threadIdx.x % kWarp == 0) room.sums[threadIdx.x / kWarp] = sums;
  __syncthreads();
  if (threadIdx.x != 0) return sums;
  for (uint32_t w = 1; w < kThreads / kWarp; ++w) sums.Add(room.sums[w]);
  return sums;
}

// The error that a bound is about, of the energy. As ErrorSums: 0 where both are 0.
__device__ inline double BoundedError(const EncodeBatch& b, const Slot& slot) {
  const double energy = b.key_like != 0 ? slot.sums[2] : slot.sums[0];
  const double error = b.key_like != 0 ? slot.sums[3] : slot.sums[1];
  return error == 0 ? 0 : energy > 0 ? error / energy : INFINITY;
}

// To a slot that was coded with so many bits: whether its bound is met, and whether it is done.
__device__ inline void TakeSums(const EncodeBatch& b, const Sums& sums, int32_t exponent,
                                uint32_t bits, Slot* slot) {
  const double unit = ldexp(1.0, 2 * exponent);
  slot->sums[0] = sums.energy * unit;
  slot->sums[1] = sums.error * unit;
  slot->sums[2] = sums.centred_energy * unit;
  slot->sums[3] = sums.centred_error * unit;
  slot->sums[4] = sums.inner_product * unit;
  slot->met = b.bound == 0 || BoundedError(b, *slot) <= b.bound;
  slot->done = slot->met != 0 || bits >= 4;
}

}  // namespace kvstow::gpu
