// The codec on tiles in device memory: any number of tiles of one shape, given by pointers and
// strides, enqueued on a stream. No call allocates or waits; scratch is the caller's, its size by
// query. A tile's bytes depend neither on the batch it came in nor on the run.
//
// Thread-safe: no state. Arrays of tiles lie in device memory; they, what they point to and the
// scratch must stay until the stream has passed the call.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "codec/codec.h"
#include "gpu/device_tile.h"

namespace kvstow::gpu {

RotaryShape ShapeOfRotary(const RotaryTable& table);

// What all tiles of an encode have in common.
struct EncodeSettings {
  TileShape shape;
  TileEncodeOptions options;
  RotaryShape rotary;  // of the tiles that have cosines; pairs = 0 for none
};

// For `tiles` tiles at once.
size_t EncodeScratchBytes(const EncodeSettings& settings, uint32_t tiles);

// Writes each tile's body and results[i]; `ranges`, where not null, gets the bodies' extents, for
// ChecksumRanges. INVALID_ARGUMENT for a shape or options no codec handles, or too little scratch;
// otherwise the status of the launches.
absl::Status EncodeTiles(const EncodeSettings& settings, const EncodeTile* tiles, uint32_t count,
                         EncodeResult* results, ChecksumRange* ranges, void* scratch,
                         size_t scratch_bytes, cudaStream_t stream);

// Heads are as PlaneView accepts them; any body decodes to finite values. INVALID_ARGUMENT for a
// shape no codec handles.
absl::Status DecodeTiles(const TileShape& shape, const RotaryShape& rotary, const DecodeTile* tiles,
                         uint32_t count, cudaStream_t stream);

// crcs[i] = Crc32c of ranges[i], none of them longer than max_size.
absl::Status ChecksumRanges(const ChecksumRange* ranges, uint32_t count, uint64_t max_size,
                            uint32_t* crcs, cudaStream_t stream);

}  // namespace kvstow::gpu
