// KV in a worker's device memory, as a Get sees it: where planes that arrived in the staging memory
// shared with the daemon are copied from there to the engine's pages. kvstow/cuda.h implements it
// for paged KV; engines with other layouts implement it themselves.
//
// Calls of one Get come one after the other, on the thread of its callbacks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "space/plane_layout.h"

namespace kvstow {

// A plane that arrived.
struct ArrivedPlane {
  const PlaneSpec* plane = nullptr;
  size_t block = 0;                  // into the request's keys
  const std::byte* bytes = nullptr;  // device memory, C order [heads, tokens, dim]
};

class DeviceKv {
 public:
  virtual ~DeviceKv() = default;

  // Enqueues the copying of all these on the caller's stream. The engine's memory is written by
  // nothing else, and by nothing that is not enqueued when the Get returns.
  virtual absl::Status Scatter(std::span<const ArrivedPlane> planes) = 0;
  // The same for one plane in host memory, raw_bytes long, that is gone when this returns.
  virtual absl::Status ScatterFromHost(const PlaneSpec& plane, size_t block,
                                       std::span<const std::byte> bytes) = 0;

  // What was enqueued so far, by a number that ascends; and whether it has been done.
  virtual absl::StatusOr<uint64_t> Mark() = 0;
  virtual absl::StatusOr<bool> Passed(uint64_t mark) = 0;
};

}  // namespace kvstow
