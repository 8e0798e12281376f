// Planes of a Get on their way to the engine's pages, from a slot in device memory or from the
// host: collects what a message names, has it copied, and tells when it has been, so that the
// daemon gets the room back and the worker its layers.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/bulk_stream.h"
#include "client/get_assembly.h"
#include "client/get_message.h"
#include "client/kvstow/device_kv.h"

namespace kvstow::client {

class DeviceLanding {
 public:
  // Both outlive it.
  DeviceLanding(DeviceKv* kv, const BulkStream::Terms& terms) : kv_(*kv), terms_(terms) {}

  // Before anything else. What is still known of Gets before is forgotten.
  absl::Status Begin();
  void Add(const ArrivedPlane& plane) { batch_.push_back(plane); }
  // Has one plane copied that is gone when this returns. Waits while as many are on their way as a
  // DeviceKv has buffers for, so that it need not. As AwaitMark.
  absl::Status ScatterFromHost(const PlaneSpec& plane, size_t block,
                               std::span<const std::byte> bytes);
  // Has what was added copied. `received` and `read`: where the Get is with it.
  absl::Status Launch(const GetAssembly::Place& received, const StagedCount& read);
  // Waits until no more than `batches` of them are on their way. As AwaitMark.
  absl::Status AwaitAllBut(size_t batches);
  // Looks which have landed; whether some are still on their way. The status of the engine's
  // stream.
  absl::StatusOr<bool> Look();
  // The DeviceKv or the engine's stream could not do it, which says nothing of the daemon.
  bool failed() const { return failed_; }
  // Nothing that was launched may still be on its way.
  bool idle() const { return flying_.empty() && !unmarked_; }

  // Found in what has landed, or will.
  std::vector<DamagedArrival> TakeDamage() { return kv_.TakeDamage(); }
  // What has landed.
  const GetAssembly::Place& place() const { return landed_.received; }
  const StagedCount& read() const { return landed_.read; }

 private:
  // The first one has.
  void TakeLanded();
  absl::Status Await(uint64_t mark);
  // What the DeviceKv said.
  absl::Status Note(absl::Status status);

  struct Batch {
    uint64_t mark = 0;
    GetAssembly::Place received;
    StagedCount read;
  };

  DeviceKv& kv_;
  const BulkStream::Terms& terms_;
  std::vector<ArrivedPlane> batch_;
  std::deque<Batch> flying_;
  std::deque<uint64_t> from_host_;  // marks behind the last planes
  bool unmarked_ = false;           // something was enqueued, and no mark behind it
  Batch landed_;
  bool failed_ = false;
};

}  // namespace kvstow::client
