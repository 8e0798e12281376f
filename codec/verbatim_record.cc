#include "codec/verbatim_record.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "codec/crc32c.h"
#include "space/streaming_copy.h"

namespace kvstow {
namespace {

// Copied and summed at a time: what was just read or written is still in the nearest cache.
constexpr size_t kCopyBytes = 8 << 10;

size_t PaddingOf(size_t plane_bytes) {
  return (kTileAlignment - plane_bytes % kTileAlignment) % kTileAlignment;
}

}  // namespace

uint64_t VerbatimRecordWriter::RecordBytes(const PlaneLayout& layout) {
  uint64_t bytes = RecordIndex::BytesFor(layout);
  for (const PlaneSpec& plane : layout.planes()) {
    if (!IsVerbatim(plane, layout.spec().codec)) return 0;
    const size_t plane_bytes = VerbatimOffset(plane) + plane.raw_bytes;
    bytes += plane_bytes + PaddingOf(plane_bytes);
  }
  return bytes;
}

VerbatimRecordWriter::VerbatimRecordWriter(const PlaneLayout& layout,
                                           const Fingerprint& fingerprint, uint64_t first_position,
                                           std::vector<std::span<std::byte>> room)
    : layout_(layout), head_(layout, fingerprint, first_position), room_(std::move(room)) {
  Skip(head_.record_bytes());
}

void VerbatimRecordWriter::Append(std::span<const std::byte> values, Source source) {
  if (received_ == 0) BeginPlane();
  Write(values, source, &crc32c_);
  received_ += values.size();
  plane_size_ += values.size();
  if (received_ == layout_.planes()[plane_].raw_bytes) EndPlane();
}

void VerbatimRecordWriter::BeginPlane() {
  const std::vector<std::byte> table = VerbatimTable(layout_.planes()[plane_]);
  crc32c_ = 0;
  Write(table, Source::kOwn, &crc32c_);
  plane_size_ = table.size();
}

void VerbatimRecordWriter::EndPlane() {
  static constexpr std::byte kZeros[kTileAlignment] = {};
  uint32_t unused = 0;  // no checksum covers padding
  Write(std::span(kZeros).first(PaddingOf(plane_size_)), Source::kOwn, &unused);
  head_.SetPlane(plane_, {static_cast<uint32_t>(plane_size_), crc32c_,
                          VerbatimReport(layout_.planes()[plane_])});
  ++plane_;
  received_ = 0;
}

void VerbatimRecordWriter::Write(std::span<const std::byte> bytes, Source source,
                                 uint32_t* crc32c) {
  while (!bytes.empty()) {
    const size_t n = std::min({bytes.size(), room_[piece_].size() - at_, kCopyBytes});
    const std::span<std::byte> to = room_[piece_].subspan(at_, n);
    if (source == Source::kOwn) {
      *crc32c = ExtendCrc32c(*crc32c, bytes.first(n));
      StreamingCopy(to.data(), bytes.data(), n);
    } else {
      std::memcpy(to.data(), bytes.data(), n);
      *crc32c = ExtendCrc32c(*crc32c, to);
    }
    bytes = bytes.subspan(n);
    Skip(n);
  }
}

void VerbatimRecordWriter::Skip(size_t bytes) {
  at_ += bytes;
  while (piece_ < room_.size() && at_ >= room_[piece_].size()) at_ -= room_[piece_++].size();
}

}  // namespace kvstow
