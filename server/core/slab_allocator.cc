#include "server/core/slab_allocator.h"

#include <algorithm>
#include <iterator>

#include "absl/base/macros.h"

namespace kvstow {

SlabAllocator::SlabAllocator(uint32_t total_pages, uint32_t slab_pages)
    : total_pages_(total_pages), slab_pages_(slab_pages) {
  ABSL_ASSERT(slab_pages > 0);
}

std::optional<Allocation> SlabAllocator::Allocate(uint32_t pages) {
  ABSL_ASSERT(pages > 0);
  if (pages > total_pages_ - used_pages_) return std::nullopt;
  Allocation allocation;
  while (pages > 0) {
    auto fit = by_size_.lower_bound({std::min(pages, slab_pages_), 0});
    if (fit == by_size_.end()) {
      // A fresh slab before pieces: one run reads faster, and lets a View be given.
      if (Grow()) continue;
      fit = by_size_.lower_bound({std::prev(by_size_.end())->first, 0});
    }
    const PageRun run{fit->second, fit->first};
    allocation.push_back(TakeFrom(run, std::min(pages, run.count)));
    pages -= allocation.back().count;
  }
  return allocation;
}

void SlabAllocator::Free(const Allocation& allocation) {
  for (const PageRun& run : allocation) FreeRun(run);
}

bool SlabAllocator::Grow() {
  const uint64_t first = uint64_t{grown_slabs_} * slab_pages_;
  if (first >= total_pages_) return false;
  const uint32_t count = std::min<uint64_t>(slab_pages_, total_pages_ - first);
  ++grown_slabs_;
  AddFreeRun({static_cast<uint32_t>(first), count});
  return true;
}

void SlabAllocator::AddFreeRun(PageRun run) {
  by_start_.emplace(run.first, run.count);
  by_size_.emplace(run.count, run.first);
}

void SlabAllocator::RemoveFreeRun(PageRun run) {
  by_start_.erase(run.first);
  by_size_.erase({run.count, run.first});
}

PageRun SlabAllocator::TakeFrom(PageRun run, uint32_t pages) {
  RemoveFreeRun(run);
  if (pages < run.count) AddFreeRun({run.first + pages, run.count - pages});
  used_pages_ += pages;
  return {run.first, pages};
}

void SlabAllocator::FreeRun(PageRun run) {
  used_pages_ -= run.count;
  const uint32_t slab = run.first / slab_pages_;
  const auto next = by_start_.lower_bound(run.first);
  ABSL_ASSERT(next == by_start_.end() || run.first + run.count <= next->first);
  // Copied out: removing a run moves the others' nodes.
  std::optional<PageRun> before, after;
  if (next != by_start_.end() && next->first == run.first + run.count &&
      next->first / slab_pages_ == slab) {
    after = PageRun{next->first, next->second};
  }
  if (next != by_start_.begin()) {
    const auto previous = std::prev(next);
    ABSL_ASSERT(previous->first + previous->second <= run.first);
    if (previous->first + previous->second == run.first && previous->first / slab_pages_ == slab) {
      before = PageRun{previous->first, previous->second};
    }
  }
  if (after.has_value()) {
    RemoveFreeRun(*after);
    run.count += after->count;
  }
  if (before.has_value()) {
    RemoveFreeRun(*before);
    run = {before->first, before->count + run.count};
  }
  AddFreeRun(run);
}

}  // namespace kvstow
