// A record is an encoded block: header, quality, directory, planes. Self-describing, versioned,
// little-endian. docs/format.md is normative; golden files under codec/testdata hold it to that.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "codec/plane.h"
#include "codec/report.h"
#include "space/fingerprint.h"
#include "space/plane_layout.h"

namespace kvstow {

inline constexpr uint32_t kRecordMagic = 0x5253564b;  // "KVSR"
inline constexpr uint16_t kRecordVersion = 1;
inline constexpr size_t kRecordHeaderBytes = 128;
inline constexpr size_t kRecordQualityBytes = 64;
inline constexpr size_t kDirectoryEntryBytes = 16;

// What the record says of its own reconstruction error, one for key-like planes and one for V.
struct DeclaredQuality {
  float nmse = 0;
  float centred_nmse = 0;
  float worst_nmse = 0;
  float worst_centred_nmse = 0;
  float inner_product_bias = 0;
  uint32_t tiles_raw = 0;
  float rank_mean = 0;
  uint32_t rank_max = 0;
};
DeclaredQuality Declare(const QualityReport& report);

struct RecordHeader {
  uint64_t record_bytes = 0;
  uint64_t first_position = 0;  // of the block's first token
  uint64_t entries = 0;         // KV entries of the non-opaque planes
  uint64_t raw_bytes = 0;       // bytes of the decoded block
  uint32_t tokens = 0;
  uint32_t plane_count = 0;
  CodecSettings codec;  // as the space had them; max_relative_error rounded to float
  uint32_t shard_index = 0;
  Fingerprint fingerprint{};
  Digest artifact_id{};  // of a basis shared between records; zero for none
  DeclaredQuality k, v;
};

struct DirectoryEntry {
  uint16_t layer = 0;
  PlaneKind kind = PlaneKind::kK;
  DType dtype = DType::kFp16;
  uint16_t heads = 0;
  uint16_t dim = 0;
  uint32_t bytes = 0;
  uint32_t crc32c = 0;
  uint64_t offset = 0;  // from the record's start; not stored, follows from the sizes
};

// What a record says of one of its planes, wherever the plane's bytes lie.
struct PlaneSummary {
  uint32_t bytes = 0;
  uint32_t crc32c = 0;
  QualityReport report;
};

// Header, quality and directory of a record whose planes are elsewhere. Borrows the layout. Not
// thread-safe.
class RecordHeadBuilder {
 public:
  RecordHeadBuilder(const PlaneLayout& layout, const Fingerprint& fingerprint,
                    uint64_t first_position);

  // Planes in any order, each once; `index` as in layout.planes().
  void SetPlane(size_t index, const PlaneSummary& plane);
  bool complete() const { return missing_ == 0; }

  // Pooled over the planes set so far.
  const QualityReport& k_report() const { return k_; }
  const QualityReport& v_report() const { return v_; }

  // Head, planes set so far and their padding.
  size_t record_bytes() const { return record_bytes_; }
  // REQUIRES complete(). The bytes before the first plane; they live as long as the builder.
  std::span<const std::byte> Finish();

 private:
  const PlaneLayout& layout_;
  Fingerprint fingerprint_;
  uint64_t first_position_;
  size_t missing_;
  QualityReport k_, v_;
  std::vector<std::byte> head_;
  size_t record_bytes_;
};

// Collects planes in the layout's order. Not thread-safe.
class RecordBuilder {
 public:
  RecordBuilder(const PlaneLayout& layout, const Fingerprint& fingerprint, uint64_t first_position);

  // Planes in any order, each once; `index` as in layout.planes().
  void SetPlane(size_t index, EncodedPlane plane);
  // One whose checksum is known.
  void SetPlane(size_t index, EncodedPlane plane, uint32_t crc32c);
  bool complete() const { return head_.complete(); }

  // Pooled over the planes set so far.
  const QualityReport& k_report() const { return head_.k_report(); }
  const QualityReport& v_report() const { return head_.v_report(); }

  // REQUIRES complete(). Total size, and the pieces to write one after the other: the first holds
  // header, quality and directory, the others are the planes with their padding.
  size_t record_bytes() const { return head_.record_bytes(); }
  std::vector<std::span<const std::byte>> Finish();
  // The same in one piece.
  std::vector<std::byte> FinishContiguous();

 private:
  RecordHeadBuilder head_;
  std::vector<EncodedPlane> planes_;
};

// Header and directory of a record: what is needed to find and check its planes. Owns what it read.
class RecordIndex {
 public:
  // How many bytes Parse needs at least, for a record of this layout.
  static size_t BytesFor(const PlaneLayout& layout);
  static size_t BytesFor(size_t plane_count);

  // Reads header and directory with their checksums, out of a prefix of the record.
  // DATA_LOSS names what is wrong: magic, version, checksum, counts, sizes.
  static absl::StatusOr<RecordIndex> Parse(std::span<const std::byte> prefix);
  // And checks them against the space: FAILED_PRECONDITION for a foreign fingerprint or shard,
  // DATA_LOSS for a directory that does not fit the layout.
  static absl::StatusOr<RecordIndex> Parse(std::span<const std::byte> prefix,
                                           const PlaneLayout& layout,
                                           const Fingerprint& fingerprint);

  const RecordHeader& header() const { return header_; }
  const std::vector<DirectoryEntry>& planes() const { return planes_; }

 private:
  RecordHeader header_;
  std::vector<DirectoryEntry> planes_;
};

// DATA_LOSS when the plane's bytes fail their checksum.
absl::Status CheckPlane(const DirectoryEntry& entry, std::span<const std::byte> bytes);
// The same of a plane of entry.bytes whose checksum was computed.
absl::Status CheckPlaneSum(const DirectoryEntry& entry, uint32_t crc32c);

// Decodes a whole record into `out`, layout.raw_bytes() long, planes in the layout's order.
// DATA_LOSS / FAILED_PRECONDITION as above; `out` is unspecified then. Never trusts the bytes.
absl::Status DecodeRecord(Codec& codec, const PlaneLayout& layout, const Fingerprint& fingerprint,
                          std::span<const std::byte> record, std::span<std::byte> out);

}  // namespace kvstow
