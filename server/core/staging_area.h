// Memory that a session shares with its client, on the host or on a device, and the part of it that
// one call borrows. The client may write there at any moment: whoever reads copies first and
// believes nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace kvstow {

// Lives as long as anybody uses it: the session, until it ends or is given another one, and every
// call that borrowed a part.
class StagingArea {
 public:
  virtual ~StagingArea() = default;
  // Device addresses, if it lies there: the host copies nothing to or from them by itself.
  virtual std::span<std::byte> bytes() const = 0;
  virtual bool on_device() const { return false; }
};

struct StagingSlot {
  std::shared_ptr<const StagingArea> area;
  std::span<std::byte> bytes;

  bool on_device() const { return area != nullptr && area->on_device(); }
};

// Smaller ones would be all bookkeeping.
inline constexpr uint64_t kLeastSlotBytes = 4096;
// Where slots on a device may begin; pieces of them are aligned within (staging/slot_ring.h).
inline constexpr uint64_t kDeviceSlotAlignment = 64;

// A slot as a client names it.
struct SlotClaim {
  uint32_t region = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

}  // namespace kvstow
