// DeviceReads on a GPU: as many readers as there are lanes, each of the space that used it last,
// made anew for another one when none of that space is idle.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gpu/api/device.h"
#include "server/core/device_reads.h"
#include "server/core/executor.h"

namespace kvstow {

class DeviceReadLanes final : public DeviceReads {
 public:
  // The next turn's copies are made while one is computed.
  static constexpr size_t kLanes = 2;

  // Device and executor outlive it. `max_records` of one call.
  DeviceReadLanes(gpu::Device* device, Executor* executor, size_t max_records);
  ~DeviceReadLanes() override;

  void Schedule(absl::AnyInvocable<void()> turn) override ABSL_LOCKS_EXCLUDED(mu_);
  size_t lanes() const override { return kLanes; }
  absl::Status Read(const std::shared_ptr<const SpaceContext>& space,
                    std::span<const StoredRecord> records, PlaneForm form,
                    std::span<Plane> planes) override ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Fetch(std::span<const Fetched> pieces) override;

 private:
  struct Reader {
    std::shared_ptr<const SpaceContext> space;  // whose layout `reader` borrows
    std::unique_ptr<gpu::PlaneReader> reader;   // null before the first use, and after a failure
    bool in_use = false;
  };

  void RunNext();
  // Pinned memory that fetched bytes come through: copies to other memory wait for each other.
  static constexpr size_t kBounceBytes = size_t{4} << 20;

  // One of the space's, if one is idle; else any.
  Reader* Take(const SpaceContext& space) ABSL_LOCKS_EXCLUDED(mu_);

  gpu::Device& device_;
  Executor& executor_;
  const size_t max_records_;

  absl::Mutex bounce_mu_;
  const std::span<std::byte> bounce_;  // contents guarded by bounce_mu_

  absl::Mutex mu_;
  size_t running_ ABSL_GUARDED_BY(mu_) = 0;  // lanes in use
  size_t coming_ ABSL_GUARDED_BY(mu_) = 0;   // of them those that have still to take a turn
  std::deque<absl::AnyInvocable<void()>> waiting_ ABSL_GUARDED_BY(mu_);
  std::vector<Reader> readers_;  // what each holds is its user's; `in_use` is guarded by mu_
};

}  // namespace kvstow
