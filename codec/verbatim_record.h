// Writes the record of a block that no codec touches where it is to lie, while the values arrive:
// where everything goes is known before any of it is there. The result is byte for byte what
// RecordBuilder makes of the same planes.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "codec/record.h"

namespace kvstow {

class VerbatimRecordWriter {
 public:
  // What such a record takes; 0 for a layout with a plane that is not IsVerbatim().
  static uint64_t RecordBytes(const PlaneLayout& layout);

  // `room`: RecordBytes() in order, in any pieces. Borrows it and the layout.
  VerbatimRecordWriter(const PlaneLayout& layout, const Fingerprint& fingerprint,
                       uint64_t first_position, std::vector<std::span<std::byte>> room);

  // The next values, of one plane; planes in the layout's order, each raw_bytes.
  enum class Source {
    kOwn,
    // May change meanwhile: each byte is read once, and the checksum is of what was written.
    kShared,
  };
  void Append(std::span<const std::byte> values, Source source);
  bool complete() const { return head_.complete(); }

  // As RecordBuilder's.
  const QualityReport& k_report() const { return head_.k_report(); }
  const QualityReport& v_report() const { return head_.v_report(); }
  size_t record_bytes() const { return head_.record_bytes(); }
  // REQUIRES complete(). What is still to be written, at the record's beginning: one piece.
  std::vector<std::span<const std::byte>> Finish() { return {head_.Finish()}; }

 private:
  void BeginPlane();
  void EndPlane();
  // Writes at the cursor. `crc32c` takes what was written.
  void Write(std::span<const std::byte> bytes, Source source, uint32_t* crc32c);
  void Skip(size_t bytes);

  const PlaneLayout& layout_;
  RecordHeadBuilder head_;
  const std::vector<std::span<std::byte>> room_;
  size_t piece_ = 0;       // the cursor
  size_t at_ = 0;          // in the piece
  size_t plane_ = 0;       // being written
  size_t received_ = 0;    // of its values
  size_t plane_size_ = 0;  // of its encoded form, so far
  uint32_t crc32c_ = 0;
};

}  // namespace kvstow
