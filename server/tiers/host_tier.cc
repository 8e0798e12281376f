#include "server/tiers/host_tier.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/base/macros.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kvstow {

absl::StatusOr<std::unique_ptr<HostTier>> HostTier::Create(uint64_t capacity_bytes) {
  const uint64_t pages = capacity_bytes / kPageBytes;
  if (pages == 0 || pages > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat("host tier: capacity of ", capacity_bytes,
                                                   " bytes; at least ", kPageBytes,
                                                   " and less than 2^32 pages are needed"));
  }
  void* base = mmap(nullptr, pages * kPageBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("host tier: cannot map ", pages * kPageBytes,
                                                     " bytes: ", std::strerror(errno)));
  }
  return std::unique_ptr<HostTier>(
      new HostTier(static_cast<std::byte*>(base), static_cast<uint32_t>(pages)));
}

HostTier::HostTier(std::byte* base, uint32_t pages)
    : base_(base), capacity_bytes_(pages * kPageBytes), pages_(pages, kSlabBytes / kPageBytes) {}

HostTier::~HostTier() { munmap(base_, capacity_bytes_); }

TierUsage HostTier::usage() const {
  absl::MutexLock lock(&mu_);
  return {.capacity_bytes = capacity_bytes_, .used_bytes = pages_.used_pages() * kPageBytes};
}

uint64_t HostTier::PhysicalBytes(uint64_t record_bytes) const {
  // An empty record still needs a place.
  return std::max<uint64_t>(1, (record_bytes + kPageBytes - 1) / kPageBytes) * kPageBytes;
}

absl::StatusOr<Allocation> HostTier::Allocate(uint64_t record_bytes) {
  const uint64_t physical = record_bytes <= capacity_bytes_ ? PhysicalBytes(record_bytes) : 0;
  std::optional<Allocation> allocation;
  if (physical > 0) {
    absl::MutexLock lock(&mu_);
    allocation = pages_.Allocate(static_cast<uint32_t>(physical / kPageBytes));
  }
  if (!allocation.has_value()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("host tier: no room for ", record_bytes, " bytes"));
  }
  return *std::move(allocation);
}

void HostTier::Free(const Allocation& allocation) {
  absl::MutexLock lock(&mu_);
  pages_.Free(allocation);
}

template <typename Visit>
void HostTier::ForPieces(const Allocation& allocation, uint64_t offset, uint64_t size,
                         Visit visit) const {
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

void HostTier::Write(const Allocation& allocation, uint64_t offset,
                     std::span<const std::byte> bytes) {
  const std::byte* from = bytes.data();
  ForPieces(allocation, offset, bytes.size(), [&](std::byte* at, uint64_t n) {
    std::memcpy(at, from, n);
    from += n;
  });
}

void HostTier::Read(const Allocation& allocation, uint64_t offset, std::span<std::byte> out) const {
  std::byte* to = out.data();
  ForPieces(allocation, offset, out.size(), [&](const std::byte* at, uint64_t n) {
    std::memcpy(to, at, n);
    to += n;
  });
}

std::span<const std::byte> HostTier::View(const Allocation& allocation, uint64_t offset,
                                          uint64_t size) const {
  std::span<const std::byte> view;
  ForPieces(allocation, offset, size, [&](const std::byte* at, uint64_t n) {
    if (n == size) view = {at, n};
  });
  return view;
}

}  // namespace kvstow
