// Reads the tile tables of encoded planes: a warp a plane, a lane a head. The same checks as
// PlaneView::Parse, so that what the CPU refuses is refused here.
#include "gpu/elements.cuh"
#include "gpu/plane_kernels.h"
#include "gpu/tile_body.cuh"
#include "gpu/tile_rows.cuh"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kWarps = kThreads / kWarp;
constexpr uint32_t kMaxRank = 32;
constexpr uint32_t kBytesOfCopyBlock = 64 << 10;

__device__ bool IsValid(uint32_t packed, const PlaneShape& shape) {
  const Head head = UnpackHead(packed);
  if (head.coded == 0) return packed == 0;
  return head.coded == 1 && shape.may_be_coded != 0 && head.bits >= 1 && head.bits <= 4 &&
         head.rank <= kMaxRank && (packed >> 24 & ~3u) == 0 &&
         (head.rotary_undone == 0 || shape.may_be_rotated != 0);
}

struct BodySize {
  uint32_t end, total;  // without and with the padding
};

// REQUIRES a valid head.
__device__ BodySize SizeOfBody(uint32_t packed, const PlaneShape& shape) {
  const Head head = UnpackHead(packed);
  if (head.coded == 0) {
    const uint32_t bytes = shape.tokens * shape.dim * shape.element_bytes;
    return {bytes, (bytes + 15) / 16 * 16};
  }
  const BodyLayout at = LayoutOfBody(shape.tokens, shape.dim, head);
  return {at.end, at.total};
}

__device__ uint32_t InclusiveSum(uint32_t x) {
  const uint32_t lane = threadIdx.x % kWarp;
#pragma unroll
  for (uint32_t step = 1; step < kWarp; step *= 2) {
    const uint32_t before = __shfl_up_sync(kAllLanes, x, step);
    if (lane >= step) x += before;
  }
  return x;
}

__device__ bool AnyByteSet(const uint8_t* bytes, uint64_t begin, uint64_t end, uint32_t first,
                           uint32_t step) {
  bool any = false;
  for (uint64_t i = begin + first; i < end; i += step) any |= bytes[i] != 0;
  return any;
}

// Table entries and where their bodies lie, 32 heads at a time; a head of an invalid entry has no
// body. The sums fit: a plane is at most 64 MiB raw and no body is larger than twice that.
class TableReader {
 public:
  __device__ TableReader(const uint8_t* bytes, const PlaneShape& shape)
      : bytes_(bytes), shape_(shape), end_(shape.table_bytes) {}

  __device__ void Read(uint32_t first) {
    const uint32_t head = first + threadIdx.x % kWarp;
    present = head < shape_.heads;
    packed = present ? reinterpret_cast<const uint32_t*>(bytes_)[head] : 0;
    valid = !present || IsValid(packed, shape_);
    size = present && valid ? SizeOfBody(packed, shape_) : BodySize{0, 0};
    const uint32_t behind = end_ + InclusiveSum(size.total);
    at = behind - size.total;
    end_ = __shfl_sync(kAllLanes, behind, kWarp - 1);
  }
  __device__ uint32_t end() const { return end_; }

  bool present, valid;
  uint32_t packed, at;
  BodySize size;

 private:
  const uint8_t* bytes_;
  const PlaneShape& shape_;
  uint32_t end_;
};

// For the whole warp.
__device__ bool IsBroken(const ChecksumRange& stored, const PlaneShape& shape) {
  const uint32_t lane = threadIdx.x % kWarp;
  const uint8_t* bytes = stored.bytes;
  bool broken = false;
  if (shape.table_bytes == 0) {
    broken = stored.size != uint64_t{shape.tokens} * shape.dim * shape.element_bytes;
  } else if (stored.size < shape.table_bytes) {
    return true;
  } else {
    broken = AnyByteSet(bytes, 4 * shape.heads, shape.table_bytes, lane, kWarp);
    TableReader table(bytes, shape);
    for (uint32_t first = 0; first < shape.heads; first += kWarp) {
      table.Read(first);
      const uint32_t end = table.at + table.size.total;
      broken |= !table.valid || end > stored.size ||
                AnyByteSet(bytes, table.at + table.size.end, end, 0, 1);
    }
    broken |= table.end() != stored.size;
  }
  // The record's padding behind the plane.
  broken |= AnyByteSet(bytes, stored.size, (stored.size + 15) / 16 * 16, lane, kWarp);
  return __any_sync(kAllLanes, broken);
}

