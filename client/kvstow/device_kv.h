// KV in a worker's device memory, as Puts and Gets see it: copies planes from the engine's pages to
// the staging memory shared with the daemon, and from there to the pages. kvstow/cuda.h implements
// it for paged KV; engines with other layouts implement it themselves.
//
// Calls of one Put or Get come one after the other, on the thread of its callbacks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvstow/coding.h"
#include "space/plane_layout.h"

namespace kvstow {

// A plane that arrived in device memory.
struct ArrivedPlane {
  const PlaneSpec* plane = nullptr;
  size_t index = 0;                  // of it in PlaneLayout::planes()
  size_t block = 0;                  // into the request's keys
  const std::byte* bytes = nullptr;  // C order [heads, tokens, dim], or, encoded, aligned to 16
  // Of one that is encoded (docs/format.md, "Planes"), else 0.
  size_t encoded_bytes = 0;
  uint32_t crc32c = 0;
  uint64_t first_position = 0;
};

// A plane of a Put, and where in device memory it is to travel from.
struct LeavingPlane {
  const PlaneSpec* plane = nullptr;
  size_t index = 0;         // of it in PlaneLayout::planes()
  size_t block = 0;         // into the request's keys
  std::byte* to = nullptr;  // raw_bytes, C order [heads, tokens, dim], aligned to 64
};

// A plane of a Put that is to be encoded on the device.
struct PlaneToEncode {
  const PlaneSpec* plane = nullptr;
  size_t index = 0;  // of it in PlaneLayout::planes()
  size_t block = 0;  // into the request's keys
  uint64_t first_position = 0;
};

// And as it then is stored (docs/format.md, "Planes").
struct PlaneEncodedOnDevice {
  std::span<const std::byte> bytes;  // in host memory
  uint32_t crc32c = 0;
  std::vector<TileSums> tiles;  // in order of heads; none of planes that no codec touches
};

struct DamagedArrival {
  const PlaneSpec* plane = nullptr;
  size_t block = 0;
};

class DeviceKv {
 public:
  virtual ~DeviceKv() = default;

  // Whether planes are to arrive encoded, and are decoded on the worker's own stream: a seventh of
  // the bytes, and no kernels of another process. Asked once a Get.
  virtual bool decodes() const { return false; }

  // A Get begins: what its Scatters enqueue goes behind what is on the caller's stream now. Damage
  // that is known, or will be, of planes of Gets before is not told any more.
  virtual absl::Status BeginGet() { return absl::OkStatus(); }
  // Enqueues the copying of all these on the caller's stream, and the decoding of encoded ones,
  // which must pass their checksum before anything of them is written. The engine's memory is
  // written by nothing else, and by nothing that is not enqueued when the Get returns.
  virtual absl::Status Scatter(std::span<const ArrivedPlane> planes) = 0;
  // The same for one plane in host memory, raw_bytes long, that is gone when this returns. Should
  // not wait for the stream: no more than two before it have not been passed.
  virtual absl::Status ScatterFromHost(const PlaneSpec& plane, size_t block,
                                       std::span<const std::byte> bytes) = 0;

  // For Puts: enqueues the copying of all these out of the engine's memory, which is read by
  // nothing else, and by nothing that is not enqueued when the Put returns.
  virtual absl::Status Gather(std::span<const LeavingPlane> /*planes*/) {
    return absl::UnimplementedError("this DeviceKv gathers no planes, so it serves Gets only");
  }
  // The same for one plane into host memory, raw_bytes long, where it is when this returns.
  virtual absl::Status GatherToHost(const PlaneSpec& /*plane*/, size_t /*block*/,
                                    std::span<std::byte> /*to*/) {
    return absl::UnimplementedError("this DeviceKv gathers no planes, so it serves Gets only");
  }

  // The two halves of that, so that the call that waits in between can end by its deadline;
  // UNIMPLEMENTED where there are none. Enqueues it; one that was not taken is forgotten.
  virtual absl::Status EnqueueToHost(const PlaneSpec& /*plane*/, size_t /*block*/) {
    return absl::UnimplementedError("this DeviceKv waits in GatherToHost");
  }
  // Copies the plane out, once a mark behind it has passed.
  virtual absl::Status TakeToHost(std::span<std::byte> /*to*/) {
    return absl::UnimplementedError("this DeviceKv waits in GatherToHost");
  }

  // Whether planes of Puts are to be encoded here, on the worker's own stream, so that a seventh of
  // the bytes cross to the host and any path, and no kernels of another process run: how many raw
  // bytes at a time, about; 0: they are not.
  virtual size_t encodes_at_a_time() const { return 0; }
  // Enqueues the gathering and encoding of the first of these, as many as fit, at least one;
  // returns how many. UNAVAILABLE while what an earlier call enqueued, and did not take, is not
  // done.
  virtual absl::StatusOr<size_t> Encode(std::span<const PlaneToEncode> /*planes*/) {
    return absl::UnimplementedError("this DeviceKv encodes no planes");
  }
  // Those planes, in order, once a mark behind them has passed. They stay until the next
  // TakeEncoded, while others are encoded.
  virtual absl::StatusOr<std::vector<PlaneEncodedOnDevice>> TakeEncoded() {
    return absl::UnimplementedError("this DeviceKv encodes no planes");
  }

  // What was enqueued so far, by a number that ascends; and whether it has been done.
  virtual absl::StatusOr<uint64_t> Mark() = 0;
  virtual absl::StatusOr<bool> Passed(uint64_t mark) = 0;
  // Planes that were found damaged, each told once, before Passed is true of their mark.
  virtual std::vector<DamagedArrival> TakeDamage() { return {}; }
};

}  // namespace kvstow
