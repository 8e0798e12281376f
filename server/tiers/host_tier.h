// Records in ordinary host memory: one anonymous mapping of the whole budget, of which the kernel
// commits a page when it is first written.
//
// Freed pages stay committed. The budget is memory that the operator has given to the daemon, usage
// stays near it once it is reached, and giving pages back would cost a system call under the
// store's lock and a page fault for every page on the next write.
//
// Thread safety: as Tier says.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/core/slab_allocator.h"
#include "server/core/tier.h"

namespace kvstow {

class HostTier : public Tier {
 public:
  static constexpr uint64_t kPageBytes = 4096;
  static constexpr uint64_t kSlabBytes = uint64_t{64} << 20;

  // Rounds the capacity down to whole pages. INVALID_ARGUMENT when nothing is left or it has more
  // pages than 32 bits count; RESOURCE_EXHAUSTED when the address space cannot be had.
  static absl::StatusOr<std::unique_ptr<HostTier>> Create(uint64_t capacity_bytes);
  ~HostTier() override;
  HostTier(const HostTier&) = delete;
  HostTier& operator=(const HostTier&) = delete;

  TierKind kind() const override { return TierKind::kHost; }
  TierUsage usage() const override;
  uint64_t PhysicalBytes(uint64_t record_bytes) const override;
  absl::StatusOr<Allocation> Allocate(uint64_t record_bytes) override;
  void Free(const Allocation& allocation) override;
  void Write(const Allocation& allocation, uint64_t offset,
             std::span<const std::byte> bytes) override;
  void Read(const Allocation& allocation, uint64_t offset, std::span<std::byte> out) const override;
  std::span<const std::byte> View(const Allocation& allocation, uint64_t offset,
                                  uint64_t size) const override;

 private:
  HostTier(std::byte* base, uint32_t pages);

  // Calls visit(address, length) for each piece of [offset, offset + size) of the record, in order.
  template <typename Visit>
  void ForPieces(const Allocation& allocation, uint64_t offset, uint64_t size, Visit visit) const;

  // Constant after construction.
  std::byte* const base_;
  const uint64_t capacity_bytes_;

  mutable absl::Mutex mu_;
  SlabAllocator pages_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
