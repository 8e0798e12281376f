#include "client/staged_writer.h"

#include <cstring>
#include <utility>

#include "client/serialize.h"
#include "space/streaming_copy.h"

namespace kvstow::client {
namespace {

constexpr int kMaxSegments = 1024;

}  // namespace

StagedWriter::StagedWriter(std::span<std::byte> slot, SlotReader reader, size_t max_chunk_bytes,
                           Send send, AwaitConsumed await)
    : slot_(slot),
      reader_(reader),
      send_(send),
      chunks_(max_chunk_bytes, std::move(send)),
      room_(slot.size(), std::move(await)),
      pace_(TellingPace::OnHost(slot.size())) {}

bool StagedWriter::Append(const PlaneSpec& plane, uint32_t block, std::span<const std::byte> bytes,
                          const v1::PlaneDeclaration* declared) {
  if (!room_.fits(bytes.size())) {
    return Flush() && chunks_.Append(plane, block, bytes, declared) && chunks_.Flush();
  }
  return Stage(plane, block, bytes.size(), declared, [&](std::span<std::byte> to) {
    if (reader_ == SlotReader::kEncodes && declared == nullptr) {
      StreamingCopy(to.data(), bytes.data(), bytes.size());
    } else {
      std::memcpy(to.data(), bytes.data(), bytes.size());
    }
    return true;
  });
}

bool StagedWriter::Fill(const PlaneSpec& plane, uint32_t block, FillPlane fill) {
  const size_t bytes = plane.raw_bytes;
  if (!room_.fits(bytes)) {
    return Flush() && chunks_.Fill(plane, block, fill) && chunks_.Flush();
  }
  return Stage(plane, block, bytes, nullptr, fill);
}

bool StagedWriter::Stage(const PlaneSpec& plane, uint32_t block, size_t bytes,
                         const v1::PlaneDeclaration* declared, FillPlane fill) {
  const auto offset = room_.Take(bytes, [this] { return Flush(); });
  if (!offset || !fill(slot_.subspan(*offset, bytes))) return false;
  v1::Segment* segment = AddSegment(plane, block, bytes, *offset, message_.mutable_staged());
  if (declared != nullptr) *segment->mutable_declared() = *declared;
  message_bytes_ += bytes;
  message_room_ += SlotRing::Rounded(bytes);
  const bool full =
      pace_.worth_telling(message_room_) || message_.staged().segments_size() == kMaxSegments;
  return !full || Flush();
}

bool StagedWriter::Flush() {
  if (message_bytes_ == 0) return true;
  const bool sent = send_(Serialize(message_));
  staged_bytes_ += message_bytes_;
  message_bytes_ = message_room_ = 0;
  pace_.Told();
  message_.Clear();
  return sent;
}

}  // namespace kvstow::client
