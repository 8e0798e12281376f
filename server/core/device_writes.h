// What a GPU is to Puts whose staging lies on it: encodes planes in device memory, many at a time,
// in turns on a few lanes (as device_reads.h).
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "codec/record.h"
#include "server/core/space_context.h"

namespace kvstow {

class DeviceWrites {
 public:
  struct Plane {
    uint32_t plane = 0;  // of the layout's
    uint64_t first_position = 0;
    const std::byte* values = nullptr;   // device memory: raw_bytes, C order
    PlaneSummary summary;                // out
    const std::byte* encoded = nullptr;  // out: summary.bytes in host memory
  };

  // Raw bytes that are encoded at a time, about: enough to fill a device.
  static constexpr size_t kBatchBytes = size_t{32} << 20;

  virtual ~DeviceWrites() = default;

  // Runs `turn` on an executor thread once a lane is free, in order of arrival.
  virtual void Schedule(absl::AnyInvocable<void()> turn) = 0;
  virtual size_t lanes() const = 0;

  // Within a turn: encodes the planes that `next` gives, until it gives none, some at a time and in
  // their order. Of some, `taken` is called with how many they are, once their values have been
  // copied and are not read any more; later `encoded` with them, whose bytes are gone when it
  // returns, while the device encodes those behind them. Planes stay where they are until Write
  // returns. INTERNAL when the device is lost, RESOURCE_EXHAUSTED when it has no memory for this.
  virtual absl::Status Write(const std::shared_ptr<const SpaceContext>& space,
                             absl::FunctionRef<std::span<Plane>()> next,
                             absl::FunctionRef<void(size_t)> taken,
                             absl::FunctionRef<void(std::span<const Plane>)> encoded) = 0;
};

}  // namespace kvstow
