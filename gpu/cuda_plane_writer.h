// PlaneWriter on a CUDA device: values are copied to memory that nobody else has mapped, encoded
// there on a stream of its own, and brought to the host.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu/api/device.h"
#include "gpu/cuda_handles.h"
#include "gpu/plane_encoder.h"
#include "gpu/staging.h"

namespace kvstow::gpu {

class CudaPlaneWriter final : public PlaneWriter {
 public:
  // Takes all device and pinned memory it will ever use; borrows the layout. RESOURCE_EXHAUSTED
  // when there is too little.
  static absl::StatusOr<std::unique_ptr<CudaPlaneWriter>> Create(int device,
                                                                 const PlaneLayout& layout,
                                                                 size_t max_bytes,
                                                                 size_t max_blocks);
  ~CudaPlaneWriter() override;

  size_t LoadOf(uint32_t plane) const override { return encoder_->LoadOf(plane); }
  size_t max_load() const override { return encoder_->max_load(); }
  absl::Status Begin(std::span<const Plane> planes) override;
  absl::Status End(std::span<Plane> planes) override;

 private:
  CudaPlaneWriter(int device, const PlaneLayout& layout) : device_(device), layout_(layout) {}
  absl::Status Allocate(size_t max_bytes, size_t max_blocks);
  absl::Status Start(std::span<const Plane> planes);
  absl::Status CopyOut(std::span<const Plane> planes);

  const int device_;
  const PlaneLayout& layout_;
  Stream stream_;
  Event copied_;
  DeviceBuffer values_;
  std::unique_ptr<PlaneEncoder> encoder_;
  std::vector<PlaneEncoder::Plane> to_encode_;
};

}  // namespace kvstow::gpu
