// The fixed rotation of residual rows (codec/residual_rotation.h) in registers: a row lives in one
// thread, or in 2 or 8 neighbouring lanes where one thread's registers do not hold it. Hadamard
// stages inside a thread are plain additions, so the usual dimensions need no exchange at all.
#pragma once

#include <cstdint>

#include "gpu/elements.cuh"

namespace kvstow::gpu {

__host__ __device__ constexpr uint32_t OuterOf(uint32_t d) {
  uint32_t outer = 1;
  while (d % 2 == 0) {
    d /= 2;
    outer *= 2;
  }
  return outer;
}

template <uint32_t kDim>
struct RowShape {
  static constexpr uint32_t kOuter = OuterOf(kDim);
  static constexpr uint32_t kInner = kDim / kOuter;
  static constexpr uint32_t kLanes = kDim <= 128 ? 1 : kDim <= 256 ? 2 : 8;
  static constexpr uint32_t kChannels = kDim / kLanes;  // of one thread, consecutive
  static constexpr uint32_t kBlocks = kOuter / kLanes;
};

// SplitMix64 seeded with the dimension; bit c of word w belongs to channel 64 w + c.
__host__ __device__ constexpr uint64_t SignWord(uint32_t dim, uint32_t word) {
  uint64_t z = dim + (uint64_t{word} + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// The thread's signs, channel i at bit i % 32 of word i / 32.
template <uint32_t kDim>
__device__ inline void LoadSigns(uint32_t lane,
                                 uint32_t (&signs)[(RowShape<kDim>::kChannels + 31) / 32]) {
  using Shape = RowShape<kDim>;
#pragma unroll
  for (uint32_t l = 0; l < Shape::kLanes; ++l) {
    if (l != lane) continue;
#pragma unroll
    for (uint32_t w = 0; w < (Shape::kChannels + 31) / 32; ++w) {
      uint32_t bits = 0;
#pragma unroll
      for (uint32_t i = 0; i < 32; ++i) {
        const uint32_t c = l * Shape::kChannels + 32 * w + i;
        if (32 * w + i < Shape::kChannels && (SignWord(kDim, c / 64) >> (c % 64) & 1) != 0) {
          bits |= 1u << i;
        }
      }
      signs[w] = bits;
    }
  }
}

// x with its sign flipped where bit i of the words is set.
__device__ inline float Flip(float x, const uint32_t* signs, uint32_t i) {
  return __uint_as_float(__float_as_uint(x) ^ ((signs[i / 32] << (31 - i % 32)) & 0x80000000u));
}

template <uint32_t kDim>
__device__ inline void Hadamard(float (&x)[RowShape<kDim>::kChannels], uint32_t lane) {
  using Shape = RowShape<kDim>;
#pragma unroll
  for (uint32_t h = 1; h < Shape::kBlocks; h *= 2) {
#pragma unroll
    for (uint32_t a = 0; a < Shape::kBlocks; ++a) {
      if ((a & h) != 0) continue;
#pragma unroll
      for (uint32_t i = 0; i < Shape::kInner; ++i) {
        const float s = x[a * Shape::kInner + i];
        const float t = x[(a + h) * Shape::kInner + i];
        x[a * Shape::kInner + i] = s + t;
        x[(a + h) * Shape::kInner + i] = s - t;
      }
    }
  }
#pragma unroll
  for (uint32_t h = 1; h < Shape::kLanes; h *= 2) {
    const float sign = (lane & h) != 0 ? -1.0f : 1.0f;
#pragma unroll
    for (uint32_t i = 0; i < Shape::kChannels; ++i) {
      const float other = __shfl_xor_sync(kAllLanes, x[i], h);
      x[i] = fmaf(x[i], sign, other);
    }
  }
}

// Forward: X_k = sum_b dct[k][b] x_b within each block; else the transpose.
template <uint32_t kDim, bool kForward>
__device__ inline void Cosine(const float* dct, float (&x)[RowShape<kDim>::kChannels]) {
  using Shape = RowShape<kDim>;
  if constexpr (Shape::kInner > 1) {
    constexpr uint32_t kInner = Shape::kInner;
#pragma unroll
    for (uint32_t a = 0; a < Shape::kBlocks; ++a) {
      float in[kInner];
#pragma unroll
      for (uint32_t i = 0; i < kInner; ++i) in[i] = x[a * kInner + i];
#pragma unroll
      for (uint32_t k = 0; k < kInner; ++k) {
        float sum = 0;
#pragma unroll
        for (uint32_t b = 0; b < kInner; ++b) {
          sum = fmaf(in[b], kForward ? dct[k * kInner + b] : dct[b * kInner + k], sum);
        }
        x[a * kInner + k] = sum;
      }
    }
  }
}

// Unit of a thread's packed codes that every one of its chunks is aligned to.
__host__ __device__ constexpr uint32_t ChunkUnit(uint32_t bytes) {
  return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : bytes % 2 == 0 ? 2 : 1;
}

template <uint32_t kBytes>
__device__ inline void LoadChunk(const uint8_t* from, uint32_t (&words)[(kBytes + 3) / 4]) {
  constexpr uint32_t kUnit = ChunkUnit(kBytes);
  if constexpr (kUnit == 16) {
#pragma unroll
    for (uint32_t i = 0; i < kBytes / 16; ++i) {
      const uint4 w = reinterpret_cast<const uint4*>(from)[i];
      words[4 * i] = w.x;
      words[4 * i + 1] = w.y;
      words[4 * i + 2] = w.z;
      words[4 * i + 3] = w.w;
    }
  } else if constexpr (kUnit >= 4) {
#pragma unroll
    for (uint32_t i = 0; i < kBytes / 4; ++i) words[i] = reinterpret_cast<const uint32_t*>(from)[i];
  } else {
#pragma unroll
    for (uint32_t& w : words) w = 0;
#pragma unroll
    for (uint32_t i = 0; i < kBytes / kUnit; ++i) {
      const uint32_t piece = kUnit == 2 ? reinterpret_cast<const uint16_t*>(from)[i] : from[i];
      words[i * kUnit / 4] |= piece << (i * kUnit % 4 * 8);
    }
  }
}

template <uint32_t kBytes>
__device__ inline void StoreChunk(const uint32_t (&words)[(kBytes + 3) / 4], uint8_t* to) {
  constexpr uint32_t kUnit = ChunkUnit(kBytes);
  if constexpr (kUnit >= 4) {
#pragma unroll
    for (uint32_t i = 0; i < kBytes / 4; ++i) reinterpret_cast<uint32_t*>(to)[i] = words[i];
  } else {
#pragma unroll
    for (uint32_t i = 0; i < kBytes / kUnit; ++i) {
      const uint32_t piece = words[i * kUnit / 4] >> (i * kUnit % 4 * 8);
      if constexpr (kUnit == 2) {
        reinterpret_cast<uint16_t*>(to)[i] = static_cast<uint16_t>(piece);
      } else {
        to[i] = static_cast<uint8_t>(piece);
      }
    }
  }
}

}  // namespace kvstow::gpu
