// Decoding kernel: codes, rotation back, low-rank part, means, rotary embedding, rounding.
//
// A thread holds a whole row (RowShape), so that the Hadamard transform is register additions, the
// factors of V are broadcasts from shared memory, and nothing is reduced between threads. Finished
// rows pass through shared memory once, to reach device memory as whole lines: as 16-bit elements
// where nothing is left to do, as floats where the rotary embedding pairs channels.
#pragma once

#include <cstdint>

#include "gpu/kernels.h"
#include "gpu/launch_dims.h"
#include "gpu/rotation.cuh"
#include "gpu/row_transform.cuh"
#include "gpu/tile_body.cuh"
#include "gpu/tile_rows.cuh"

namespace kvstow::gpu {

inline constexpr uint32_t kDecodeThreads = 128;
inline constexpr uint32_t kComponents = 8;  // of V in shared memory at a time
inline constexpr uint32_t kMaxTokens = 512;

__device__ constexpr float kLengthMantissas[16] = {
    0x1p+0f,        0x1.ea4afap-1f, 0x1.d5818ep-1f, 0x1.c199bep-1f, 0x1.ae89fap-1f, 0x1.9c4918p-1f,
    0x1.8ace54p-1f, 0x1.7a1148p-1f, 0x1.6a09e6p-1f, 0x1.5ab07ep-1f, 0x1.4bfdaep-1f, 0x1.3dea64p-1f,
    0x1.306fe0p-1f, 0x1.2387a6p-1f, 0x1.172b84p-1f, 0x1.0b5586p-1f,
};

// Factor of a length code: codec/length_code.h.
__device__ inline float LengthFactor(uint32_t code) {
  if (code == 0) return 0;
  const uint32_t at = code - 1;
  return __uint_as_float(__float_as_uint(kLengthMantissas[at % 16]) - (at / 16 << 23));
}

template <uint32_t kDim>
struct DecodeShape : RowShape<kDim> {
  static constexpr uint32_t kRows = kDecodeThreads / RowShape<kDim>::kLanes;  // of a block
  static constexpr uint32_t kRowsOfWarp = kWarp / RowShape<kDim>::kLanes;
  // Rows in shared memory are one 16-byte access apart from a multiple of the banks.
  __host__ __device__ static constexpr uint32_t StageStride(uint32_t element_bytes) {
    return kDim * element_bytes + 16;
  }
  __host__ __device__ static constexpr uint32_t StageBytes(uint32_t element_bytes) {
    return kRows * StageStride(element_bytes);
  }
};

// Words of a thread's codes at four bits, the most it may have.
template <uint32_t kDim>
inline constexpr uint32_t kCodeWords = (RowShape<kDim>::kChannels / 2 + 3) / 4;

// Reads the thread's codes; `words` past them stay unset.
template <uint32_t kDim, uint32_t kBits>
__device__ inline void LoadCodes(const uint8_t* codes, uint32_t (&words)[kCodeWords<kDim>]) {
  constexpr uint32_t kBytes = RowShape<kDim>::kChannels * kBits / 8;
  uint32_t chunk[(kBytes + 3) / 4];
  LoadChunk<kBytes>(codes, chunk);
#pragma unroll
  for (uint32_t i = 0; i < (kBytes + 3) / 4; ++i) words[i] = chunk[i];
}

template <uint32_t kDim, uint32_t kBits>
__device__ inline void UnpackLevels(const uint32_t (&words)[kCodeWords<kDim>], const float* levels,
                                    float (&x)[RowShape<kDim>::kChannels]) {
#pragma unroll
  for (uint32_t i = 0; i < RowShape<kDim>::kChannels; ++i) {
    const uint32_t bit = i * kBits;
    uint32_t code = words[bit / 32] >> (bit % 32);
    if (bit % 32 + kBits > 32) code |= words[bit / 32 + 1] << (32 - bit % 32);
    x[i] = levels[code & ((1u << kBits) - 1)];
  }
}

// Where a row of the stage goes: kept in the padding behind it, so that the address of a page is
// looked up once a row and takes no shared memory of its own, which is what limits the blocks on a
// multiprocessor.
template <uint32_t kDim>
__device__ inline uint8_t*& RowAt(uint8_t* stage, uint32_t row, uint32_t element_bytes) {
  return *reinterpret_cast<uint8_t**>(stage + row * DecodeShape<kDim>::StageStride(element_bytes) +
                                      kDim * element_bytes);
}

// Rows of the warp from the stage to device memory, where RowAt says, element by element where
// they are not aligned for more.
template <uint32_t kDim>
__device__ inline void StoreRows(uint8_t* stage, const DecodeTile& tile, uint32_t element_bytes) {
  using Shape = DecodeShape<kDim>;
  const uint32_t lane = threadIdx.x % kWarp;
  const uint32_t stride = Shape::StageStride(element_bytes);
  if (RowsAreAligned(tile, 16)) {
    const uint32_t pieces = kDim * element_bytes / 16;
    for (uint32_t i = lane; i < Shape::kRowsOfWarp * pieces; i += kWarp) {
      const uint32_t row = i / pieces, piece = i % pieces;
      *reinterpret_cast<uint4*>(RowAt<kDim>(stage, row, element_bytes) + 16 * piece) =
          *reinterpret_cast<const uint4*>(stage + row * stride + 16 * piece);
    }
    return;
  }
  for (uint32_t i = lane; i < Shape::kRowsOfWarp * kDim; i += kWarp) {
    const uint32_t row = i / kDim, c = i % kDim;
    uint8_t* out = RowAt<kDim>(stage, row, element_bytes);
    if (element_bytes == 4) {
      reinterpret_cast<float*>(out)[c] =
          *reinterpret_cast<const float*>(stage + row * stride + 4 * c);
    } else {
      reinterpret_cast<uint16_t*>(out)[c] =
          *reinterpret_cast<const uint16_t*>(stage + row * stride + 2 * c);
    }
  }
}

// Channels at.. and half + at.. of a row of floats, rotated forward: four 16-bit elements each.
__device__ __forceinline__ uint4 RotateQuad(const float* x, uint32_t at, uint32_t half,
                                            const float* cosines, const float* sines, float scale,
                                            uint32_t dtype) {
  const float4 a = *reinterpret_cast<const float4*>(x + at);
  const float4 b = *reinterpret_cast<const float4*>(x + half + at);
  const float4 c = __ldg(reinterpret_cast<const float4*>(cosines));
  const float4 s = __ldg(reinterpret_cast<const float4*>(sines));
  const float lo[4] = {a.x * c.x - b.x * s.x, a.y * c.y - b.y * s.y, a.z * c.z - b.z * s.z,
                       a.w * c.w - b.w * s.w};
  const float hi[4] = {a.x * s.x + b.x * c.x, a.y * s.y + b.y * c.y, a.z * s.z + b.z * c.z,
                       a.w * s.w + b.w * c.w};
  const auto pack = [&](const float* y) {
    return make_uint2(PackPair(fmaf(y[0], scale, 0.0f), fmaf(y[1], scale, 0.0f), dtype),
                      PackPair(fmaf(y[2], scale, 0.0f), fmaf(y[3], scale, 0.0f), dtype));
  };
  const uint2 first = pack(lo), second = pack(hi);
  return make_uint4(first.x, first.y, second.x, second.y);
}

// Float rows of the warp, rotated forward where asked, to where RowAt says.
template <uint32_t kDim>
__device__ inline void RotateAndStoreRows(uint8_t* stage, const DecodeTile& tile,
                                          uint32_t first_row, const RotaryShape& rotary,
                                          bool rotate, float scale, uint32_t dtype) {
  using Shape = DecodeShape<kDim>;
  const uint32_t lane = threadIdx.x % kWarp;
  const uint32_t pairs = rotate ? rotary.pairs : 0;
  const uint32_t offset = rotary.offset;
  const float* const cosines = tile.cos;
  const float* const sines = tile.sin;
  if (dtype != kFp32 && pairs > 0 && RotatesHalves(rotary, kDim) && RowsAreAligned(tile, 8)) {
    // Four pairs a lane: 8-byte stores, the cosines read once.
    const uint32_t quads = pairs / 4;
    for (uint32_t i = lane; i < Shape::kRowsOfWarp * quads; i += kWarp) {
      const uint32_t row = i / quads, at = i % quads * 4;
      const float* x = reinterpret_cast<const float*>(stage + row * Shape::StageStride(4));
      const size_t angles = size_t{first_row + row} * pairs + at;
      const uint4 rotated =
          RotateQuad(x, at, pairs, cosines + angles, sines + angles, scale, dtype);
      uint8_t* out = RowAt<kDim>(stage, row, 4);
      *reinterpret_cast<uint2*>(out + 2 * at) = make_uint2(rotated.x, rotated.y);
      *reinterpret_cast<uint2*>(out + 2 * (pairs + at)) = make_uint2(rotated.z, rotated.w);
    }
    return;
  }
  for (uint32_t i = lane; i < Shape::kRowsOfWarp * kDim; i += kWarp) {
    const uint32_t row = i / kDim, c = i % kDim;
    const uint32_t t = first_row + row;
    const float* x = reinterpret_cast<const float*>(stage + row * Shape::StageStride(4));
    float y = x[c];
    if (c >= offset && c < offset + 2 * pairs) {
      const uint32_t k = c - offset;
      const uint32_t pair = rotary.interleaved != 0 ? k / 2 : k % pairs;
      const bool second = rotary.interleaved != 0 ? k % 2 != 0 : k >= pairs;
      const uint32_t step = rotary.interleaved != 0 ? 1 : pairs;
      const float cos = cosines[size_t{t} * pairs + pair];
      const float sin = sines[size_t{t} * pairs + pair];
      y = second ? x[c - step] * sin + y * cos : y * cos - x[c + step] * sin;
    }
    StoreElement(fmaf(y, scale, 0.0f), RowAt<kDim>(stage, row, 4), c, dtype);
  }
}

// The block's rows, kept as they are; they go where RowAt says.
template <uint32_t kDim>
__device__ inline void CopyRawRows(uint8_t* stage, const DecodeTile& tile, uint32_t first_row,
                                   uint32_t element_bytes) {
  constexpr uint32_t kRows = DecodeShape<kDim>::kRows;
  const uint32_t row_bytes = kDim * element_bytes;
  const uint8_t* from = tile.body + size_t{first_row} * row_bytes;
  if (RowsAreAligned(tile, 16)) {
    const uint32_t pieces = row_bytes / 16;
    for (uint32_t i = threadIdx.x; i < kRows * pieces; i += blockDim.x) {
      uint8_t* row = RowAt<kDim>(stage, i / pieces, element_bytes);
      reinterpret_cast<uint4*>(row)[i % pieces] = reinterpret_cast<const uint4*>(from)[i];
    }
    return;
  }
  const uint32_t pieces = row_bytes / 2;
  for (uint32_t i = threadIdx.x; i < kRows * pieces; i += blockDim.x) {
    uint8_t* row = RowAt<kDim>(stage, i / pieces, element_bytes);
    reinterpret_cast<uint16_t*>(row)[i % pieces] = reinterpret_cast<const uint16_t*>(from)[i];
  }
}

// The thread's part of a row of a coded tile, neither scaled nor rotated. The whole block calls it;
// `side` holds what follows the codes.
template <uint32_t kDim>
__device__ __forceinline__ void DecodeRow(const DecodeTile& tile, const Head& head, uint32_t n,
                                          uint32_t row, const TileTables& tables, uint8_t* side,
                                          float (&x)[RowShape<kDim>::kChannels]) {
  using Shape = DecodeShape<kDim>;
  constexpr uint32_t kChannels = Shape::kChannels;
  __shared__ __align__(16) float v_rows[kComponents][kDim];
  __shared__ float levels[16];
  const BodyLayout at = LayoutOfBody(n, kDim, head);
  const uint32_t lane = threadIdx.x % Shape::kLanes;

  // Codes to registers and all that follows them to shared memory, with one wait for both.
  uint32_t words[kCodeWords<kDim>];
  const uint8_t* codes =
      tile.body + size_t{row} * (kDim * head.bits / 8) + lane * (kChannels * head.bits / 8);
  switch (head.bits) {
    case 1:
      LoadCodes<kDim, 1>(codes, words);
      break;
    case 2:
      LoadCodes<kDim, 2>(codes, words);
      break;
    case 3:
      LoadCodes<kDim, 3>(codes, words);
      break;
    default:
      LoadCodes<kDim, 4>(codes, words);
  }
  for (uint32_t i = threadIdx.x; i < (at.total - at.lengths) / 16; i += kDecodeThreads) {
    reinterpret_cast<uint4*>(side)[i] = reinterpret_cast<const uint4*>(tile.body + at.lengths)[i];
  }
  const uint8_t* body = side - at.lengths;  // offsets are those of the layout
  if (threadIdx.x < 16) levels[threadIdx.x] = tables.levels[(head.bits - 1) & 3][threadIdx.x];
  __syncthreads();

  switch (head.bits) {
    case 1:
      UnpackLevels<kDim, 1>(words, levels, x);
      break;
    case 2:
      UnpackLevels<kDim, 2>(words, levels, x);
      break;
    case 3:
      UnpackLevels<kDim, 3>(words, levels, x);
      break;
    default:
      UnpackLevels<kDim, 4>(words, levels, x);
  }
  Cosine<kDim, false>(tables.dct, x);
  Hadamard<kDim>(x, lane);

  float reference = *reinterpret_cast<const float*>(body + at.reference);
  if (!isfinite(reference)) reference = 0;
  const float length =
      reference * LengthFactor(body[at.lengths + row]) * rsqrtf(static_cast<float>(Shape::kOuter));
  uint32_t signs[(kChannels + 31) / 32];
  LoadSigns<kDim>(lane, signs);
#pragma unroll
  for (uint32_t i = 0; i < kChannels; ++i) x[i] = Flip(x[i], signs, i) * length;

  // Means are one more component, with all of u one.
  const uint32_t components = head.rank + head.has_means;
  for (uint32_t first = 0; first < components; first += kComponents) {
    const uint32_t count = min(kComponents, components - first);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < count * (kDim / 2); i += kDecodeThreads) {
      const uint32_t j = first + i / (kDim / 2), pair = i % (kDim / 2);
      float2 value;
      if (j < head.rank) {
        const uint32_t two = body[at.v_codes + j * (kDim / 2) + pair];
        const float phi = SideValue(*reinterpret_cast<const uint16_t*>(body + at.phi + 2 * j));
        const float unit = phi * (1.0f / 128);
        value.x = static_cast<float>(static_cast<int8_t>(body[at.v_levels + (two & 15)])) * unit;
        value.y = static_cast<float>(static_cast<int8_t>(body[at.v_levels + (two >> 4)])) * unit;
      } else {
        const auto* means = reinterpret_cast<const uint16_t*>(body + at.means);
        value = make_float2(SideValue(means[2 * pair]), SideValue(means[2 * pair + 1]));
      }
      *reinterpret_cast<float2*>(&v_rows[i / (kDim / 2)][2 * pair]) = value;
    }
    __syncthreads();
    for (uint32_t j = 0; j < count; ++j) {
      float u = 1;
      if (first + j < head.rank) {
        const uint32_t at_u = (first + j) * n + row;
        const uint32_t code = body[at.u_codes + at_u / 2] >> (at_u % 2 * 4) & 15;
        u = static_cast<float>(static_cast<int8_t>(body[at.u_levels + code])) * (1.0f / 128);
      }
      const float4* v = reinterpret_cast<const float4*>(&v_rows[j][lane * kChannels]);
#pragma unroll
      for (uint32_t i = 0; i < kChannels / 4; ++i) {
        const float4 w = v[i];
        x[4 * i] = fmaf(u, w.x, x[4 * i]);
        x[4 * i + 1] = fmaf(u, w.y, x[4 * i + 1]);
        x[4 * i + 2] = fmaf(u, w.z, x[4 * i + 2]);
        x[4 * i + 3] = fmaf(u, w.w, x[4 * i + 3]);
      }
    }
  }
}

