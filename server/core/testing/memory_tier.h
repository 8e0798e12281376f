// A small tier in a vector, with pages of any size, for tests that count bytes. Thread-safe as Tier
// says.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/core/slab_allocator.h"
#include "server/core/tier.h"

namespace kvstow {

class MemoryTier : public Tier {
 public:
  MemoryTier(uint32_t pages, uint32_t page_bytes, uint32_t slab_pages,
             TierKind kind = TierKind::kHost)
      : kind_(kind),
        page_bytes_(page_bytes),
        bytes_(size_t{pages} * page_bytes),
        pages_(pages, slab_pages) {}

  // Reads and writes fail from here on, or no longer.
  void set_failing(bool failing) { failing_ = failing; }

  TierKind kind() const override { return kind_; }
  TierUsage usage() const override {
    absl::MutexLock lock(&mu_);
    return {.capacity_bytes = bytes_.size(),
            .used_bytes = uint64_t{pages_.used_pages()} * page_bytes_};
  }
  uint64_t PhysicalBytes(uint64_t record_bytes) const override {
    return std::max<uint64_t>(1, (record_bytes + page_bytes_ - 1) / page_bytes_) * page_bytes_;
  }
  absl::StatusOr<Allocation> Allocate(uint64_t record_bytes) override {
    if (record_bytes > bytes_.size()) return absl::ResourceExhaustedError("too large");
    absl::MutexLock lock(&mu_);
    auto allocation =
        pages_.Allocate(static_cast<uint32_t>(PhysicalBytes(record_bytes) / page_bytes_));
    if (!allocation.has_value()) return absl::ResourceExhaustedError("full");
    return *std::move(allocation);
  }
  void Free(const Allocation& allocation) override {
    absl::MutexLock lock(&mu_);
    pages_.Free(allocation);
  }
  absl::Status Write(const Allocation& allocation, uint64_t offset,
                     std::span<const std::byte> bytes) override {
    if (failing_) return absl::UnavailableError("the tier fails");
    for (size_t i = 0; i < bytes.size(); ++i) bytes_[At(allocation, offset + i)] = bytes[i];
    return absl::OkStatus();
  }
  absl::Status Read(const Allocation& allocation, uint64_t offset,
                    std::span<std::byte> out) const override {
    if (failing_) return absl::UnavailableError("the tier fails");
    for (size_t i = 0; i < out.size(); ++i) out[i] = bytes_[At(allocation, offset + i)];
    return absl::OkStatus();
  }
  std::span<const std::byte> View(const Allocation& allocation, uint64_t offset,
                                  uint64_t size) const override {
    if (size == 0 || failing_) return {};
    const size_t first = At(allocation, offset);
    // Every page: the last one may lie where it would in one run, and those before it elsewhere.
    for (uint64_t at = 0; at < size; at += page_bytes_) {
      if (At(allocation, offset + at) != first + at) return {};
    }
    if (At(allocation, offset + size - 1) != first + size - 1) return {};
    return {&bytes_[first], size};
  }
  std::vector<std::span<std::byte>> Room(const Allocation& allocation, uint64_t bytes) override {
    std::vector<std::span<std::byte>> room;
    for (uint64_t at = 0; at < bytes && kind_ == TierKind::kHost; at += page_bytes_) {
      room.push_back({&bytes_[At(allocation, at)], std::min<uint64_t>(page_bytes_, bytes - at)});
    }
    return room;
  }

 private:
  size_t At(const Allocation& allocation, uint64_t offset) const {
    for (const PageRun& run : allocation) {
      const uint64_t run_bytes = uint64_t{run.count} * page_bytes_;
      if (offset < run_bytes) return size_t{run.first} * page_bytes_ + offset;
      offset -= run_bytes;
    }
    ABSL_ASSERT(false);
    return 0;
  }

  const TierKind kind_;
  std::atomic<bool> failing_{false};
  const uint32_t page_bytes_;
  std::vector<std::byte> bytes_;
  mutable absl::Mutex mu_;
  SlabAllocator pages_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
