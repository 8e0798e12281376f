// DeviceReads on a GPU: as many readers as there are lanes.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "gpu/api/device.h"
#include "server/core/device_reads.h"
#include "server/core/executor.h"
#include "server/tiers/space_workers.h"
#include "server/tiers/turn_lanes.h"

namespace kvstow {

class DeviceReadLanes final : public DeviceReads {
 public:
  // While turns are computed, waited for and handed over, there must be one that copies.
  static constexpr size_t kLanes = 4;

  // Device and executor outlive it. `max_records` of one call.
  DeviceReadLanes(gpu::Device* device, Executor* executor, size_t max_records);
  ~DeviceReadLanes() override;

  void Schedule(absl::AnyInvocable<void()> turn) override { lanes_.Schedule(std::move(turn)); }
  size_t lanes() const override { return kLanes; }
  absl::Status Read(const std::shared_ptr<const SpaceContext>& space,
                    std::span<const StoredRecord> records, PlaneForm form,
                    std::span<Plane> planes) override;
  absl::Status Fetch(std::span<const Fetched> pieces) override;

 private:
  // Pinned memory that fetched bytes come through: copies to other memory wait for each other.
  static constexpr size_t kBounceBytes = size_t{4} << 20;

  gpu::Device& device_;
  const size_t max_records_;

  absl::Mutex bounce_mu_;
  const std::span<std::byte> bounce_;  // contents guarded by bounce_mu_

  TurnLanes lanes_;
  SpaceWorkers<gpu::PlaneReader> readers_;
};

}  // namespace kvstow
