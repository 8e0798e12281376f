// Encoding kernel of stage 2: residual, rotation, residual codes, lengths, and the whole body of a
// slot. Rows in registers as in the decoder, and the same V groups in shared memory.
//
// A block a tile, because the reference length is the largest of the tile.
#pragma once

#include "gpu/decode_tile.cuh"
#include "gpu/kernels.h"
#include "gpu/row_transform.cuh"
#include "gpu/tile_body.cuh"

namespace kvstow::gpu {

// The code nearest to length / reference; codec/length_code.h.
__device__ inline uint32_t LengthCodeFor(float length, float reference) {
  if (!(length > 0) || !(reference > 0)) return 0;
  const float ratio = length / reference;
  if (ratio >= 1) return 1;
  const float least = LengthFactor(255);
  if (ratio < least) return ratio < 0.5f * least ? 0 : 255;
  // The last code whose factor is not below the ratio: from two steps before where the logarithm
  // puts it, which its error cannot pass.
  const auto guess = static_cast<int32_t>(-16.0f * __log2f(ratio)) - 1;
  uint32_t upper = static_cast<uint32_t>(min(max(guess, 1), 254));
  while (upper < 254 && LengthFactor(upper + 1) >= ratio) ++upper;
  const bool lower_is_nearer = ratio < 0.5f * (LengthFactor(upper) + LengthFactor(upper + 1));
  return lower_is_nearer ? upper + 1 : upper;
}

template <uint32_t kLanes>
__device__ inline float RowSum(float x) {
#pragma unroll
  for (uint32_t h = 1; h < kLanes; h *= 2) x += __shfl_xor_sync(kAllLanes, x, h);
  return x;
}

// Codes of the thread's part of a rotated row to `codes`; returns the least-squares length.
template <uint32_t kDim, uint32_t kBits>
__device__ inline float QuantiseRow(const float (&z)[RowShape<kDim>::kChannels],
                                    const TileTables& tables, const float* levels, uint8_t* codes) {
  using Shape = RowShape<kDim>;
  constexpr uint32_t kBytes = Shape::kChannels * kBits / 8;
  float squares = 0;
#pragma unroll
  for (uint32_t i = 0; i < Shape::kChannels; ++i) squares = fmaf(z[i], z[i], squares);
  const float norm = sqrtf(RowSum<Shape::kLanes>(squares));
  const float inverse = norm > 0 ? 1.0f / norm : 0.0f;
  uint32_t words[(kBytes + 3) / 4];
#pragma unroll
  for (uint32_t& w : words) w = 0;
  float zy = 0, yy = 0;
#pragma unroll
  for (uint32_t i = 0; i < Shape::kChannels; ++i) {
    const float unit = z[i] * inverse;
    uint32_t code = 0;
#pragma unroll
    for (uint32_t k = 0; k + 1 < 1u << kBits; ++k) {
      code += unit > tables.thresholds[kBits - 1][k] ? 1 : 0;
    }
    const float y = levels[code];
    zy = fmaf(z[i], y, zy);
    yy = fmaf(y, y, yy);
    const uint32_t bit = i * kBits;
    words[bit / 32] |= code << (bit % 32);
    if (bit % 32 + kBits > 32) words[bit / 32 + 1] |= code >> (32 - bit % 32);
  }
  StoreChunk<kBytes>(words, codes);
  const float length = RowSum<Shape::kLanes>(zy) / RowSum<Shape::kLanes>(yy);
  return norm > 0 && length > 0 ? length : 0.0f;
}

template <typename T>
__device__ inline void CopyAs(const uint8_t* from, uint32_t bytes, uint8_t* to) {
  for (uint32_t i = threadIdx.x; i < bytes / sizeof(T); i += blockDim.x) {
    reinterpret_cast<T*>(to)[i] = reinterpret_cast<const T*>(from)[i];
  }
}

// Everything of a body but codes and lengths. Factors and levels are whole words.
__device__ inline void WriteSideValues(const EncodeBatch& b, uint32_t index, const Head& head,
                                       const BodyLayout& at, float reference, uint8_t* body) {
  const uint8_t* factors = b.factors + size_t{index} * b.factor_bytes;
  const uint8_t* v_codes = factors + kMaxVectors * b.n / 2;
  const uint8_t* levels = v_codes + kMaxVectors * b.d / 2;
  if (head.rank > 0) {
    CopyAs<uint32_t>(factors, head.rank * b.n / 2, body + at.u_codes);
    CopyAs<uint32_t>(v_codes, head.rank * b.d / 2, body + at.v_codes);
    CopyAs<uint32_t>(levels, 32, body + at.u_levels);
    CopyAs<uint16_t>(levels + 32, 2 * head.rank, body + at.phi);
  }
  if (threadIdx.x == 0) *reinterpret_cast<float*>(body + at.reference) = reference;
  if (head.has_means != 0) {
    const auto* means = reinterpret_cast<const uint8_t*>(b.means + size_t{index} * b.d);
    CopyAs<uint16_t>(means, 2 * b.d, body + at.means);
  }
  for (uint32_t i = at.end + threadIdx.x; i < at.total; i += blockDim.x) body[i] = 0;
}

template <uint32_t kDim>
__global__ void __launch_bounds__(kDecodeThreads)
    ResidualKernel(const __grid_constant__ EncodeBatch b, uint32_t bits) {
  using Shape = DecodeShape<kDim>;
  constexpr uint32_t kChannels = Shape::kChannels;
  __shared__ __align__(16) float v_rows[kComponents][kDim];
  __shared__ float levels[16];
  __shared__ float lengths[kMaxTokens];
  __shared__ uint32_t room[kDecodeThreads / kWarp];
  const uint32_t index = blockIdx.x, n = b.n;
  const bool in_use = index < b.counters[0];
  Slot* slot = &b.slots[index];
  DecodeTile* check = &b.check[index];
  if (!in_use || slot->done != 0) {
    if (threadIdx.x == 0) check->skip = 1;
    return;
  }
  const EncodeTile job = b.jobs[slot->tile];
  Head head;
  head.coded = 1;
  head.bits = bits;
  head.rank = slot->rank;
  head.exponent = slot->exponent;
  head.has_means = slot->with_means;
  head.rotary_undone = job.cos != nullptr;
  const BodyLayout at = LayoutOfBody(n, kDim, head);
  // A body that is not smaller than the tile is never kept, and may not fit.
  if (at.total > b.max_body) {
    if (threadIdx.x == 0) {
      check->skip = 1;
      slot->done = 1;
      slot->met = 0;
      slot->body_bytes = at.total;
    }
    return;
  }
  uint8_t* body = b.body + size_t{index} * b.max_body;
  const float* x = b.x + size_t{index} * n * kDim;
  const float* u = b.u + size_t{index} * kMaxVectors * n;
  const float* v = b.v + size_t{index} * kMaxVectors * kDim;
  const uint32_t lane = threadIdx.x % Shape::kLanes;
  if (threadIdx.x < 16) levels[threadIdx.x] = b.tables.levels[(bits - 1) & 3][threadIdx.x];
  uint32_t signs[(kChannels + 31) / 32];
  LoadSigns<kDim>(lane, signs);
  const float norm = rsqrtf(static_cast<float>(Shape::kOuter));

  for (uint32_t first_row = 0; first_row < n; first_row += Shape::kRows) {
    const uint32_t row = first_row + threadIdx.x / Shape::kLanes;
    float z[kChannels];
#pragma unroll
    for (uint32_t i = 0; i < kChannels; ++i) z[i] = x[size_t{lane * kChannels + i} * n + row];
    for (uint32_t first = 0; first < head.rank; first += kComponents) {
      const uint32_t count = min(kComponents, head.rank - first);
      __syncthreads();
      for (uint32_t i = threadIdx.x; i < count * kDim; i += kDecodeThreads) {
        v_rows[i / kDim][i % kDim] = v[size_t{first} * kDim + i];
      }
      __syncthreads();
      for (uint32_t j = 0; j < count; ++j) {
        const float minus_u = -u[size_t{first + j} * n + row];
        const float4* w = reinterpret_cast<const float4*>(&v_rows[j][lane * kChannels]);
#pragma unroll
        for (uint32_t i = 0; i < kChannels / 4; ++i) {
          const float4 e = w[i];
          z[4 * i] = fmaf(minus_u, e.x, z[4 * i]);
          z[4 * i + 1] = fmaf(minus_u, e.y, z[4 * i + 1]);
          z[4 * i + 2] = fmaf(minus_u, e.z, z[4 * i + 2]);
          z[4 * i + 3] = fmaf(minus_u, e.w, z[4 * i + 3]);
        }
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < kChannels; ++i) z[i] = Flip(z[i], signs, i) * norm;
    Hadamard<kDim>(z, lane);
    Cosine<kDim, true>(b.tables.dct, z);
    __syncthreads();  // levels
    uint8_t* codes = body + size_t{row} * (kDim * bits / 8) + lane * (kChannels * bits / 8);
    float length;
    switch (bits) {
      case 1:
        length = QuantiseRow<kDim, 1>(z, b.tables, levels, codes);
        break;
      case 2:
        length = QuantiseRow<kDim, 2>(z, b.tables, levels, codes);
        break;
      case 3:
        length = QuantiseRow<kDim, 3>(z, b.tables, levels, codes);
        break;
      default:
        length = QuantiseRow<kDim, 4>(z, b.tables, levels, codes);
    }
    if (lane == 0) lengths[row] = length;
  }
  __syncthreads();
  uint32_t largest = 0;
  for (uint32_t t = threadIdx.x; t < n; t += kDecodeThreads) {
    largest = max(largest, __float_as_uint(lengths[t]));
  }
  const float reference = __uint_as_float(BlockMax(largest, room));
  for (uint32_t t = threadIdx.x; t < n; t += kDecodeThreads) {
    body[at.lengths + t] = static_cast<uint8_t>(LengthCodeFor(lengths[t], reference));
  }
  WriteSideValues(b, index, head, at, reference, body);
  if (threadIdx.x == 0) {
    slot->bits = bits;
    slot->body_bytes = at.total;
    slot->head = PackHead(head);
    DecodeTile decode;
    decode.body = body;
    if (b.decoded != nullptr) {
      decode.values = b.decoded + size_t{index} * n * kDim * b.element_bytes;
    }
    decode.row_stride = size_t{kDim} * b.element_bytes;
    decode.cos = job.cos;
    decode.sin = job.sin;
    decode.head = slot->head;
    decode.skip = 0;
    *check = decode;
  }
}

template <uint32_t kDim>
cudaError_t LaunchResidualOf(const EncodeBatch& b, uint32_t bits, cudaStream_t stream) {
  ResidualKernel<kDim><<<b.max_slots, kDecodeThreads, 0, stream>>>(b, bits);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
