// What a GPU is to Gets whose staging lies on it: reads planes of records into device memory, many
// at a time, since a plane alone costs more to launch than to decode. Gets take turns on a few
// lanes, so that one with a slow reader holds up nobody: a turn is only as long as there is room.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "codec/stored_record.h"
#include "server/core/space_context.h"

namespace kvstow {

enum class PlaneForm;

class DeviceReads {
 public:
  struct Plane {
    uint32_t record = 0;      // into the records of the call
    uint32_t plane = 0;       // of the layout's
    std::byte* to = nullptr;  // device memory, aligned to 16
    bool damaged = false;     // out; of decoded ones
  };
  // Of device memory, to the host. Begins at a multiple of 16, and is readable to the next one
  // behind its end.
  struct Fetched {
    std::byte* to = nullptr;
    const std::byte* from = nullptr;
    size_t bytes = 0;
  };

  virtual ~DeviceReads() = default;

  // Runs `turn` on an executor thread once a lane is free, in order of arrival.
  virtual void Schedule(absl::AnyInvocable<void()> turn) = 0;
  virtual size_t lanes() const = 0;

  // Both within turns, both return when all is there. INTERNAL when the device is lost,
  // RESOURCE_EXHAUSTED when it has no memory for this.
  virtual absl::Status Read(const std::shared_ptr<const SpaceContext>& space,
                            std::span<const StoredRecord> records, PlaneForm form,
                            std::span<Plane> planes) = 0;
  virtual absl::Status Fetch(std::span<const Fetched> pieces) = 0;
};

}  // namespace kvstow