__global__ void __launch_bounds__(kThreads)
    ReadTablesKernel(PlaneShape shape, const ChecksumRange* stored, const StoredPlane* planes,
                     const uint32_t* crcs, uint32_t count, DecodeTile* tiles, uint32_t* damage) {
  const uint32_t index = blockIdx.x * kWarps + threadIdx.x / kWarp;
  if (index >= count) return;
  const uint32_t lane = threadIdx.x % kWarp;
  const ChecksumRange range = stored[index];
  const StoredPlane plane = planes[index];
  const bool damaged = crcs[index] != plane.crc32c || IsBroken(range, shape);
  if (lane == 0) damage[index] = damaged ? 1 : 0;
  DecodeTile* out = tiles + size_t{index} * shape.heads;
  TableReader table(range.bytes, shape);
  for (uint32_t first = 0; first < shape.heads; first += kWarp) {
    DecodeTile tile;
    tile.skip = damaged ? 1 : 0;
    if (!damaged) {
      if (shape.table_bytes > 0) {
        table.Read(first);
      } else {
        table.packed = table.at = 0;
      }
      const uint32_t head = first + lane;
      tile.body = range.bytes + table.at;
      tile.values = plane.values + head * plane.head_stride;
      tile.row_stride = plane.row_stride;
      tile.pages = plane.pages;
      tile.cos = plane.cos;
      tile.sin = plane.sin;
      tile.head = table.packed;
    }
    if (first + lane < shape.heads) out[first + lane] = tile;
  }
}

__global__ void __launch_bounds__(kThreads)
    CopyTilesKernel(const DecodeTile* tiles, uint32_t rows, uint32_t row_bytes) {
  const DecodeTile tile = tiles[blockIdx.x];
  if (tile.skip != 0) return;
  const uint64_t first = uint64_t{blockIdx.y} * kThreads + threadIdx.x;
  const uint64_t step = uint64_t{gridDim.y} * kThreads;
  const bool one_row = rows == 1 && tile.pages.table == nullptr;
  const bool aligned =
      row_bytes % 16 == 0 &&
      (one_row ? reinterpret_cast<uintptr_t>(tile.values) % 16 == 0 : RowsAreAligned(tile, 16));
  if (aligned) {
    const uint32_t pieces = row_bytes / 16;
    for (uint64_t i = first; i < uint64_t{rows} * pieces; i += step) {
      reinterpret_cast<uint4*>(RowOf(tile, i / pieces))[i % pieces] =
          reinterpret_cast<const uint4*>(tile.body)[i];
    }
    return;
  }
  for (uint64_t i = first; i < uint64_t{rows} * row_bytes; i += step) {
    RowOf(tile, i / row_bytes)[i % row_bytes] = tile.body[i];
  }
}

}  // namespace

cudaError_t LaunchReadTables(const PlaneShape& shape, const ChecksumRange* stored,
                             const StoredPlane* planes, const uint32_t* crcs, uint32_t count,
                             DecodeTile* tiles, uint32_t* damage, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  ReadTablesKernel<<<(count + kWarps - 1) / kWarps, kThreads, 0, stream>>>(
      shape, stored, planes, crcs, count, tiles, damage);
  return cudaGetLastError();
}

cudaError_t LaunchCopyTiles(const PlaneShape& shape, const DecodeTile* tiles, uint32_t count,
                            cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const uint32_t row_bytes = shape.dim * shape.element_bytes;
  const uint64_t bytes = uint64_t{shape.tokens} * row_bytes;
  const dim3 grid(count,
                  static_cast<uint32_t>((bytes + kBytesOfCopyBlock - 1) / kBytesOfCopyBlock));
  CopyTilesKernel<<<grid, kThreads, 0, stream>>>(tiles, shape.tokens, row_bytes);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
