// Planes of a Put, gathered and encoded on the stream.
//
// Not thread-safe.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client_cuda/lent_memory.h"
#include "client_cuda/page_table.h"
#include "gpu/plane_encoder.h"
#include "gpu/staging.h"
#include "kvstow/device_kv.h"

namespace kvstow {

class LeavingEncoder {
 public:
  // Takes all the memory that it will ever use. Borrows all, and the config's stream.
  // RESOURCE_EXHAUSTED when there is too little.
  static absl::StatusOr<std::unique_ptr<LeavingEncoder>> Create(
      const PlaneLayout& layout, const gpu::PlaneEncoderConfig& config, const PageTable* pages,
      LentMemory* lent);

  size_t at_a_time() const { return config_.max_bytes; }
  // As DeviceKv has them.
  absl::StatusOr<size_t> Encode(std::span<const PlaneToEncode> planes);
  absl::StatusOr<std::vector<PlaneEncodedOnDevice>> TakeEncoded();

 private:
  LeavingEncoder(const PlaneLayout& layout, const gpu::PlaneEncoderConfig& config,
                 const PageTable* pages, LentMemory* lent)
      : layout_(layout), config_(config), pages_(*pages), lent_(*lent) {}
  absl::Status Allocate();
  // How many of the first planes fit.
  size_t Fitting(std::span<const PlaneToEncode> planes) const;
  // Enqueues it, into places for batch_.
  absl::Status Gather(std::span<const PlaneToEncode> planes);

  const PlaneLayout& layout_;
  const gpu::PlaneEncoderConfig config_;
  const PageTable& pages_;
  LentMemory& lent_;
  gpu::DeviceBuffer gathered_;
  std::unique_ptr<gpu::PlaneEncoder> encoder_;   // its end waits for what reads gathered_
  std::vector<gpu::PlaneEncoder::Plane> batch_;  // given to it last
};

}  // namespace kvstow