// The thread's channels as 16-bit elements to its row of the stage.
template <uint32_t kDim>
__device__ __forceinline__ void StagePacked(const float (&x)[RowShape<kDim>::kChannels],
                                            float scale, uint32_t dtype, uint8_t* to) {
  constexpr uint32_t kChannels = RowShape<kDim>::kChannels;
#pragma unroll
  for (uint32_t i = 0; i < kChannels; i += 8) {
    uint32_t packed[4];
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) {
      packed[k] =
          PackPair(fmaf(x[i + 2 * k], scale, 0.0f), fmaf(x[i + 2 * k + 1], scale, 0.0f), dtype);
    }
    reinterpret_cast<uint4*>(to)[i / 8] = make_uint4(packed[0], packed[1], packed[2], packed[3]);
  }
}

// The same as floats, for a rotation.
template <uint32_t kDim>
__device__ __forceinline__ void StageFloats(const float (&x)[RowShape<kDim>::kChannels],
                                            uint8_t* to) {
#pragma unroll
  for (uint32_t i = 0; i < RowShape<kDim>::kChannels; i += 4) {
    reinterpret_cast<float4*>(to)[i / 4] = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
  }
}

// A block decodes kRows rows, from blockIdx.y of them on, of tile blockIdx.x.
template <uint32_t kDim>
__global__ void __launch_bounds__(kDecodeThreads)
    DecodeKernel(const DecodeTile* tiles, uint32_t n, uint32_t dtype, uint32_t side_bytes,
                 RotaryShape rotary, const __grid_constant__ TileTables tables) {
  using Shape = DecodeShape<kDim>;
  constexpr uint32_t kChannels = Shape::kChannels;
  extern __shared__ __align__(16) uint8_t side[];
  uint8_t* const stage_memory = side + side_bytes;

  const DecodeTile& tile = tiles[blockIdx.x];  // read where needed: registers are few
  const uint32_t first_row = blockIdx.y * Shape::kRows;
  if (tile.skip != 0) return;
  const Head head = UnpackHead(tile.head);
  const uint32_t row = first_row + threadIdx.x / Shape::kLanes;
  if (head.coded == 0) {
    const uint32_t element_bytes = dtype == kFp32 ? 4 : 2;
    RowAt<kDim>(stage_memory, threadIdx.x / Shape::kLanes, element_bytes) = RowOf(tile, row);
    __syncthreads();
    return CopyRawRows<kDim>(stage_memory, tile, first_row, element_bytes);
  }
  float x[kChannels];
  DecodeRow<kDim>(tile, head, n, row, tables, side, x);
  const float scale = ldexpf(1.0f, head.exponent);
  const uint32_t warp = threadIdx.x / kWarp;
  const uint32_t row_of_warp = threadIdx.x % kWarp / Shape::kLanes;
  const uint32_t warp_row = first_row + warp * Shape::kRowsOfWarp;
  const bool rotate = head.rotary_undone != 0 && tile.cos != nullptr;
  const uint32_t lane = threadIdx.x % Shape::kLanes;
  if (dtype != kFp32 && !rotate) {
    uint8_t* stage = stage_memory + warp * Shape::kRowsOfWarp * Shape::StageStride(2);
    StagePacked<kDim>(x, scale, dtype,
                      stage + row_of_warp * Shape::StageStride(2) + lane * kChannels * 2);
    if (lane == 0) RowAt<kDim>(stage, row_of_warp, 2) = RowOf(tile, row);
    __syncwarp();
    StoreRows<kDim>(stage, tile, 2);
    return;
  }
  uint8_t* stage = stage_memory + warp * Shape::kRowsOfWarp * Shape::StageStride(4);
  StageFloats<kDim>(x, stage + row_of_warp * Shape::StageStride(4) + lane * kChannels * 4);
  if (lane == 0) RowAt<kDim>(stage, row_of_warp, 4) = RowOf(tile, row);
  __syncwarp();
  RotateAndStoreRows<kDim>(stage, tile, warp_row, rotary, rotate, scale, dtype);
}

// Shared memory for what follows the codes of a body, at most.
template <uint32_t kDim>
inline uint32_t SideBytes(uint32_t n) {
  Head largest = {};
  largest.coded = 1;
  largest.bits = 4;
  largest.rank = 32;
  largest.has_means = 1;
  const BodyLayout at = LayoutOfBody(n, kDim, largest);
  return at.total - at.lengths;
}

template <uint32_t kDim>
cudaError_t LaunchDecodeOf(const DecodeArguments& a) {
  using Shape = DecodeShape<kDim>;
  const bool as_floats = a.dtype == kFp32 || a.rotary.pairs > 0;
  const uint32_t stage = Shape::StageBytes(as_floats ? 4 : 2);
  const uint32_t side = SideBytes<kDim>(a.n);
  // The same for every call: calls of other shapes may run at the same time.
  const cudaError_t error =
      cudaFuncSetAttribute(DecodeKernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(Shape::StageBytes(4) + SideBytes<kDim>(kMaxTokens)));
  if (error != cudaSuccess) return error;
  DecodeKernel<kDim><<<dim3(a.count, a.n / Shape::kRows), kDecodeThreads, stage + side, a.stream>>>(
      a.tiles, a.n, a.dtype, side, a.rotary, a.tables);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
