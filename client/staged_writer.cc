#include "client/staged_writer.h"

#include <cstring>
#include <utility>

#include "client/serialize.h"

namespace kvstow::client {
namespace {

constexpr int kMaxSegments = 1024;

}  // namespace

StagedWriter::StagedWriter(std::span<std::byte> slot, size_t max_chunk_bytes, Send send,
                           AwaitConsumed await)
    : slot_(slot),
      send_(send),
      await_(std::move(await)),
      chunks_(max_chunk_bytes, std::move(send)),
      ring_(slot.size()) {}

bool StagedWriter::TakeConsumed(uint64_t segments) {
  if (segments < consumed_ || segments - consumed_ > unread_.size()) return false;
  for (; consumed_ < segments; ++consumed_) {
    ring_.Give(unread_.front());
    unread_.pop_front();
  }
  return true;
}

std::optional<SlotRing::Piece> StagedWriter::Room(size_t bytes) {
  auto piece = ring_.Take(bytes);
  while (!piece) {
    if (!Flush()) return std::nullopt;
    const std::optional<uint64_t> consumed = await_();
    if (!consumed || !TakeConsumed(*consumed)) return std::nullopt;
    piece = ring_.Take(bytes);
  }
  return piece;
}

bool StagedWriter::Append(const PlaneSpec& plane, uint32_t block, std::span<const std::byte> bytes,
                          const v1::PlaneDeclaration* declared) {
  if (!ring_.fits(bytes.size())) {
    return Flush() && chunks_.Append(plane, block, bytes, declared) && chunks_.Flush();
  }
  return Stage(plane, block, bytes.size(), declared, [bytes](std::span<std::byte> to) {
    std::memcpy(to.data(), bytes.data(), bytes.size());
    return true;
  });
}

bool StagedWriter::Fill(const PlaneSpec& plane, uint32_t block, FillPlane fill) {
  const size_t bytes = plane.raw_bytes;
  if (!ring_.fits(bytes)) {
    return Flush() && chunks_.Fill(plane, block, fill) && chunks_.Flush();
  }
  return Stage(plane, block, bytes, nullptr, fill);
}

bool StagedWriter::Stage(const PlaneSpec& plane, uint32_t block, size_t bytes,
                         const v1::PlaneDeclaration* declared, FillPlane fill) {
  const auto piece = Room(bytes);
  if (!piece || !fill(slot_.subspan(piece->offset, bytes))) return false;
  unread_.push_back(piece->ticket);
  v1::Segment* segment = message_.mutable_staged()->add_segments();
  segment->set_layer(plane.layer);
  segment->set_kind(static_cast<v1::PlaneKind>(plane.kind));
  segment->set_block(block);
  segment->set_length(bytes);
  segment->set_plane_bytes(bytes);
  segment->set_staged_at(piece->offset);
  if (declared != nullptr) *segment->mutable_declared() = *declared;
  message_bytes_ += bytes;
  message_room_ += SlotRing::Rounded(bytes);
  const bool full = message_room_ >= ring_.told_when_written() ||
                    message_.staged().segments_size() == kMaxSegments;
  return !full || Flush();
}

bool StagedWriter::Flush() {
  if (message_bytes_ == 0) return true;
  const bool sent = send_(Serialize(message_));
  staged_bytes_ += message_bytes_;
  message_bytes_ = message_room_ = 0;
  message_.Clear();
  return sent;
}

}  // namespace kvstow::client
