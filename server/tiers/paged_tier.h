// What the tiers here have in common: one range of addresses, handed out in pages of 4 KiB.
//
// Thread safety: as Tier says.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/base/macros.h"
#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/core/slab_allocator.h"
#include "server/core/tier.h"

namespace kvstow {

class PagedTier : public Tier {
 public:
  static constexpr uint64_t kPageBytes = 4096;
  static constexpr uint64_t kSlabBytes = uint64_t{64} << 20;

  TierUsage usage() const override;
  uint64_t PhysicalBytes(uint64_t record_bytes) const override;
  absl::StatusOr<Allocation> Allocate(uint64_t record_bytes) override;
  void Free(const Allocation& allocation) override;

  // Told what a record begins with, as much as there is at hand of its first page, by who wrote it
  // past Write: for a tier that the host cannot read.
  virtual void KeepHead(const Allocation& /*allocation*/, std::span<const std::byte> /*head*/) {}

  // Where the first `bytes` of a record lie, in order: addresses in the tier's own memory, each of
  // which one copy can take.
  std::vector<std::span<std::byte>> Pieces(const Allocation& allocation, uint64_t bytes) const;

 protected:
  // The whole pages of a capacity. INVALID_ARGUMENT when there is none, or more than 32 bits count.
  static absl::StatusOr<uint32_t> PagesOf(absl::string_view tier, uint64_t capacity_bytes);

  // `base` need not be memory that the host can address. No copy may cross a multiple of
  // `copy_unit`, counted from there; 0: any may.
  PagedTier(std::byte* base, uint32_t pages, uint64_t copy_unit = 0);

  // Calls visit(address, length) for each piece of [offset, offset + size) of the record, in order.
  template <typename Visit>
  void ForPieces(const Allocation& allocation, uint64_t offset, uint64_t size, Visit visit) const {
    for (const PageRun& run : allocation) {
      const uint64_t run_bytes = run.count * kPageBytes;
      if (size == 0) return;
      if (offset >= run_bytes) {
        offset -= run_bytes;
        continue;
      }
      const uint64_t n = std::min(size, run_bytes - offset);
      visit(base_ + run.first * kPageBytes + offset, n);
      size -= n;
      offset = 0;
    }
    ABSL_ASSERT(size == 0);
  }

  std::byte* base() const { return base_; }
  uint64_t capacity_bytes() const { return capacity_bytes_; }

 private:
  // Constant after construction.
  std::byte* const base_;
  const uint64_t capacity_bytes_;
  const uint64_t copy_unit_;

  mutable absl::Mutex mu_;
  SlabAllocator pages_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
