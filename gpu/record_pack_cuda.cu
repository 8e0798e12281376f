// Puts encoded tiles side by side as the planes of records: sizes, then places, then bytes. A
// record's planes lie one after the other as they will in the record, so that one copy moves them.
#include "gpu/elements.cuh"
#include "gpu/plane_kernels.h"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kWarps = kThreads / kWarp;
constexpr uint64_t kBytesOfCopyBlock = 256 << 10;

__host__ __device__ inline uint64_t RoundUp(uint64_t bytes) { return (bytes + 15) / 16 * 16; }

__device__ uint32_t BodyBytes(const PackPlane& plane, uint32_t head) {
  if (plane.tiles != nullptr) return plane.results[head].body_bytes;
  const uint32_t bytes = plane.rows * plane.row_bytes;
  // Only planes of tiles pad what they hold.
  return plane.table_bytes > 0 ? static_cast<uint32_t>(RoundUp(bytes)) : bytes;
}

// A warp a plane.
__global__ void __launch_bounds__(kThreads) SizeKernel(PackBatch b) {
  const uint32_t index = blockIdx.x * kWarps + threadIdx.x / kWarp;
  if (index >= b.records * b.planes_of_record) return;
  const PackPlane plane = b.planes[index];
  const uint32_t lane = threadIdx.x % kWarp;
  uint32_t bytes = 0;
  for (uint32_t head = lane; head < plane.heads; head += kWarp) bytes += BodyBytes(plane, head);
  bytes = WarpSum(bytes) + plane.table_bytes;
  if (lane == 0) b.bytes[index] = bytes;
}

// A warp a record.
__global__ void __launch_bounds__(kWarp) PlaceKernel(PackBatch b) {
  const uint32_t lane = threadIdx.x;
  const size_t first = size_t{blockIdx.x} * b.planes_of_record;
  uint8_t* const out = b.out + blockIdx.x * b.out_stride;
  uint64_t end = 0;
  for (uint32_t i = 0; i < b.planes_of_record; i += kWarp) {
    const bool present = i + lane < b.planes_of_record;
    const uint32_t bytes = present ? b.bytes[first + i + lane] : 0;
    uint64_t behind = RoundUp(bytes);
#pragma unroll
    for (uint32_t step = 1; step < kWarp; step *= 2) {
      const uint64_t before = __shfl_up_sync(kAllLanes, behind, step);
      if (lane >= step) behind += before;
    }
    if (present) b.stored[first + i + lane] = {out + end + behind - RoundUp(bytes), bytes};
    end += __shfl_sync(kAllLanes, behind, kWarp - 1);
  }
}

__device__ void CopyBody(const uint8_t* from, uint32_t bytes, uint8_t* to) {
  for (uint32_t i = threadIdx.x; i < bytes / 16; i += kThreads) {
    reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
  }
}

// Rows as they are, with the padding behind them.
__device__ void CopyRows(const PackPlane& plane, const uint8_t* from, uint8_t* to) {
  const uint64_t bytes = uint64_t{plane.rows} * plane.row_bytes;
  const uint64_t first = uint64_t{blockIdx.z} * kThreads + threadIdx.x;
  const uint64_t step = uint64_t{gridDim.z} * kThreads;
  const bool aligned = ((reinterpret_cast<uintptr_t>(from) | plane.row_bytes |
                         (plane.rows > 1 ? plane.row_stride : 0)) &
                        15) == 0;
  if (aligned) {
    const uint32_t pieces = plane.row_bytes / 16;
    for (uint64_t i = first; i < bytes / 16; i += step) {
      reinterpret_cast<uint4*>(to)[i] =
          reinterpret_cast<const uint4*>(from + i / pieces * plane.row_stride)[i % pieces];
    }
    return;
  }
  for (uint64_t i = first; i < RoundUp(bytes); i += step) {
    to[i] = i < bytes ? from[i / plane.row_bytes * plane.row_stride + i % plane.row_bytes] : 0;
  }
}

// A block a tile; more along z where tiles are kept as they are and large.
__global__ void __launch_bounds__(kThreads) PackKernel(PackBatch b) {
  __shared__ uint32_t room[kWarps];
  const PackPlane plane = b.planes[blockIdx.x];
  const uint32_t head = blockIdx.y;
  if (head >= plane.heads || (plane.tiles != nullptr && blockIdx.z > 0)) return;
  uint32_t before = 0;
  for (uint32_t h = threadIdx.x; h < head; h += kThreads) before += BodyBytes(plane, h);
  before = BlockSum(before, room);
  uint8_t* const out = b.out + (b.stored[blockIdx.x].bytes - b.out);
  uint8_t* const to = out + plane.table_bytes + before;
  if (plane.tiles != nullptr) {
    CopyBody(plane.tiles[head].body, plane.results[head].body_bytes, to);
  } else {
    CopyRows(plane, plane.values + head * plane.head_stride, to);
  }
  if (blockIdx.z > 0 || plane.table_bytes == 0) return;
  auto* const table = reinterpret_cast<uint32_t*>(out);
  if (threadIdx.x == 0) table[head] = plane.tiles != nullptr ? plane.results[head].head : 0;
  if (head > 0) return;
  const uint32_t entry = plane.heads + threadIdx.x;
  if (entry < plane.table_bytes / 4) table[entry] = 0;
}

}  // namespace

cudaError_t LaunchPack(const PackBatch& b, cudaStream_t stream) {
  const uint32_t planes = b.records * b.planes_of_record;
  if (planes == 0) return cudaSuccess;
  SizeKernel<<<(planes + kWarps - 1) / kWarps, kThreads, 0, stream>>>(b);
  PlaceKernel<<<b.records, kWarp, 0, stream>>>(b);
  const uint64_t splits = (b.largest_copy + kBytesOfCopyBlock - 1) / kBytesOfCopyBlock;
  const dim3 grid(planes, b.max_heads, splits == 0 ? 1 : static_cast<uint32_t>(splits));
  PackKernel<<<grid, kThreads, 0, stream>>>(b);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
