// Encoded planes in device memory to values in device memory, on the caller's stream: what a worker
// that decodes its own KV needs of the codec.
//
// Runs of planes take turns on two streams of its own: the small kernels and the last blocks of one
// leave room that the next one fills. They go behind what was on the caller's stream at Begin, and
// that stream waits for them.
//
// Not thread-safe.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu/cuda_handles.h"
#include "gpu/plane_batch.h"
#include "gpu/rotary_cache.h"
#include "gpu/staging.h"
#include "space/plane_layout.h"

namespace kvstow::gpu {

class PlaneDecoder {
 public:
  // At a time.
  static constexpr size_t kMaxPlanes = 1024;

  struct Plane {
    size_t plane = 0;                    // as in layout.planes(); no opaque one
    uint64_t first_position = 0;         // of its block
    const std::byte* encoded = nullptr;  // aligned to 16, readable to the next multiple of 16
    size_t encoded_bytes = 0;
    uint32_t crc32c = 0;
    // Where element [h, t, c] goes: device_plane.h. The page table lies in device memory.
    std::byte* values = nullptr;
    size_t head_stride = 0, row_stride = 0;
    PageMap pages;
  };

  // Borrows layout and stream. RESOURCE_EXHAUSTED when there is too little memory for the rotary
  // tables of so many blocks.
  static absl::StatusOr<std::unique_ptr<PlaneDecoder>> Create(int device, const PlaneLayout& layout,
                                                              size_t max_blocks,
                                                              cudaStream_t stream);
  ~PlaneDecoder();

  // What is decoded from here on goes behind what is on the stream now.
  absl::Status Begin();
  // Enqueues the decoding of all these, of no more blocks than max_blocks. A plane whose checksum
  // or table is wrong is not written. Returns flags in device memory, one a plane, 1 where that was
  // so; they stay until the third call from here.
  absl::StatusOr<const uint32_t*> Decode(std::span<const Plane> planes);
  // Waits until nothing uses its memory, or the planes', any more.
  absl::Status AwaitAll();

 private:
  struct Slot {
    PinnedBuffer meta;
    DeviceBuffer damage;
    Event passed;
  };
  struct Lane {
    Stream stream;
    Event reached;
    DeviceBuffer scratch;
  };

  PlaneDecoder(int device, const PlaneLayout& layout, size_t max_blocks, cudaStream_t stream)
      : device_(device), layout_(layout), max_blocks_(max_blocks), stream_(stream) {}
  absl::Status Allocate();
  absl::StatusOr<Slot*> NextSlot();
  // Rotary tables for the planes' blocks, where they are not there.
  absl::Status FillRotary(std::span<const Plane> planes);
  // Planes [first, end) are of one shape.
  absl::Status DecodeRun(std::span<const Plane> planes, size_t first, size_t end, Slot* slot);
  absl::Status DecodeRuns(std::span<const Plane> planes, Slot* slot);
  // `later` goes on where the lane is now.
  absl::Status Order(const Lane& earlier, cudaStream_t later);

  const int device_;
  const PlaneLayout& layout_;
  const size_t max_blocks_;
  const cudaStream_t stream_;
  Lane lanes_[2];
  size_t lane_ = 0;  // of the next run
  Event begun_;
  std::vector<PlaneShape> shapes_;       // of the layout's planes
  std::unique_ptr<RotaryCache> rotary_;  // filled on the first lane
  std::vector<Slot> slots_;
  size_t next_ = 0;
};

}  // namespace kvstow::gpu
