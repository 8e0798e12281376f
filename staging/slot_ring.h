// Contiguous pieces of a call's slot, given out in a ring by the side that writes: the daemon for a
// Get, the worker for a Put. Pieces come back in any order; room is reused in the order it was
// given out, but for that of the last pieces, which is reused at once.
//
// Pure bookkeeping, touches no memory. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

namespace kvstow {

class SlotRing {
 public:
  // Of every piece: a cache line, so that both sides copy aligned.
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kPiecesAtLeast = 4;
  // What a piece takes.
  static constexpr size_t Rounded(size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  explicit SlotRing(size_t bytes) : bytes_(bytes) {}

  struct Piece {
    uint64_t ticket = 0;  // that of no other piece that is out
    size_t offset = 0;
  };
  // None while there is no room. A piece larger than fits() is never given.
  std::optional<Piece> Take(size_t bytes);
  // REQUIRES: a ticket that was given out and has not come back.
  void Give(uint64_t ticket);

  // What a piece may have at most. With a quarter of the slot there is room for one as soon as no
  // more than half is taken: so much may be held back, read and not told (or, on a device, written
  // and not told), without ever stopping the other side.
  bool fits(size_t bytes) const { return bytes <= bytes_ / kPiecesAtLeast; }
  // How much of it who reads collects before it tells.
  size_t told_when_read() const { return bytes_ / 4; }
  bool empty() const { return pieces_.empty(); }
  size_t bytes() const { return bytes_; }

 private:
  struct Taken {
    size_t offset = 0;
    bool given_back = false;
  };

  const size_t bytes_;
  size_t head_ = 0;           // where the next piece may begin
  std::deque<Taken> pieces_;  // oldest first; front has ticket oldest_
  uint64_t oldest_ = 0;
};

// How much room of a slot the side that writes collects before it tells: little at first, so that
// the other side begins soon, then more, since a message costs both sides as much as the copying of
// some planes, and less again at the end, where the other side would only begin when this one is
// done.
class TellingPace {
 public:
  // Who waits for room tells all it has before, so that the halves of the slot are written and read
  // in turns.
  static TellingPace OnHost(size_t slot_bytes) {
    return TellingPace(slot_bytes / 64, slot_bytes / 2, slot_bytes / 16);
  }
  // What is under way on a device is held back, too (client/get_call.cc).
  static TellingPace OnDevice(size_t slot_bytes) {
    return TellingPace(slot_bytes / 8, slot_bytes / 8, slot_bytes / 8);
  }

  // `near_end`: no more is to come than was collected.
  bool worth_telling(size_t room, bool near_end = false) const {
    return room >= (near_end ? std::min(last_, next_) : next_);
  }
  void Told() { next_ = std::min(2 * next_, most_); }

 private:
  TellingPace(size_t first, size_t most, size_t last) : next_(first), most_(most), last_(last) {}

  size_t next_;
  size_t most_;
  size_t last_;
};

}  // namespace kvstow
