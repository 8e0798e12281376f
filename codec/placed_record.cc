#include "codec/placed_record.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace kvstow {
PlacedRecord::PlacedRecord(const PlaneLayout& layout, const Fingerprint& fingerprint,
                           uint64_t first_position)
    : head_(layout, fingerprint, first_position),
      at_(head_.record_bytes()),
      kept_(layout.planes().size()) {}

void PlacedRecord::SetRoom(std::vector<std::span<std::byte>> room) {
  absl::MutexLock lock(&mu_);
  room_ = std::move(room);
  for (const std::span<std::byte> piece : room_) room_bytes_ += piece.size();
}

void PlacedRecord::SetPlane(size_t index, std::span<const std::byte> bytes,
                            const PlaneSummary& plane) {
  absl::MutexLock lock(&mu_);
  head_.SetPlane(index, plane);
  if (index == next_ && Fits(bytes.size())) {
    Place(bytes);
    PlaceKept();
    return;
  }
  kept_[index].reserve(RoundUpToTile(bytes.size()));
  kept_[index].assign(bytes.begin(), bytes.end());
  kept_[index].resize(RoundUpToTile(bytes.size()));
}

void PlacedRecord::SetPlane(size_t index, EncodedPlane plane, uint32_t crc32c) {
  absl::MutexLock lock(&mu_);
  head_.SetPlane(index, {static_cast<uint32_t>(plane.bytes.size()), crc32c, plane.report});
  plane.bytes.resize(RoundUpToTile(plane.bytes.size()));
  kept_[index] = std::move(plane.bytes);
  PlaceKept();
}

// Once one did not fit none of those behind it is placed: they begin where it ends.
bool PlacedRecord::Fits(size_t bytes) const {
  return !full_ && RoundUpToTile(bytes) <= room_bytes_ - std::min(room_bytes_, at_);
}

void PlacedRecord::Place(std::span<const std::byte> bytes) {
  static constexpr std::byte kZeros[kTileAlignment] = {};
  Write(bytes);
  Write(std::span(kZeros).first(RoundUpToTile(bytes.size()) - bytes.size()));
  ++next_;
}

void PlacedRecord::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::span<std::byte> to = RoomAt(at_);
    const size_t n = std::min(to.size(), bytes.size());
    std::memcpy(to.data(), bytes.data(), n);
    bytes = bytes.subspan(n);
    at_ += n;
  }
}

void PlacedRecord::PlaceKept() {
  while (next_ < kept_.size() && !kept_[next_].empty()) {
    if (!Fits(kept_[next_].size())) {
      full_ = true;
      return;
    }
    const Scratch<std::byte> bytes = std::exchange(kept_[next_], {});
    Place(bytes);
  }
}

// The room from `offset` on that is in one piece.
std::span<std::byte> PlacedRecord::RoomAt(size_t offset) const {
  size_t piece = 0;
  for (; offset >= room_[piece].size(); ++piece) offset -= room_[piece].size();
  return room_[piece].subspan(offset);
}

size_t PlacedRecord::unwritten_bytes() const {
  return all_placed() ? RecordIndex::BytesFor(kept_.size()) : record_bytes();
}

std::vector<std::span<const std::byte>> PlacedRecord::Finish() {
  std::vector<std::span<const std::byte>> pieces = {head_.Finish()};
  if (all_placed()) return pieces;
  for (size_t at = pieces.front().size(); at < at_;) {
    const std::span<std::byte> piece = RoomAt(at);
    pieces.push_back(piece.first(std::min(piece.size(), at_ - at)));
    at += pieces.back().size();
  }
  for (size_t i = next_; i < kept_.size(); ++i) pieces.push_back(kept_[i]);
  return pieces;
}

}  // namespace kvstow
