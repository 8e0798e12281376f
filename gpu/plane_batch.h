// Whole encoded planes in device memory: any number of planes of one shape to values, and encoded
// tiles to the planes of records. Enqueued on a stream; no call allocates, waits or asks the host.
//
// Thread-safe: no state. Arrays lie in device memory; they, what they point to and the scratch must
// stay until the stream has passed the call.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "gpu/device_plane.h"
#include "space/plane_layout.h"

namespace kvstow::gpu {

RotaryShape ShapeOfRotary(const RotaryEmbedding& rotary);
PlaneShape PlaneShapeOf(const PlaneSpec& plane);
// Whether planes of both can be decoded together.
bool SameShape(const PlaneShape& a, const PlaneShape& b);

size_t DecodePlanesScratchBytes(const PlaneShape& shape, uint32_t count);

// Decodes plane i out of stored[i] to where planes[i] says, or writes nothing of it and sets
// damage[i] to 1 (else 0): where its checksum is another one, where PlaneView::Parse would refuse
// it, or where the padding behind it is not zero. A plane starts at a multiple of 16 and is
// readable up to the next one behind its end; none is longer than max_size. INVALID_ARGUMENT for
// too little scratch.
absl::Status DecodePlanes(const PlaneShape& shape, const ChecksumRange* stored,
                          const StoredPlane* planes, uint32_t count, uint64_t max_size,
                          uint32_t* damage, void* scratch, size_t scratch_bytes,
                          cudaStream_t stream);

// Planes to pack, [records, planes_of_record]; their tiles have been encoded on the same stream.
struct PackSettings {
  const PackPlane* planes = nullptr;
  uint32_t records = 0;
  uint32_t planes_of_record = 0;
  uint32_t max_heads = 0;      // of any plane
  uint64_t largest_copy = 0;   // bytes of the largest tile or opaque plane kept as it is
  uint64_t largest_plane = 0;  // bytes that any plane may come to
  uint8_t* out = nullptr;      // aligned to 16
  size_t out_stride = 0;       // room of a record's planes, a multiple of 16
};

size_t PackPlanesScratchBytes(uint32_t planes);

// Record i's planes one after the other from out + i * out_stride, each a tile table and its tiles
// and at a multiple of 16, zeros between; bytes and crcs get each plane's size and checksum.
// INVALID_ARGUMENT for too little scratch.
absl::Status PackPlanes(const PackSettings& settings, uint32_t* bytes, uint32_t* crcs,
                        void* scratch, size_t scratch_bytes, cudaStream_t stream);

}  // namespace kvstow::gpu
