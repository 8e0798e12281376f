// Restores whole records: encoded planes from host or device memory to decoded planes in device
// memory, layer by layer, so that whoever waits for layer 0 need not wait for the rest. Encoded
// bytes travel on one stream into a bounded ring of device staging while two others check and
// decode what has arrived; records in device memory are decoded where they lie.
//
// A plane whose checksum or table is wrong is reported and none of it is written.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu/record_pieces.h"
#include "space/plane_layout.h"

namespace kvstow::gpu {

struct RestoreConfig {
  int device = 0;
  // Of one call, at most: rotary tables for the most that a call had stay on the device.
  size_t max_records = 1024;
  // What is copied and decoded at once, at most: encoded bytes that need staging, and tiles.
  size_t chunk_bytes = size_t{8} << 20;
  uint32_t chunk_tiles = 8192;
  uint32_t slots = 4;  // chunks under way
  // Where decoding runs; null for streams of its own. A stream of a green context keeps the codec
  // to some of the multiprocessors. Borrowed.
  cudaStream_t decode_stream = nullptr;
};

// Element [h, t, c] of a plane goes c elements after values + h head_stride + t row_stride; an
// opaque plane goes to values.
struct PlaneTarget {
  std::byte* values = nullptr;
  size_t head_stride = 0;
  size_t row_stride = 0;
};

struct DamagedPlane {
  size_t block = 0;  // index of the record in the request
  size_t plane = 0;  // as in layout.planes()
  bool operator==(const DamagedPlane&) const = default;
};

// A plane that was asked for by name.
struct ChosenPlane {
  size_t block = 0;  // index of the record in the request
  size_t plane = 0;  // as in layout.planes()
  PlaneTarget target;
};

struct RestoreRequest {
  std::span<const StoredRecord> records;
  // Device address of a plane of a record.
  std::function<PlaneTarget(size_t block, size_t plane)> target;
  // Instead of all planes of all records, with `target` unused: these, ascending within a record.
  std::span<const ChosenPlane> chosen;

  // Both optional, both called on the calling thread, once for each layer in ascending order; not
  // for chosen planes.
  // Queued: `written` fires when the layer's planes have been written; whether any is damaged is
  // not known yet. The event may be waited for until the next call.
  std::function<void(size_t layer, cudaEvent_t written)> layer_queued;
  // Done: the layer's planes are there, but for those named.
  std::function<void(size_t layer, std::span<const DamagedPlane> damage)> layer_done;
};

// Not thread-safe.
class RestorePipeline {
 public:
  // Takes all device and pinned memory it will ever use, but for rotary tables of calls with more
  // than some hundred records. Borrows the layout. RESOURCE_EXHAUSTED when there is too little,
  // INVALID_ARGUMENT for a config without room for a plane, UNAVAILABLE without a device.
  static absl::StatusOr<std::unique_ptr<RestorePipeline>> Create(const PlaneLayout& layout,
                                                                 const RestoreConfig& config);
  virtual ~RestorePipeline() = default;

  // Returns the damaged planes, by layer, when all is written. INVALID_ARGUMENT as CheckRecord or
  // for too many records; INTERNAL when the device is lost. After an error nothing is under way
  // any more, and what was written is unspecified.
  virtual absl::StatusOr<std::vector<DamagedPlane>> Restore(const RestoreRequest& request) = 0;
};

}  // namespace kvstow::gpu
