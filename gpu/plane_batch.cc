#include "gpu/plane_batch.h"

#include "codec/plane.h"
#include "gpu/carver.h"
#include "gpu/cuda_status.h"
#include "gpu/plane_kernels.h"
#include "gpu/tile_batch.h"

namespace kvstow::gpu {
namespace {

struct DecodeScratch {
  uint32_t* crcs;
  DecodeTile* tiles;
  size_t bytes;
};

DecodeScratch CarveDecode(const PlaneShape& shape, uint32_t count, void* base) {
  Carver carver(base);
  DecodeScratch out = {};
  out.crcs = carver.Take<uint32_t>(count);
  out.tiles = carver.Take<DecodeTile>(size_t{count} * shape.heads);
  out.bytes = carver.used();
  return out;
}

}  // namespace

RotaryShape ShapeOfRotary(const RotaryEmbedding& rotary) {
  return {static_cast<uint32_t>(rotary.inverse_frequencies.size()), rotary.offset,
          rotary.pairing == RotaryEmbedding::Pairing::kInterleaved ? 1u : 0u};
}

PlaneShape PlaneShapeOf(const PlaneSpec& plane) {
  PlaneShape shape;
  if (plane.is_opaque()) {
    shape.heads = shape.tokens = shape.element_bytes = 1;
    shape.dim = static_cast<uint32_t>(plane.raw_bytes);
    return shape;
  }
  shape.heads = plane.heads;
  shape.tokens = plane.tokens;
  shape.dim = plane.dim;
  shape.element_bytes = static_cast<uint32_t>(SizeOf(plane.dtype));
  shape.dtype = static_cast<uint32_t>(plane.dtype);
  shape.table_bytes = static_cast<uint32_t>(TileTableBytes(plane));
  shape.may_be_coded = IsSupportedDim(plane.dim) && IsSupportedBlockTokens(plane.tokens) ? 1 : 0;
  if (plane.rotary != nullptr) {
    shape.may_be_rotated = 1;
    shape.rotary = ShapeOfRotary(*plane.rotary);
  }
  return shape;
}

bool SameShape(const PlaneShape& a, const PlaneShape& b) {
  return a.heads == b.heads && a.tokens == b.tokens && a.dim == b.dim && a.dtype == b.dtype &&
         a.table_bytes == b.table_bytes && a.may_be_rotated == b.may_be_rotated &&
         a.rotary.pairs == b.rotary.pairs && a.rotary.offset == b.rotary.offset &&
         a.rotary.interleaved == b.rotary.interleaved;
}

size_t DecodePlanesScratchBytes(const PlaneShape& shape, uint32_t count) {
  return CarveDecode(shape, count, nullptr).bytes;
}

absl::Status DecodePlanes(const PlaneShape& shape, const ChecksumRange* stored,
                          const StoredPlane* planes, uint32_t count, uint64_t max_size,
                          uint32_t* damage, void* scratch, size_t scratch_bytes,
                          cudaStream_t stream) {
  const DecodeScratch at = CarveDecode(shape, count, scratch);
  if (scratch == nullptr || scratch_bytes < at.bytes) {
    return absl::InvalidArgumentError("too little scratch");
  }
  KVSTOW_RETURN_IF_ERROR(ChecksumRanges(stored, count, max_size, at.crcs, stream));
  KVSTOW_CUDA_RETURN_IF_ERROR(
      LaunchReadTables(shape, stored, planes, at.crcs, count, at.tiles, damage, stream));
  const uint32_t tiles = count * shape.heads;
  if (shape.may_be_coded == 0) {
    KVSTOW_CUDA_RETURN_IF_ERROR(LaunchCopyTiles(shape, at.tiles, tiles, stream));
    return absl::OkStatus();
  }
  const TileShape tile = {shape.tokens, shape.dim, static_cast<DType>(shape.dtype)};
  return DecodeTiles(tile, shape.rotary, at.tiles, tiles, stream);
}

size_t PackPlanesScratchBytes(uint32_t planes) {
  Carver carver(nullptr);
  carver.Take<ChecksumRange>(planes);
  return carver.used();
}

absl::Status PackPlanes(const PackSettings& settings, uint32_t* bytes, uint32_t* crcs,
                        void* scratch, size_t scratch_bytes, cudaStream_t stream) {
  const uint32_t planes = settings.records * settings.planes_of_record;
  if (scratch == nullptr || scratch_bytes < PackPlanesScratchBytes(planes)) {
    return absl::InvalidArgumentError("too little scratch");
  }
  PackBatch batch = {};
  batch.planes = settings.planes;
  batch.records = settings.records;
  batch.planes_of_record = settings.planes_of_record;
  batch.max_heads = settings.max_heads;
  batch.largest_copy = settings.largest_copy;
  batch.out = settings.out;
  batch.out_stride = settings.out_stride;
  batch.bytes = bytes;
  batch.stored = Carver(scratch).Take<ChecksumRange>(planes);
  KVSTOW_CUDA_RETURN_IF_ERROR(LaunchPack(batch, stream));
  return ChecksumRanges(batch.stored, planes, settings.largest_plane, crcs, stream);
}

}  // namespace kvstow::gpu
