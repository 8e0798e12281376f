// Encodes planes in device memory, any of a layout's and many at a time, on one stream: what comes
// out is what AssemblePlane makes of the same tiles, byte for byte. Results are packed side by side
// on the device, so that they travel to the host in one copy.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "codec/record.h"
#include "space/plane_layout.h"

namespace kvstow::gpu {

// What a plane takes where planes lie side by side in device memory, as in a slot
// (staging/slot_ring.h). Whoever has room for a batch's load has it for all its planes.
constexpr size_t SideBySide(size_t plane_bytes) { return (plane_bytes + 63) / 64 * 64; }

struct PlaneEncoderConfig {
  int device = 0;
  // Where all of it is enqueued; null for a stream of its own. Borrowed.
  cudaStream_t stream = nullptr;
  // Raw bytes of one batch, about: 2048 tiles of 128 x 128 in FP16. Everything is made for so much
  // in advance; scratch alone is 0.3 to 0.7 MB a tile.
  size_t max_bytes = size_t{64} << 20;
  // Whose planes one batch may have at most, each at a position of its own.
  size_t max_blocks = 1024;
};

// Not thread-safe. One batch at a time: Encode, then Collect.
class PlaneEncoder {
 public:
  struct Plane {
    size_t plane = 0;  // of layout.planes()
    uint64_t first_position = 0;
    // Device memory: element [h, t, c] lies c elements after
    // values + h head_stride + t row_stride (bytes); an opaque plane at values.
    const std::byte* values = nullptr;
    size_t head_stride = 0;
    size_t row_stride = 0;
  };
  struct Encoded {
    PlaneSummary summary;
    std::span<const std::byte> bytes;   // in pinned host memory
    std::span<const TileReport> tiles;  // one a head
  };

  // Takes all device and pinned memory it will ever use. Borrows the layout. RESOURCE_EXHAUSTED
  // when there is too little, UNAVAILABLE without a device.
  static absl::StatusOr<std::unique_ptr<PlaneEncoder>> Create(const PlaneLayout& layout,
                                                              const PlaneEncoderConfig& config);
  virtual ~PlaneEncoder() = default;

  // What a plane counts for in max_load(): its raw bytes, or more where it has many small tiles. A
  // batch of one plane always fits.
  virtual size_t LoadOf(size_t plane) const = 0;
  virtual size_t max_load() const = 0;

  // Enqueues. INVALID_ARGUMENT for more than max_load() or max_blocks, INTERNAL when the device is
  // lost. What is read must stay as it is until Passed().
  virtual absl::Status Encode(std::span<const Plane> planes) = 0;
  // Whether that has been done; does not wait.
  virtual absl::StatusOr<bool> Passed() = 0;
  // Waits until it has, and copies the results to the host. In the order of the planes given; they
  // are there until the next Collect.
  virtual absl::StatusOr<std::span<const Encoded>> Collect() = 0;
};

}  // namespace kvstow::gpu
