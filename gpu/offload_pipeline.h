// Makes records out of planes in device memory and puts them into host or device memory. Records go
// in batches: one batch is encoded and its planes packed side by side on the device while the one
// before travels. The host adds header, directory and quality, so a record is what RecordBuilder
// makes of the same tiles, byte for byte.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "codec/report.h"
#include "space/fingerprint.h"
#include "space/plane_layout.h"

namespace kvstow::gpu {

struct OffloadConfig {
  int device = 0;
  uint32_t batch_records = 16;
  // Tiles encoded at once, at most: scratch is 0.3 to 0.7 MB a tile of 128 x 128.
  uint32_t encode_tiles = 4096;
  // Where encoding runs; null for two streams of its own, whose steps fill each other's gaps. A
  // stream of a green context keeps the codec to some of the multiprocessors. Borrowed.
  cudaStream_t encode_stream = nullptr;
};

// Element [h, t, c] of a plane lies c elements after values + h head_stride + t row_stride; an
// opaque plane at values.
struct PlaneSource {
  const std::byte* values = nullptr;
  size_t head_stride = 0;
  size_t row_stride = 0;
};

// Where a record's bytes are to go, piece by piece; at least as many as it has.
struct RecordRoom {
  struct Piece {
    std::byte* data = nullptr;
    size_t size = 0;
  };
  bool on_device = false;  // else in pinned host memory
  std::span<const Piece> pieces;
};

struct RecordFacts {
  uint64_t record_bytes = 0;
  QualityReport k, v;
};

// All functions are called on the calling thread.
struct OffloadRequest {
  std::span<const uint64_t> first_positions;  // of each block
  // Device address of plane `plane` of the layout, of a block.
  std::function<PlaneSource(size_t block, size_t plane)> source;
  // Asked when the record's size is known. The pieces are read before the next call of it. Without
  // pieces the block is left out.
  std::function<RecordRoom(size_t block, const RecordFacts& facts)> room;
  // Optional: the record is whole in its room. Blocks ascending, without those left out.
  std::function<void(size_t block)> done;
};

// Not thread-safe.
class OffloadPipeline {
 public:
  // Takes all device and pinned memory it will ever use. Borrows the layout. RESOURCE_EXHAUSTED
  // when there is too little, UNAVAILABLE without a device.
  static absl::StatusOr<std::unique_ptr<OffloadPipeline>> Create(const PlaneLayout& layout,
                                                                 const Fingerprint& fingerprint,
                                                                 const OffloadConfig& config);
  virtual ~OffloadPipeline() = default;

  // Returns when all records are where they belong. INVALID_ARGUMENT for room that is too small,
  // INTERNAL when the device is lost. After an error nothing is under way any more, and records
  // not told as done are unspecified.
  virtual absl::Status Offload(const OffloadRequest& request) = 0;
};

}  // namespace kvstow::gpu
