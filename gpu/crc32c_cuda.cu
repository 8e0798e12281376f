// CRC32C of many ranges, for checking records where they lie.
//
// A warp reads its segment as whole lines and every lane folds the four words it gets with four
// table lookups each: the table multiplies by x^(8 * 512), the distance to the lane's next words,
// so that the lanes' remainders stay independent until the end of the segment. There they are
// shifted into place and joined by xor, which is exact in any order. Arithmetic modulo the
// Castagnoli polynomial, bits reflected: bit 31 is x^0.
#include "gpu/elements.cuh"
#include "gpu/kernels.h"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78u;
constexpr uint32_t kThreads = 256;
constexpr uint32_t kWarps = kThreads / kWarp;
constexpr uint32_t kStride = 512;            // bytes a warp reads at a time
constexpr uint32_t kSegment = 16 * kStride;  // bytes of a warp

__host__ __device__ constexpr uint32_t TimesX(uint32_t a) {
  return (a >> 1) ^ ((a & 1) != 0 ? kPolynomial : 0);
}

__host__ __device__ constexpr uint32_t Multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (int i = 0; i < 32; ++i) {
    product ^= (a & 0x80000000u) != 0 ? b : 0;
    a <<= 1;
    b = TimesX(b);
  }
  return product;
}

struct Powers {
  uint32_t x_to_bytes[40];  // [i] = x^(8 * 2^i)
  constexpr Powers() : x_to_bytes() {
    x_to_bytes[0] = 0x00800000u;  // x^8
    for (int i = 1; i < 40; ++i) x_to_bytes[i] = Multiply(x_to_bytes[i - 1], x_to_bytes[i - 1]);
  }
};
__constant__ constexpr Powers kPowers;

// Entry [k][b] is byte k of a word with value b, times x^(8 * kStride).
struct FoldTable {
  uint32_t entries[4][256];
  constexpr FoldTable() : entries() {
    constexpr Powers powers;
    for (uint32_t k = 0; k < 4; ++k) {
      entries[k][0] = 0;
      for (uint32_t bit = 0; bit < 8; ++bit) {
        const uint32_t one = 1u << bit;
        entries[k][one] = Multiply(one << (8 * k), powers.x_to_bytes[9]);
        for (uint32_t b = 1; b < one; ++b) entries[k][one + b] = entries[k][one] ^ entries[k][b];
      }
    }
  }
};
__device__ constexpr FoldTable kFold;

// [lane]: x^(8 (4 + 16 (31 - lane))), from a lane's last word to the end of a stride.
struct LaneShifts {
  uint32_t shifts[kWarp];
  constexpr LaneShifts() : shifts() {
    constexpr Powers powers;
    shifts[kWarp - 1] = powers.x_to_bytes[2];
    for (uint32_t i = kWarp - 1; i-- > 0;) {
      shifts[i] = Multiply(shifts[i + 1], powers.x_to_bytes[4]);
    }
  }
};
__device__ constexpr LaneShifts kLaneShifts;

// x^(8 bytes).
__device__ uint32_t ShiftFor(uint64_t bytes) {
  uint32_t power = 0x80000000u;
  for (int i = 0; bytes != 0; ++i, bytes >>= 1) {
    if ((bytes & 1) != 0) power = Multiply(power, kPowers.x_to_bytes[i]);
  }
  return power;
}

__device__ inline uint32_t Fold(const uint32_t (*table)[256], uint32_t s) {
  return table[0][s & 255] ^ table[1][s >> 8 & 255] ^ table[2][s >> 16 & 255] ^ table[3][s >> 24];
}

__global__ void ClearKernel(uint32_t* crcs, uint32_t count) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  // The final xor.
  if (i < count) crcs[i] = 0xffffffffu;
}

__device__ uint32_t TailRemainder(const uint8_t* bytes, uint32_t size, uint32_t state) {
  for (uint32_t i = 0; i < size; ++i) {
    state ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) state = TimesX(state);
  }
  return state;
}

