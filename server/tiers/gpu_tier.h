// Records in device memory, all of it allocated when the tier is made: what the engine finds free
// afterwards stays free, and no record ever waits for an allocation.
//
// The host cannot address the bytes, so View is always empty.
//
// Thread safety: as Tier says.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "gpu/api/device.h"
#include "server/tiers/paged_tier.h"

namespace kvstow {

class GpuTier : public PagedTier {
 public:
  // INVALID_ARGUMENT as HostTier, RESOURCE_EXHAUSTED when the device has not so much memory. The
  // device outlives the tier.
  static absl::StatusOr<std::unique_ptr<GpuTier>> Create(gpu::Device* device,
                                                         uint64_t capacity_bytes);
  ~GpuTier() override;
  GpuTier(const GpuTier&) = delete;
  GpuTier& operator=(const GpuTier&) = delete;

  TierKind kind() const override { return TierKind::kGpu; }
  absl::Status Write(const Allocation& allocation, uint64_t offset,
                     std::span<const std::byte> bytes) override;
  absl::Status Read(const Allocation& allocation, uint64_t offset,
                    std::span<std::byte> out) const override;
  std::span<const std::byte> View(const Allocation&, uint64_t, uint64_t) const override {
    return {};
  }
  RecordPlace Locate(const Allocation& allocation, uint64_t bytes) const override;

 private:
  GpuTier(gpu::Device* device, std::byte* base, uint32_t pages)
      : PagedTier(base, pages), device_(*device) {}

  gpu::Device& device_;
};

}  // namespace kvstow
