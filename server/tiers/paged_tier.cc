#include "server/tiers/paged_tier.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kvstow {

absl::StatusOr<uint32_t> PagedTier::PagesOf(absl::string_view tier, uint64_t capacity_bytes) {
  const uint64_t pages = capacity_bytes / kPageBytes;
  if (pages > 0 && pages <= std::numeric_limits<uint32_t>::max()) {
    return static_cast<uint32_t>(pages);
  }
  return absl::InvalidArgumentError(absl::StrCat(tier, " tier: capacity of ", capacity_bytes,
                                                 " bytes; at least ", kPageBytes,
                                                 " and less than 2^32 pages are needed"));
}

PagedTier::PagedTier(std::byte* base, uint32_t pages, uint64_t copy_unit)
    : base_(base),
      capacity_bytes_(pages * kPageBytes),
      copy_unit_(copy_unit == 0 ? capacity_bytes_ : copy_unit),
      pages_(pages, kSlabBytes / kPageBytes) {}

TierUsage PagedTier::usage() const {
  absl::MutexLock lock(&mu_);
  return {.capacity_bytes = capacity_bytes_, .used_bytes = pages_.used_pages() * kPageBytes};
}

uint64_t PagedTier::PhysicalBytes(uint64_t record_bytes) const {
  // An empty record still needs a place.
  return std::max<uint64_t>(1, (record_bytes + kPageBytes - 1) / kPageBytes) * kPageBytes;
}

absl::StatusOr<Allocation> PagedTier::Allocate(uint64_t record_bytes) {
  const uint64_t physical = record_bytes <= capacity_bytes_ ? PhysicalBytes(record_bytes) : 0;
  std::optional<Allocation> allocation;
  if (physical > 0) {
    absl::MutexLock lock(&mu_);
    allocation = pages_.Allocate(static_cast<uint32_t>(physical / kPageBytes));
  }
  if (!allocation.has_value()) {
    return absl::ResourceExhaustedError(
        absl::StrCat(Name(kind()), " tier: no room for ", record_bytes, " bytes"));
  }
  return *std::move(allocation);
}

void PagedTier::Free(const Allocation& allocation) {
  absl::MutexLock lock(&mu_);
  pages_.Free(allocation);
}

std::vector<std::span<std::byte>> PagedTier::Pieces(const Allocation& allocation,
                                                    uint64_t bytes) const {
  std::vector<std::span<std::byte>> pieces;
  ForPieces(allocation, 0, bytes, [&](std::byte* at, uint64_t n) {
    while (n > 0) {
      const auto from_base = static_cast<uint64_t>(at - base_);
      const uint64_t part = std::min(n, copy_unit_ - from_base % copy_unit_);
      pieces.emplace_back(at, part);
      at += part;
      n -= part;
    }
  });
  return pieces;
}

}  // namespace kvstow
