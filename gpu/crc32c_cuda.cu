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
constexpr uint32_t kStride = 512;          // bytes a warp reads at a time
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

__global__ void __launch_bounds__(kThreads) ChecksumKernel(const ChecksumRange* ranges,
                                                           uint32_t count, uint32_t segments,
                                                           uint32_t* crcs) {
  __shared__ uint32_t table[4][256];
  // Entry [k][b] is byte k of a word with value b, times x^(8 * kStride).
  for (uint32_t i = threadIdx.x; i < 1024; i += kThreads) {
    table[i / 256][i % 256] = Multiply(i % 256 << (8 * (i / 256)), kPowers.x_to_bytes[9]);
  }
  __syncthreads();
  const uint32_t lane = threadIdx.x % kWarp;
  const uint64_t work = uint64_t{count} * segments;
  for (uint64_t w = uint64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; w < work;
       w += uint64_t{gridDim.x} * kWarps) {
    const auto index = static_cast<uint32_t>(w / segments);
    const uint64_t first = w % segments * kSegment;
    const ChecksumRange range = ranges[index];
    if (first >= range.size && !(first == 0 && range.size == 0)) continue;
    const auto size = static_cast<uint32_t>(
        range.size - first < kSegment ? range.size - first : kSegment);
    const uint8_t* bytes = range.bytes + first;
    const uint32_t whole = size / 16;  // 16-byte pieces; lane takes every 32nd
    uint32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    uint32_t last = 0;  // pieces behind the last one of this lane, counted to the end of the pieces
    bool any = false;
    for (uint32_t piece = lane; piece < whole; piece += kWarp) {
      uint4 x = reinterpret_cast<const uint4*>(bytes)[piece];
      // The initial value is the first word inverted.
      if (first == 0 && piece == 0) x.x = ~x.x;
      if (any) {
        s0 = Fold(table, s0);
        s1 = Fold(table, s1);
        s2 = Fold(table, s2);
        s3 = Fold(table, s3);
      }
      any = true;
      s0 ^= x.x;
      s1 ^= x.y;
      s2 ^= x.z;
      s3 ^= x.w;
      last = whole - 1 - piece;
    }
    // Behind word i of the last piece lie 4 (3 - i) + 16 last bytes, and the word itself takes 4.
    uint32_t remainder = 0;
    const uint64_t behind = range.size - first - uint64_t{16} * whole;
    if (any) {
      const uint32_t word = kPowers.x_to_bytes[2];
      remainder = s0;
      remainder = Multiply(remainder, word) ^ s1;
      remainder = Multiply(remainder, word) ^ s2;
      remainder = Multiply(remainder, word) ^ s3;
      remainder = Multiply(remainder, ShiftFor(4 + uint64_t{16} * last + behind));
    }
    if (size % 16 != 0 && lane == 0) {
      // Short ranges that are no tiles: the initial value may reach into the tail.
      const uint32_t start = first == 0 && whole == 0 ? 0xffffffffu : 0;
      const uint32_t tail = TailRemainder(bytes + 16 * whole, size % 16, start);
      remainder ^= Multiply(tail, ShiftFor(range.size - first - size));
    } else if (range.size == 0 && lane == 0) {
      remainder ^= 0xffffffffu;
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      remainder ^= __shfl_xor_sync(kAllLanes, remainder, step);
    }
    if (lane == 0) atomicXor(&crcs[index], remainder);
  }
}

}  // namespace

cudaError_t LaunchChecksums(const ChecksumRange* ranges, uint32_t count, uint64_t max_size,
                            uint32_t* crcs, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  ClearKernel<<<(count + kThreads - 1) / kThreads, kThreads, 0, stream>>>(crcs, count);
  const uint64_t segments = max_size == 0 ? 1 : (max_size + kSegment - 1) / kSegment;
  const uint64_t blocks = (count * segments + kWarps - 1) / kWarps;
  // Enough to fill any device; each block takes more than one segment then.
  const auto grid = static_cast<uint32_t>(blocks < 4096 ? blocks : 4096);
  ChecksumKernel<<<grid, kThreads, 0, stream>>>(ranges, count, static_cast<uint32_t>(segments),
                                                crcs);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
