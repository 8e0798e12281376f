#include "server/tiers/gpu_tier.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"

namespace kvstow {

absl::StatusOr<std::unique_ptr<GpuTier>> GpuTier::Create(gpu::Device* device,
                                                         uint64_t capacity_bytes) {
  const auto pages = PagesOf("gpu", capacity_bytes);
  if (!pages.ok()) return pages.status();
  const auto base = device->Allocate(*pages * kPageBytes);
  if (!base.ok()) {
    return absl::Status(base.status().code(), absl::StrCat("gpu tier: ", base.status().message()));
  }
  return std::unique_ptr<GpuTier>(new GpuTier(device, *base, *pages));
}

GpuTier::~GpuTier() { device_.Free(base()); }

absl::StatusOr<Allocation> GpuTier::Allocate(uint64_t record_bytes) {
  if (const absl::Status health = device_.health(); !health.ok()) {
    return absl::UnavailableError(absl::StrCat("gpu tier: ", health.message()));
  }
  return PagedTier::Allocate(record_bytes);
}

void GpuTier::Write(const Allocation& allocation, uint64_t offset,
                    std::span<const std::byte> bytes) {
  std::vector<gpu::Copy> copies;
  const std::byte* from = bytes.data();
  ForPieces(allocation, offset, bytes.size(), [&](std::byte* at, uint64_t n) {
    copies.push_back({at, from, n});
    from += n;
  });
  // The device counts its failures; the record's checksums tell what they did.
  device_.CopyAll(copies).IgnoreError();
}

void GpuTier::Read(const Allocation& allocation, uint64_t offset, std::span<std::byte> out) const {
  std::vector<gpu::Copy> copies;
  std::byte* to = out.data();
  ForPieces(allocation, offset, out.size(), [&](const std::byte* at, uint64_t n) {
    copies.push_back({to, at, n});
    to += n;
  });
  if (!device_.CopyAll(copies).ok()) std::fill(out.begin(), out.end(), std::byte{0});
}

}  // namespace kvstow
