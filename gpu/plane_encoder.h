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

struct PlaneEncoderConfig {
  int device = 0;
  // Where all of it is enqueued; null for a stream of its own. Borrowed.
  cudaStream_t stream = nullptr;
  // Of one call, at most: scratch is 0.3 to 0.7 MB a tile of 128 x 128.
  uint32_t max_tiles = 2048;
  // Whose planes one call may have at most, each at a position of its own.
  uint32_t max_blocks = 256;
};

// Not thread-safe. One batch at a time: Encode, then Collect.
class PlaneEncoder {
 public:
  struct Plane {
    size_t plane = 0;  // of layout.planes()
    uint64_t first_position = 0;
    // Device memory, aligned to 16: element [h, t, c] lies c elements after
    // values + h head_stride + t row_stride (bytes); an opaque plane at values.
    const std::byte* values = nullptr;
    size_t head_stride = 0;
    size_t row_stride = 0;
  };
  struct Encoded {
    PlaneSummary summary;
    const std::byte* bytes = nullptr;  // pinned host memory, summary.bytes of them
  };

  // Takes all device and pinned memory it will ever use. Borrows the layout. RESOURCE_EXHAUSTED
  // when there is too little, UNAVAILABLE without a device.
  static absl::StatusOr<std::unique_ptr<PlaneEncoder>> Create(const PlaneLayout& layout,
                                                              const PlaneEncoderConfig& config);
  virtual ~PlaneEncoder() = default;

  // Tiles that a plane counts for: its heads, or, kept as it is, none.
  virtual uint32_t TilesOf(size_t plane) const = 0;
  // Raw bytes of one call, at most.
  virtual size_t max_bytes() const = 0;

  // Enqueues. INVALID_ARGUMENT for more tiles, blocks or bytes than there is room for; INTERNAL
  // when the device is lost.
  virtual absl::Status Encode(std::span<const Plane> planes) = 0;
  // Whether that has been done; does not wait.
  virtual absl::StatusOr<bool> Passed() = 0;
  // Waits until it has, and copies the results. In the order of the planes given, until the next
  // Encode.
  virtual absl::StatusOr<std::span<const Encoded>> Collect() = 0;
};

}  // namespace kvstow::gpu
