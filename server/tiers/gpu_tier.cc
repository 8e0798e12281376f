#include "server/tiers/gpu_tier.h"

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

absl::Status GpuTier::Write(const Allocation& allocation, uint64_t offset,
                            std::span<const std::byte> bytes) {
  std::vector<gpu::Copy> copies;
  const std::byte* from = bytes.data();
  ForPieces(allocation, offset, bytes.size(), [&](std::byte* at, uint64_t n) {
    copies.push_back({at, from, n});
    from += n;
  });
  return device_.CopyAll(copies);
}

absl::Status GpuTier::Read(const Allocation& allocation, uint64_t offset,
                           std::span<std::byte> out) const {
  std::vector<gpu::Copy> copies;
  std::byte* to = out.data();
  ForPieces(allocation, offset, out.size(), [&](const std::byte* at, uint64_t n) {
    copies.push_back({to, at, n});
    to += n;
  });
  return device_.CopyAll(copies);
}

RecordPlace GpuTier::Locate(const Allocation& allocation, uint64_t bytes) const {
  const auto pieces = Pieces(allocation, bytes);
  return {{pieces.begin(), pieces.end()}, /*on_device=*/true, /*pinned=*/false};
}

}  // namespace kvstow
