// The tenants' eviction queues, and who gives way when a tier is full: a tenant at or above its
// share of the tier makes room out of its own blocks, so that its burst costs nobody else any; one
// below it takes from whoever is furthest above.
//
// A tenant's share of a tier is the tier's size in proportion to the tenants' quotas there (each at
// most the tier). Shares bind only when the tier is full; quotas always do.
//
// Not thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "server/core/eviction_queue.h"
#include "server/core/ids.h"

namespace kvstow {

class TenantQueues {
 public:
  // `protected_caps` as EvictionQueue, by TenantId; tenants beyond the list have `other_cap`.
  TenantQueues(std::vector<uint64_t> protected_caps, uint64_t other_cap, size_t tiers)
      : caps_(std::move(protected_caps)), other_cap_(other_cap), tiers_(tiers) {
    Add(TenantId(std::max<size_t>(caps_.size(), 1) - 1));
  }

  // Call before a tenant's first block. References to queues do not survive it.
  void Add(TenantId tenant) {
    while (queues_.size() <= static_cast<size_t>(tenant)) {
      const size_t next = queues_.size();
      queues_.emplace_back(next < caps_.size() ? caps_[next] : other_cap_, tiers_);
      queues_.back().SetOnCooled(on_cooled_);
    }
  }
  void SetOnCooled(const std::function<void(Block*)>& on_cooled) {
    on_cooled_ = on_cooled;
    for (EvictionQueue& queue : queues_) queue.SetOnCooled(on_cooled);
  }

  EvictionQueue& Of(TenantId tenant) { return queues_[static_cast<size_t>(tenant)]; }
  EvictionQueue& Of(const Block* block) { return Of(block->space->tenant); }
  const EvictionQueue& Of(TenantId tenant) const { return queues_[static_cast<size_t>(tenant)]; }
  size_t tenants() const { return queues_.size(); }

 private:
  const std::vector<uint64_t> caps_;
  const uint64_t other_cap_;
  const size_t tiers_;
  std::vector<EvictionQueue> queues_;
  std::function<void(Block*)> on_cooled_;
};

}  // namespace kvstow
