#include "server/tiers/gpu_tier.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/core/status_macros.h"

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
  ForgetHead(allocation, offset);
  KVSTOW_RETURN_IF_ERROR(device_.CopyAll(copies));
  if (offset == 0) KeepHead(allocation, bytes);
  return absl::OkStatus();
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

std::span<const std::byte> GpuTier::Head(const Allocation& allocation, uint64_t bytes) const {
  absl::MutexLock lock(&mu_);
  const auto head = heads_.find(allocation.front().first);
  if (head == heads_.end() || head->second.size() < bytes) return {};
  return std::span(head->second).first(bytes);
}

void GpuTier::KeepHead(const Allocation& allocation, std::span<const std::byte> head) {
  head = head.first(std::min<size_t>(head.size(), kPageBytes));
  Scratch<std::byte> kept(head.begin(), head.end());
  absl::MutexLock lock(&mu_);
  heads_.insert_or_assign(allocation.front().first, std::move(kept));
}

void GpuTier::ForgetHead(const Allocation& allocation, uint64_t offset) {
  absl::MutexLock lock(&mu_);
  const auto head = heads_.find(allocation.front().first);
  if (head != heads_.end() && offset < head->second.size()) heads_.erase(head);
}

// Also of a record's end alone: then its first page is another one.
void GpuTier::Free(const Allocation& allocation) {
  if (allocation.empty()) return;
  ForgetHead(allocation, 0);
  PagedTier::Free(allocation);
}

}  // namespace kvstow
