// Launchers of the kernels for whole planes. They enqueue on a stream and return the launch error;
// none allocates or waits. All pointers are to memory that the device can read.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "gpu/device_plane.h"

namespace kvstow::gpu {

// damage[i] = 1 for a plane that is none or has another checksum than it should; its tiles get
// skip. tiles: [count, heads].
cudaError_t LaunchReadTables(const PlaneShape& shape, const ChecksumRange* stored,
                             const StoredPlane* planes, const uint32_t* crcs, uint32_t count,
                             DecodeTile* tiles, uint32_t* damage, cudaStream_t stream);

// Raw tiles of any shape to where they belong.
cudaError_t LaunchCopyTiles(const PlaneShape& shape, const DecodeTile* tiles, uint32_t count,
                            cudaStream_t stream);

// The planes of records side by side. `largest_copy` bounds the bytes of any tile kept as it is.
struct PackBatch {
  const PackPlane* planes;  // [records, planes_of_record]
  uint32_t records, planes_of_record;
  uint32_t max_heads;
  uint64_t largest_copy;
  uint8_t* out;  // planes of record i from out + i * out_stride, each at a multiple of 16
  size_t out_stride;
  uint32_t* bytes;        // of each plane
  ChecksumRange* stored;  // of each plane
};
cudaError_t LaunchPack(const PackBatch& batch, cudaStream_t stream);

// Rotary tables of blocks: tables[block] = {cos [tokens, pairs], sin [tokens, pairs]}, those of
// offsets given in double.
cudaError_t LaunchRotaryTables(const uint64_t* first_positions, uint32_t blocks,
                               const float* inverse_frequencies, const double* offset_cos,
                               const double* offset_sin, uint32_t tokens, uint32_t pairs,
                               float* tables, cudaStream_t stream);

}  // namespace kvstow::gpu
