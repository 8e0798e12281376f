// Writes the record of a block where it is to lie while its planes are being encoded, in any order:
// each goes to its place once those before it are there. Where there is no room, or too little, the
// rest is kept and given out at the end. The result is byte for byte what RecordBuilder makes.
//
// Thread-safe, but for what says otherwise: planes come from several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "codec/record.h"
#include "codec/scratch.h"

namespace kvstow {

class PlacedRecord {
 public:
  // Borrows the layout.
  PlacedRecord(const PlaneLayout& layout, const Fingerprint& fingerprint, uint64_t first_position);

  // Memory for the record, in order, in any pieces; lives until Finish()'s result is of no use any
  // more. At most once, before the first plane. Without it everything is kept.
  void SetRoom(std::vector<std::span<std::byte>> room) ABSL_LOCKS_EXCLUDED(mu_);

  // Each plane once; `index` as in layout.planes(). `bytes` are copied, or the vector is kept.
  void SetPlane(size_t index, std::span<const std::byte> bytes, const PlaneSummary& plane)
      ABSL_LOCKS_EXCLUDED(mu_);
  void SetPlane(size_t index, EncodedPlane plane, uint32_t crc32c) ABSL_LOCKS_EXCLUDED(mu_);

  // From here on not thread-safe: when all planes are set.
  bool complete() const ABSL_NO_THREAD_SAFETY_ANALYSIS { return head_.complete(); }
  const QualityReport& k_report() const ABSL_NO_THREAD_SAFETY_ANALYSIS { return head_.k_report(); }
  const QualityReport& v_report() const ABSL_NO_THREAD_SAFETY_ANALYSIS { return head_.v_report(); }
  size_t record_bytes() const ABSL_NO_THREAD_SAFETY_ANALYSIS { return head_.record_bytes(); }
  // What Finish() will have.
  size_t unwritten_bytes() const ABSL_NO_THREAD_SAFETY_ANALYSIS;
  // REQUIRES complete(). What is still to be written, from the record's beginning on: only the head
  // when the planes are in the room, else the whole record (parts of which may lie in the room).
  std::vector<std::span<const std::byte>> Finish() ABSL_NO_THREAD_SAFETY_ANALYSIS;

 private:
  bool all_placed() const ABSL_NO_THREAD_SAFETY_ANALYSIS { return next_ == kept_.size(); }
  bool Fits(size_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Place(std::span<const std::byte> bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Write(std::span<const std::byte> bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Planes that were kept until those before them came.
  void PlaceKept() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::span<std::byte> RoomAt(size_t offset) const ABSL_NO_THREAD_SAFETY_ANALYSIS;

  absl::Mutex mu_;
  RecordHeadBuilder head_ ABSL_GUARDED_BY(mu_);
  std::vector<std::span<std::byte>> room_ ABSL_GUARDED_BY(mu_);
  size_t room_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  size_t at_ ABSL_GUARDED_BY(mu_);        // where the next plane begins
  size_t next_ ABSL_GUARDED_BY(mu_) = 0;  // plane: those before it are in the room
  bool full_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<Scratch<std::byte>> kept_ ABSL_GUARDED_BY(mu_);  // by plane
};

}  // namespace kvstow
