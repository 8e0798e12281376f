// Planes of a Get on their way from a slot in device memory to the engine's pages: collects what a
// message names, has it copied, and tells when it has been, so that the daemon gets the room back
// and the worker its layers.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
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

  void Add(const ArrivedPlane& plane) { batch_.push_back(plane); }
  // Has what was added copied. `received` and `read`: where the Get is with it.
  absl::Status Launch(const GetAssembly::Place& received, const StagedCount& read);
  // Waits until no more than `batches` of them are on their way. As AwaitMark.
  absl::Status AwaitAllBut(size_t batches);
  // Looks which have landed; whether some are still on their way. The status of the engine's
  // stream.
  absl::StatusOr<bool> Look();

  // Found in what has landed, or will.
  std::vector<DamagedArrival> TakeDamage() { return kv_.TakeDamage(); }
  // What has landed.
  const GetAssembly::Place& place() const { return landed_.received; }
  const StagedCount& read() const { return landed_.read; }

 private:
  // The first one has.
  void TakeLanded();

  struct Batch {
    uint64_t mark = 0;
    GetAssembly::Place received;
    StagedCount read;
  };

  DeviceKv& kv_;
  const BulkStream::Terms& terms_;
  std::vector<ArrivedPlane> batch_;
  std::deque<Batch> flying_;
  bool begun_ = false;
  Batch landed_;
};

}  // namespace kvstow::client
