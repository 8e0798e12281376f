// Records in device memory, all of it allocated when the tier is made: what the engine finds free
// afterwards stays free, and no record ever waits for an allocation.
//
// The host cannot address the bytes, so View is always empty. What each record begins with is kept
// on the host, too, at most a page: a Get that had to fetch the heads of its records first would
// wait for the device once more.
//
// Thread safety: as Tier says.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "codec/scratch.h"
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
  std::span<const std::byte> Head(const Allocation& allocation, uint64_t bytes) const override;
  RecordPlace Locate(const Allocation& allocation, uint64_t bytes) const override;
  void Free(const Allocation& allocation) override;
  void KeepHead(const Allocation& allocation, std::span<const std::byte> head) override
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // Unless what is written from `offset` on leaves it as it was.
  void ForgetHead(const Allocation& allocation, uint64_t offset) ABSL_LOCKS_EXCLUDED(mu_);

  GpuTier(gpu::Device* device, std::byte* base, uint32_t pages)
      : PagedTier(base, pages), device_(*device) {}

  gpu::Device& device_;
  mutable absl::Mutex mu_;
  // By the record's first page.
  absl::flat_hash_map<uint32_t, Scratch<std::byte>> heads_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
