// Hands out runs of pages from a fixed budget that grows slab by slab: a slab is what a tier
// registers or commits at once, and no run crosses the border of two.
//
// Best fit: the smallest free run that is long enough; freed runs merge with their neighbours in
// the slab. When no single run is long enough several are taken, largest first, so that an
// allocation fails only when there are too few free pages.
//
// Not thread-safe.
//
// Invariants
// 1. Free runs lie inside one grown slab each, do not overlap and do not touch inside a slab.
// 2. used_pages() + the pages of all free runs + the pages of slabs not grown yet = total_pages().
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "server/core/tier.h"

namespace kvstow {

class SlabAllocator {
 public:
  // REQUIRES slab_pages > 0. The last slab is shorter where total_pages is no multiple.
  SlabAllocator(uint32_t total_pages, uint32_t slab_pages);

  // REQUIRES pages > 0. None when fewer pages than that are free; nothing changes then.
  std::optional<Allocation> Allocate(uint32_t pages);
  // REQUIRES pages of this allocator, not freed yet: an allocation or a part of one.
  void Free(const Allocation& allocation);

  uint32_t total_pages() const { return total_pages_; }
  uint32_t used_pages() const { return used_pages_; }
  // Slabs that have had an allocation: [0, grown_slabs()).
  uint32_t grown_slabs() const { return grown_slabs_; }
  // Number of free runs in grown slabs: 1 a slab when nothing is fragmented.
  size_t free_runs() const { return by_start_.size(); }

 private:
  bool Grow();
  void AddFreeRun(PageRun run);
  void RemoveFreeRun(PageRun run);
  PageRun TakeFrom(PageRun run, uint32_t pages);
  void FreeRun(PageRun run);

  const uint32_t total_pages_;
  const uint32_t slab_pages_;
  uint32_t grown_slabs_ = 0;
  uint32_t used_pages_ = 0;
  absl::btree_map<uint32_t, uint32_t> by_start_;            // first page -> count
  absl::btree_set<std::pair<uint32_t, uint32_t>> by_size_;  // (count, first page)
};

}  // namespace kvstow