__global__ void __launch_bounds__(kThreads)
    ChecksumKernel(const ChecksumRange* ranges, uint32_t count, uint32_t segments, uint32_t* crcs) {
  __shared__ uint32_t table[4][256];
  for (uint32_t i = threadIdx.x; i < 1024; i += kThreads) {
    table[i / 256][i % 256] = kFold.entries[i / 256][i % 256];
  }
  __syncthreads();
  const uint32_t lane = threadIdx.x % kWarp;
  const uint64_t work = uint64_t{count} * segments;
  for (uint64_t w = uint64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; w < work;
       w += uint64_t{gridDim.x} * kWarps) {
    const auto index = static_cast<uint32_t>(w / segments);
    const uint64_t behind = w % segments * kSegment;  // segments count from the end
    const ChecksumRange range = ranges[index];
    const uint64_t pieces = range.size / 16;  // whole 16-byte pieces; the tail is the last warp's
    const auto tail = static_cast<uint32_t>(range.size % 16);
    if (16 * pieces <= behind && behind > 0) continue;
    // Pieces of this segment, the last stride a whole one: lanes of the first may get nothing.
    const uint64_t end = pieces - behind / 16;
    const auto whole = static_cast<uint32_t>(end < kSegment / 16 ? end : kSegment / 16);
    const uint4* from = reinterpret_cast<const uint4*>(range.bytes) + (end - whole);
    const uint32_t strides = (whole + kWarp - 1) / kWarp;
    auto piece = static_cast<int32_t>(whole) - static_cast<int32_t>(strides * kWarp) +
                 static_cast<int32_t>(lane);
    uint32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma unroll 4
    for (uint32_t i = 0; i < strides; ++i, piece += kWarp) {
      uint4 x = make_uint4(0, 0, 0, 0);
      if (piece >= 0) x = from[piece];
      // The initial value is the first word inverted.
      if (piece == 0 && end == whole) x.x = ~x.x;
      s0 = Fold(table, s0) ^ x.x;
      s1 = Fold(table, s1) ^ x.y;
      s2 = Fold(table, s2) ^ x.z;
      s3 = Fold(table, s3) ^ x.w;
    }
    const uint32_t word = kPowers.x_to_bytes[2];
    uint32_t remainder = Multiply(s0, word) ^ s1;
    remainder = Multiply(remainder, word) ^ s2;
    remainder = Multiply(remainder, word) ^ s3;
    remainder = Multiply(remainder, kLaneShifts.shifts[lane]);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      remainder ^= __shfl_xor_sync(kAllLanes, remainder, step);
    }
    if (lane != 0) continue;
    if (behind + tail > 0) remainder = Multiply(remainder, ShiftFor(behind + tail));
    if (behind == 0 && (tail > 0 || pieces == 0)) {
      // Short ranges that are no tiles: the initial value may reach into the tail.
      const uint32_t start = pieces == 0 ? 0xffffffffu : 0;
      remainder ^= TailRemainder(range.bytes + 16 * pieces, tail, start);
    }
    if (segments == 1) {
      crcs[index] = ~remainder;
    } else {
      atomicXor(&crcs[index], remainder);
    }
  }
}

}  // namespace

cudaError_t LaunchChecksums(const ChecksumRange* ranges, uint32_t count, uint64_t max_size,
                            uint32_t* crcs, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const uint64_t segments = max_size == 0 ? 1 : (max_size + kSegment - 1) / kSegment;
  // Ranges of one segment are one warp's, which writes the whole checksum.
  if (segments > 1) {
    ClearKernel<<<(count + kThreads - 1) / kThreads, kThreads, 0, stream>>>(crcs, count);
  }
  const uint64_t blocks = (count * segments + kWarps - 1) / kWarps;
  // Enough to fill any device; each block takes more than one segment then.
  const auto grid = static_cast<uint32_t>(blocks < 4096 ? blocks : 4096);
  ChecksumKernel<<<grid, kThreads, 0, stream>>>(ranges, count, static_cast<uint32_t>(segments),
                                                crcs);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
