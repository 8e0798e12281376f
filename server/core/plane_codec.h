// Where the planes of Puts and Gets are encoded and decoded: tile by tile on the executor
// (TiledPlaneCodec), or many planes at a time on a device (BatchedPlaneCodec).
//
// Thread-safe. Work, and what it points to, must stay where it is until `done` was called; `done`
// is called exactly once, on the caller's stack or on an executor thread, and may take its time
// there.
#pragma once

#include <atomic>
#include <span>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "codec/plane.h"
#include "server/core/call_phases.h"

namespace kvstow {

struct PlaneEncodeWork {
  const PlaneSpec* spec = nullptr;
  const CodecSettings* settings = nullptr;
  const RotaryTable* rotary = nullptr;  // required where spec->rotary is set
  std::span<const std::byte> values;    // spec->raw_bytes
  uint32_t owner = 0;                   // whose plane it is, see Codec
  // Not null: work that is found to be unwanted is left undone, with CANCELLED.
  const std::atomic<bool>* unwanted = nullptr;
  CallPhases* phases = nullptr;  // of the call, told while the codec is at this; null: nobody asks

  EncodedPlane encoded = {};  // out
};

struct PlaneDecodeWork {
  const PlaneSpec* spec = nullptr;
  const RotaryTable* rotary = nullptr;
  std::span<const std::byte> encoded;  // its checksum has been checked
  uint32_t owner = 0;                  // as above
  CallPhases* phases = nullptr;        // as above

  std::span<std::byte> values = {};  // out, spec->raw_bytes
};

class PlaneCodec {
 public:
  using Done = absl::AnyInvocable<void(absl::Status)>;
  virtual ~PlaneCodec() = default;

  // As Codec's.
  virtual absl::string_view device() const = 0;
  virtual absl::string_view description() const = 0;

  // Not for planes that are IsVerbatim(). May be called on any thread: does no codec work on it.
  // INVALID_ARGUMENT as Codec::Encode.
  virtual void Encode(PlaneEncodeWork* work, Done done) = 0;
  // To be called on executor threads: may do the work there. DATA_LOSS for bytes that are no plane
  // of the spec.
  virtual void Decode(PlaneDecodeWork* work, Done done) = 0;

  // Pieces of work accepted and not begun, besides what waits in the executor.
  virtual size_t queue_depth() const = 0;
};

}  // namespace kvstow
