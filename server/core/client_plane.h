// A plane that a client encoded, and what must hold before it may become part of a record.
//
// What is proven:
// - its bytes are those that the client took the checksum of;
// - they are a plane of the space's layout, coded with the space's settings, so that it decodes to
//   finite values in bounded time, and is what the daemon itself could have written;
// - what the client declares of its error is possible: finite, consistent, within the space's
// bound;
// - one tile, which the client does not choose, decodes to the energy that its sums imply.
// What is not: that the client had the values it speaks of, and so the error itself. Who lies
// spoils what is stored under his own tenant's keys, and his own share of the statistics.
//
// Pure functions, thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "codec/codec.h"
#include "codec/report.h"
#include "codec/rotary_table.h"
#include "server/core/plane_segment.h"
#include "server/core/stats_sink.h"
#include "space/plane_layout.h"

namespace kvstow {

struct ClientPlane {
  const PlaneSpec* spec = nullptr;
  const CodecSettings* settings = nullptr;
  const RotaryTable* rotary = nullptr;  // required where spec->rotary is set
  std::span<const std::byte> bytes;     // where the client cannot change them
  const PlaneDeclaration* declared = nullptr;
  uint32_t owner = 0;  // whose plane it is, see Codec
};

struct PlaneFinding {
  PlaneFault fault;
  std::string what;  // for people, what was wrong and what would be right
};

// What can be said from the first segment on; `bytes` of the whole plane.
std::optional<PlaneFinding> FindFaultInSize(const PlaneSpec& spec, const CodecSettings& settings,
                                            size_t bytes, const PlaneDeclaration& declared);

// The first fault of a plane that FindFaultInSize let pass. When there is none `report` holds what
// the plane adds to its record's. `sample` chooses the tile that is decoded; `codec` decodes it.
std::optional<PlaneFinding> FindFault(const ClientPlane& plane, Codec& codec, uint64_t sample,
                                      QualityReport* report);

}  // namespace kvstow
