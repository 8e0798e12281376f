#include "client/staged_room.h"

namespace kvstow::client {

std::optional<size_t> StagedRoom::Take(size_t bytes, absl::FunctionRef<bool()> flush) {
  auto piece = ring_.Take(bytes);
  while (!piece) {
    if (!flush()) return std::nullopt;
    const std::optional<uint64_t> consumed = await_();
    if (!consumed || !TakeConsumed(*consumed)) return std::nullopt;
    piece = ring_.Take(bytes);
  }
  unread_.push_back(piece->ticket);
  return piece->offset;
}

bool StagedRoom::TakeConsumed(uint64_t segments) {
  if (segments < consumed_ || segments - consumed_ > unread_.size()) return false;
  for (; consumed_ < segments; ++consumed_) {
    ring_.Give(unread_.front());
    unread_.pop_front();
  }
  return true;
}

v1::Segment* AddSegment(const PlaneSpec& plane, uint32_t block, size_t bytes, size_t offset,
                        v1::StagedChunk* staged) {
  v1::Segment* const segment = staged->add_segments();
  segment->set_layer(plane.layer);
  segment->set_kind(static_cast<v1::PlaneKind>(plane.kind));
  segment->set_block(block);
  segment->set_length(bytes);
  segment->set_plane_bytes(bytes);
  segment->set_staged_at(offset);
  return segment;
}

}  // namespace kvstow::client
