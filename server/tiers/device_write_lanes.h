// DeviceWrites on a GPU: as many writers as there are lanes.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "gpu/api/device.h"
#include "server/core/device_writes.h"
#include "server/core/executor.h"
#include "server/tiers/space_workers.h"
#include "server/tiers/turn_lanes.h"

namespace kvstow {

class DeviceWriteLanes final : public DeviceWrites {
 public:
  // What one leaves idle on the device, launching and copying, the others fill.
  static constexpr size_t kLanes = 4;
  // A writer is made for kBatchBytes, and takes 15 to 20 times as much device memory; where there
  // is too little it is made for half, and so on.
  static constexpr size_t kLeastBatchBytes = size_t{1} << 20;

  // Whose planes are encoded at a time, at most: rotary tables take 64 KiB each.
  static constexpr size_t kBatchBlocks = 512;

  // Device and executor outlive it.
  DeviceWriteLanes(gpu::Device* device, Executor* executor);

  void Schedule(absl::AnyInvocable<void()> turn) override { lanes_.Schedule(std::move(turn)); }
  size_t lanes() const override { return kLanes; }
  absl::Status Write(const std::shared_ptr<const SpaceContext>& space,
                     absl::FunctionRef<std::span<Plane>()> next,
                     absl::FunctionRef<void(size_t)> taken,
                     absl::FunctionRef<void(std::span<const Plane>)> encoded) override;

 private:
  absl::StatusOr<std::unique_ptr<gpu::PlaneWriter>> Make(const PlaneLayout& layout) const;

  gpu::Device& device_;
  TurnLanes lanes_;
  SpaceWorkers<gpu::PlaneWriter> writers_;
};

}  // namespace kvstow
