#include "server/tiers/host_tier.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kvstow {
namespace {

// MADV_POPULATE_WRITE of Linux 5.14, which Debian 12's C library does not name yet.
constexpr int kPopulateWrite = 23;

}  // namespace

absl::StatusOr<std::unique_ptr<HostTier>> HostTier::Create(uint64_t capacity_bytes) {
  const auto pages = PagesOf("host", capacity_bytes);
  if (!pages.ok()) return pages.status();
  void* base = mmap(nullptr, *pages * kPageBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("host tier: cannot map ", *pages * kPageBytes,
                                                     " bytes: ", std::strerror(errno)));
  }
  return std::unique_ptr<HostTier>(new HostTier(static_cast<std::byte*>(base), *pages));
}

HostTier::~HostTier() {
  stop_.Notify();
  if (pinning_.joinable()) pinning_.join();
  for (uint64_t at = 0; at < pinned_bytes(); at += kPinBytes) device_->Unpin(base() + at);
  munmap(base(), capacity_bytes());
}

void HostTier::StartPinning(gpu::Device* device) {
  device_ = device;
  pinning_ = std::thread([this] { Pin(); });
}

void HostTier::Pin() {
  // Large pages, and there before the driver asks for them: it holds its lock for less long. Both
  // are wishes; a kernel that knows them not is only slower.
  madvise(base(), capacity_bytes(), MADV_HUGEPAGE);
  for (uint64_t at = 0; at < capacity_bytes(); at += kPinBytes) {
    const uint64_t bytes = std::min(kPinBytes, capacity_bytes() - at);
    madvise(base() + at, bytes, kPopulateWrite);
    const auto start = std::chrono::steady_clock::now();
    pinning_status_ = device_->Pin(base() + at, bytes);
    if (!pinning_status_.ok()) return;
    pinned_bytes_.fetch_add(bytes, std::memory_order_relaxed);
    // Four fifths of the time belong to everybody else.
    const auto took = absl::FromChrono(std::chrono::steady_clock::now() - start);
    if (stop_.WaitForNotificationWithTimeout(4 * took)) return;
  }
}

absl::Status HostTier::WaitForPinning() {
  if (pinning_.joinable()) pinning_.join();
  return pinning_status_;
}

absl::Status HostTier::Write(const Allocation& allocation, uint64_t offset,
                             std::span<const std::byte> bytes) {
  const std::byte* from = bytes.data();
  ForPieces(allocation, offset, bytes.size(), [&](std::byte* at, uint64_t n) {
    std::memcpy(at, from, n);
    from += n;
  });
  return absl::OkStatus();
}

absl::Status HostTier::Read(const Allocation& allocation, uint64_t offset,
                            std::span<std::byte> out) const {
  std::byte* to = out.data();
  ForPieces(allocation, offset, out.size(), [&](const std::byte* at, uint64_t n) {
    std::memcpy(to, at, n);
    to += n;
  });
  return absl::OkStatus();
}

std::span<const std::byte> HostTier::View(const Allocation& allocation, uint64_t offset,
                                          uint64_t size) const {
  std::span<const std::byte> view;
  ForPieces(allocation, offset, size, [&](const std::byte* at, uint64_t n) {
    if (n == size) view = {at, n};
  });
  return view;
}

RecordPlace HostTier::Locate(const Allocation& allocation, uint64_t bytes) const {
  const auto pieces = Pieces(allocation, bytes);
  // Pinning goes from front to back.
  const std::byte* const end_of_pinned = base() + pinned_bytes();
  const bool pinned = std::all_of(pieces.begin(), pieces.end(), [&](std::span<std::byte> piece) {
    return piece.data() + piece.size() <= end_of_pinned;
  });
  return {{pieces.begin(), pieces.end()}, /*on_device=*/false, pinned};
}

}  // namespace kvstow
