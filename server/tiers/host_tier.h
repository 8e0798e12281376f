// Records in host memory: one anonymous mapping of the whole budget, of which the kernel commits a
// page when it is first written. With a GPU the mapping is pinned in the background, a chunk at a
// time with pauses, so that copies to and from the device run at full speed; records do not wait
// for it.
//
// Freed pages stay committed. The budget is memory that the operator has given to the daemon, usage
// stays near it once it is reached, and giving pages back would cost a system call under the
// store's lock and a page fault for every page on the next write.
//
// Thread safety: as Tier says.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "gpu/api/device.h"
#include "server/tiers/paged_tier.h"

namespace kvstow {

class HostTier : public PagedTier {
 public:
  // Rounds the capacity down to whole pages. INVALID_ARGUMENT when nothing is left or it has more
  // pages than 32 bits count; RESOURCE_EXHAUSTED when the address space cannot be had.
  static absl::StatusOr<std::unique_ptr<HostTier>> Create(uint64_t capacity_bytes);
  ~HostTier() override;
  HostTier(const HostTier&) = delete;
  HostTier& operator=(const HostTier&) = delete;

  // What is pinned at a time. While the driver pins, all other CUDA calls of the process wait.
  static constexpr uint64_t kPinBytes = uint64_t{16} << 20;

  // Pins the mapping on a thread of its own, from the start, until it is whole or the device
  // refuses. Call once; the device outlives the tier.
  void StartPinning(gpu::Device* device);
  // What is pinned by now.
  uint64_t pinned_bytes() const { return pinned_bytes_.load(std::memory_order_relaxed); }
  // Why pinning ended early; OK while it runs and when all is pinned. Once pinning has ended.
  absl::Status WaitForPinning();

  TierKind kind() const override { return TierKind::kHost; }
  absl::Status Write(const Allocation& allocation, uint64_t offset,
                     std::span<const std::byte> bytes) override;
  absl::Status Read(const Allocation& allocation, uint64_t offset,
                    std::span<std::byte> out) const override;
  std::span<const std::byte> View(const Allocation& allocation, uint64_t offset,
                                  uint64_t size) const override;
  std::vector<std::span<std::byte>> Room(const Allocation& allocation, uint64_t bytes) override {
    return Pieces(allocation, bytes);
  }
  RecordPlace Locate(const Allocation& allocation, uint64_t bytes) const override;

 private:
  // What is pinned in two calls cannot be copied in one.
  HostTier(std::byte* base, uint32_t pages) : PagedTier(base, pages, kPinBytes) {}
  void Pin();

  gpu::Device* device_ = nullptr;
  std::atomic<uint64_t> pinned_bytes_{0};
  absl::Notification stop_;
  absl::Status pinning_status_;  // the pinning thread's until it is joined
  std::thread pinning_;
};

}  // namespace kvstow
