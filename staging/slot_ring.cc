#include "staging/slot_ring.h"

namespace kvstow {

std::optional<SlotRing::Piece> SlotRing::Take(size_t bytes) {
  if (!fits(bytes)) return std::nullopt;
  const size_t size = Rounded(bytes);
  size_t offset = 0;
  if (!pieces_.empty()) {
    const size_t tail = pieces_.front().offset;
    if (head_ > tail && bytes_ - head_ >= size) {
      offset = head_;
    } else if (head_ > tail && tail >= size) {
      offset = 0;  // what is left at the end stays unused this time round
    } else if (head_ <= tail && tail - head_ >= size) {
      offset = head_;
    } else {
      return std::nullopt;
    }
  } else if (size > bytes_) {
    return std::nullopt;
  }
  head_ = offset + size;
  pieces_.push_back({offset});
  return Piece{oldest_ + pieces_.size() - 1, offset};
}

void SlotRing::Give(uint64_t ticket) {
  pieces_[ticket - oldest_].given_back = true;
  while (!pieces_.empty() && pieces_.front().given_back) {
    pieces_.pop_front();
    ++oldest_;
  }
  // What was given out last and is out no more goes out again.
  while (!pieces_.empty() && pieces_.back().given_back) {
    head_ = pieces_.back().offset;
    pieces_.pop_back();
  }
}

}  // namespace kvstow
