#include "codec/record.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "codec/crc32c.h"
#include "codec/little_endian.h"
#include "codec/space_rotary.h"

namespace kvstow {
namespace {

constexpr size_t kFixedBytes = kRecordHeaderBytes + kRecordQualityBytes;
constexpr size_t kHeaderCrcAt = 60;
constexpr size_t kMaxPlanes = size_t{2} * kMaxLayers;
constexpr uint8_t kTruncateFlag = 1;
constexpr uint8_t kOpenLoopFlag = 2;
constexpr uint8_t kUndoRotaryFlag = 4;

void PackQuality(const DeclaredQuality& q, std::byte* out) {
  StoreLe(q.nmse, out);
  StoreLe(q.centred_nmse, out + 4);
  StoreLe(q.worst_nmse, out + 8);
  StoreLe(q.worst_centred_nmse, out + 12);
  StoreLe(q.inner_product_bias, out + 16);
  StoreLe(q.tiles_raw, out + 20);
  StoreLe(q.rank_mean, out + 24);
  StoreLe(q.rank_max, out + 28);
}

DeclaredQuality UnpackQuality(const std::byte* in) {
  DeclaredQuality q;
  q.nmse = LoadLe<float>(in);
  q.centred_nmse = LoadLe<float>(in + 4);
  q.worst_nmse = LoadLe<float>(in + 8);
  q.worst_centred_nmse = LoadLe<float>(in + 12);
  q.inner_product_bias = LoadLe<float>(in + 16);
  q.tiles_raw = LoadLe<uint32_t>(in + 20);
  q.rank_mean = LoadLe<float>(in + 24);
  q.rank_max = LoadLe<uint32_t>(in + 28);
  return q;
}

uint8_t FlagsOf(const CodecSettings& codec) {
  return static_cast<uint8_t>((codec.shrinker == Shrinker::kTruncate ? kTruncateFlag : 0) |
                              (codec.closed_loop ? 0 : kOpenLoopFlag) |
                              (codec.undo_rotary ? kUndoRotaryFlag : 0));
}

void PackHeader(const RecordHeader& h, std::byte* out) {
  StoreLe(kRecordMagic, out);
  StoreLe(kRecordVersion, out + 4);
  StoreLe(static_cast<uint16_t>(kFixedBytes), out + 6);
  StoreLe(h.record_bytes, out + 8);
  StoreLe(h.first_position, out + 16);
  StoreLe(h.entries, out + 24);
  StoreLe(h.raw_bytes, out + 32);
  StoreLe(h.tokens, out + 40);
  StoreLe(h.plane_count, out + 44);
  StoreLe(static_cast<uint8_t>(h.codec.codec), out + 48);
  StoreLe(static_cast<uint8_t>(h.codec.k_bits), out + 49);
  StoreLe(static_cast<uint8_t>(h.codec.v_bits), out + 50);
  StoreLe(FlagsOf(h.codec), out + 51);
  StoreLe(h.shard_index, out + 52);
  StoreLe(static_cast<float>(h.codec.max_relative_error), out + 56);
  StoreLe(h.fingerprint, out + 64);
  StoreLe(h.artifact_id, out + 96);
  PackQuality(h.k, out + kRecordHeaderBytes);
  PackQuality(h.v, out + kRecordHeaderBytes + kRecordQualityBytes / 2);
}

absl::Status UnpackCodec(const std::byte* in, CodecSettings* codec) {
  const auto id = LoadLe<uint8_t>(in + 48);
  const auto flags = LoadLe<uint8_t>(in + 51);
  codec->k_bits = LoadLe<uint8_t>(in + 49);
  codec->v_bits = LoadLe<uint8_t>(in + 50);
  codec->max_relative_error = LoadLe<float>(in + 56);
  if (id > static_cast<uint8_t>(CodecId::kEOptShrinkQ)) {
    return absl::DataLossError(absl::StrCat("record header: codec ", id, " is unknown"));
  }
  if (codec->k_bits < 1 || codec->k_bits > 4 || codec->v_bits < 1 || codec->v_bits > 4) {
    return absl::DataLossError("record header: bits not in 1..4");
  }
  if (flags > (kTruncateFlag | kOpenLoopFlag | kUndoRotaryFlag)) {
    return absl::DataLossError("record header: reserved flags are set");
  }
  if (!std::isfinite(codec->max_relative_error) || codec->max_relative_error < 0) {
    return absl::DataLossError("record header: error bound is not a finite, non-negative number");
  }
  codec->codec = static_cast<CodecId>(id);
  codec->shrinker = (flags & kTruncateFlag) != 0 ? Shrinker::kTruncate : Shrinker::kOptimal;
  codec->closed_loop = (flags & kOpenLoopFlag) == 0;
  codec->undo_rotary = (flags & kUndoRotaryFlag) != 0;
  return absl::OkStatus();
}

// What can be said before the checksum is known to hold: enough to find the directory.
absl::Status CheckFrame(std::span<const std::byte> prefix) {
  if (prefix.size() < kFixedBytes) {
    return absl::DataLossError(absl::StrCat("record of ", prefix.size(), " bytes has no header"));
  }
  if (LoadLe<uint32_t>(prefix.data()) != kRecordMagic) {
    return absl::DataLossError("record header: wrong magic");
  }
  const auto version = LoadLe<uint16_t>(prefix.data() + 4);
  if (version != kRecordVersion) {
    return absl::DataLossError(absl::StrCat("record header: version ", version,
                                            "; this reader knows version ", kRecordVersion));
  }
  if (LoadLe<uint16_t>(prefix.data() + 6) != kFixedBytes) {
    return absl::DataLossError("record header: wrong header size");
  }
  const auto planes = LoadLe<uint32_t>(prefix.data() + 44);
  if (planes == 0 || planes > kMaxPlanes) {
    return absl::DataLossError(absl::StrCat("record header: ", planes, " planes"));
  }
  if (prefix.size() < RecordIndex::BytesFor(planes)) {
    return absl::DataLossError("record ends within its directory");
  }
  return absl::OkStatus();
}

absl::Status CheckHeaderCrc(std::span<const std::byte> head) {
  constexpr std::byte kZero[4] = {};
  uint32_t crc = Crc32c(head.first(kHeaderCrcAt));
  crc = ExtendCrc32c(crc, kZero);
  crc = ExtendCrc32c(crc, head.subspan(kHeaderCrcAt + 4));
  if (crc != LoadLe<uint32_t>(head.data() + kHeaderCrcAt)) {
    return absl::DataLossError("record header: checksum mismatch");
  }
  return absl::OkStatus();
}

absl::Status UnpackHeader(const std::byte* in, RecordHeader* h) {
  h->record_bytes = LoadLe<uint64_t>(in + 8);
  h->first_position = LoadLe<uint64_t>(in + 16);
  h->entries = LoadLe<uint64_t>(in + 24);
  h->raw_bytes = LoadLe<uint64_t>(in + 32);
  h->tokens = LoadLe<uint32_t>(in + 40);
  h->plane_count = LoadLe<uint32_t>(in + 44);
  if (auto s = UnpackCodec(in, &h->codec); !s.ok()) return s;
  h->shard_index = LoadLe<uint32_t>(in + 52);
  h->fingerprint = LoadLe<Fingerprint>(in + 64);
  h->artifact_id = LoadLe<Digest>(in + 96);
  if (h->artifact_id != Digest{}) {
    return absl::DataLossError("record header: version 1 has no shared artifact");
  }
  h->k = UnpackQuality(in + kRecordHeaderBytes);
  h->v = UnpackQuality(in + kRecordHeaderBytes + kRecordQualityBytes / 2);
  return absl::OkStatus();
}

void PackEntry(const DirectoryEntry& e, std::byte* out) {
  StoreLe(e.layer, out);
  StoreLe(static_cast<uint8_t>(e.kind), out + 2);
  StoreLe(static_cast<uint8_t>(e.dtype), out + 3);
  StoreLe(e.heads, out + 4);
  StoreLe(e.dim, out + 6);
  StoreLe(e.bytes, out + 8);
  StoreLe(e.crc32c, out + 12);
}

// False when there is no such plane. Not a Status: a Get reads thousands of entries first.
bool UnpackEntry(const std::byte* in, DirectoryEntry* e) {
  e->layer = LoadLe<uint16_t>(in);
  e->kind = static_cast<PlaneKind>(LoadLe<uint8_t>(in + 2));
  e->dtype = static_cast<DType>(LoadLe<uint8_t>(in + 3));
  e->heads = LoadLe<uint16_t>(in + 4);
  e->dim = LoadLe<uint16_t>(in + 6);
  e->bytes = LoadLe<uint32_t>(in + 8);
  e->crc32c = LoadLe<uint32_t>(in + 12);
  return e->kind <= PlaneKind::kOpaque && IsValid(e->dtype);
}

DirectoryEntry EntryOf(const PlaneSpec& plane) {
  DirectoryEntry e;
  e.layer = static_cast<uint16_t>(plane.layer);
  e.kind = plane.kind;
  e.dtype = plane.dtype;
  e.heads = static_cast<uint16_t>(plane.heads);
  e.dim = static_cast<uint16_t>(plane.dim);
  return e;
}

bool Describes(const DirectoryEntry& e, const PlaneSpec& plane) {
  return e.layer == static_cast<uint16_t>(plane.layer) && e.kind == plane.kind &&
         e.dtype == plane.dtype && e.heads == static_cast<uint16_t>(plane.heads) &&
         e.dim == static_cast<uint16_t>(plane.dim) && e.bytes <= MaxPlaneBytes(plane);
}

absl::Status Mismatch(const DirectoryEntry& entry) {
  return absl::DataLossError(
      absl::StrCat("plane of layer ", entry.layer, " (", Name(entry.kind), "): checksum mismatch"));
}

absl::Status CheckLayout(const RecordHeader& header, std::span<const DirectoryEntry> planes,
                         const PlaneLayout& layout) {
  if (header.plane_count != layout.planes().size() || header.tokens != layout.spec().block_tokens ||
      header.entries != layout.entries() || header.raw_bytes != layout.raw_bytes()) {
    return absl::DataLossError("record header: sizes are not those of the space");
  }
  for (size_t i = 0; i < planes.size(); ++i) {
    if (!Describes(planes[i], layout.planes()[i])) {
      return absl::DataLossError(
          absl::StrCat("record directory: plane ", i, " is not that of the space"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

DeclaredQuality Declare(const QualityReport& report) {
  DeclaredQuality q;
  q.nmse = static_cast<float>(report.sums.nmse());
  q.centred_nmse = static_cast<float>(report.sums.centred_nmse());
  q.worst_nmse = static_cast<float>(report.worst_nmse);
  q.worst_centred_nmse = static_cast<float>(report.worst_centred_nmse);
  q.inner_product_bias = static_cast<float>(report.sums.inner_product_bias());
  q.tiles_raw = static_cast<uint32_t>(report.tiles_raw);
  q.rank_mean = static_cast<float>(report.rank_mean());
  q.rank_max = report.rank_max;
  return q;
}

RecordHeadBuilder::RecordHeadBuilder(const PlaneLayout& layout, const Fingerprint& fingerprint,
                                     uint64_t first_position)
    : layout_(layout),
      fingerprint_(fingerprint),
      first_position_(first_position),
      missing_(layout.planes().size()),
      head_(RecordIndex::BytesFor(layout)),
      record_bytes_(head_.size()) {}

void RecordHeadBuilder::SetPlane(size_t index, const PlaneSummary& plane) {
  const PlaneSpec& spec = layout_.planes()[index];
  --missing_;
  if (!spec.is_opaque()) (spec.is_key_like() ? k_ : v_).Merge(plane.report);
  DirectoryEntry entry = EntryOf(spec);
  entry.bytes = plane.bytes;
  entry.crc32c = plane.crc32c;
  PackEntry(entry, head_.data() + kFixedBytes + index * kDirectoryEntryBytes);
  record_bytes_ += RoundUpToTile(plane.bytes);
}

std::span<const std::byte> RecordHeadBuilder::Finish() {
  RecordHeader header;
  header.record_bytes = record_bytes_;
  header.first_position = first_position_;
  header.entries = layout_.entries();
  header.raw_bytes = layout_.raw_bytes();
  header.tokens = layout_.spec().block_tokens;
  header.plane_count = static_cast<uint32_t>(layout_.planes().size());
  header.codec = layout_.spec().codec;
  header.shard_index = layout_.shard().index;
  header.fingerprint = fingerprint_;
  header.k = Declare(k_);
  header.v = Declare(v_);
  PackHeader(header, head_.data());
  StoreLe(uint32_t{0}, head_.data() + kHeaderCrcAt);
  StoreLe(Crc32c(head_), head_.data() + kHeaderCrcAt);
  return head_;
}

RecordBuilder::RecordBuilder(const PlaneLayout& layout, const Fingerprint& fingerprint,
                             uint64_t first_position)
    : head_(layout, fingerprint, first_position), planes_(layout.planes().size()) {}

void RecordBuilder::SetPlane(size_t index, EncodedPlane plane) {
  const uint32_t crc32c = Crc32c(plane.bytes);
  SetPlane(index, std::move(plane), crc32c);
}

void RecordBuilder::SetPlane(size_t index, EncodedPlane plane, uint32_t crc32c) {
  head_.SetPlane(index, {static_cast<uint32_t>(plane.bytes.size()), crc32c, plane.report});
  plane.bytes.resize(RoundUpToTile(plane.bytes.size()));
  planes_[index] = std::move(plane);
}

std::vector<std::span<const std::byte>> RecordBuilder::Finish() {
  std::vector<std::span<const std::byte>> pieces = {head_.Finish()};
  for (const EncodedPlane& plane : planes_) pieces.push_back(plane.bytes);
  return pieces;
}

std::vector<std::byte> RecordBuilder::FinishContiguous() {
  std::vector<std::byte> record;
  record.reserve(record_bytes());
  for (std::span<const std::byte> piece : Finish()) {
    record.insert(record.end(), piece.begin(), piece.end());
  }
  return record;
}

size_t RecordIndex::BytesFor(const PlaneLayout& layout) { return BytesFor(layout.planes().size()); }

size_t RecordIndex::BytesFor(size_t plane_count) {
  return kFixedBytes + plane_count * kDirectoryEntryBytes;
}

absl::StatusOr<RecordIndex> RecordIndex::Parse(std::span<const std::byte> prefix) {
  if (auto s = CheckFrame(prefix); !s.ok()) return s;
  RecordIndex index;
  const auto plane_count = LoadLe<uint32_t>(prefix.data() + 44);
  const auto head = prefix.first(BytesFor(plane_count));
  if (auto s = CheckHeaderCrc(head); !s.ok()) return s;
  if (auto s = UnpackHeader(head.data(), &index.header_); !s.ok()) return s;
  index.planes_.resize(plane_count);
  uint64_t at = head.size();
  for (size_t i = 0; i < plane_count; ++i) {
    DirectoryEntry& entry = index.planes_[i];
    if (!UnpackEntry(head.data() + kFixedBytes + i * kDirectoryEntryBytes, &entry)) {
      return absl::DataLossError("record directory: unknown kind or dtype");
    }
    entry.offset = at;
    at = RoundUpToTile(at + entry.bytes);
  }
  if (at != index.header_.record_bytes) {
    return absl::DataLossError("record header: size is not that of its planes");
  }
  return index;
}

absl::StatusOr<RecordIndex> RecordIndex::Parse(std::span<const std::byte> prefix,
                                               const PlaneLayout& layout,
                                               const Fingerprint& fingerprint) {
  auto index = Parse(prefix);
  if (!index.ok()) return index;
  if (index->header_.fingerprint != fingerprint) {
    return absl::FailedPreconditionError("record belongs to another space");
  }
  if (index->header_.shard_index != layout.shard().index) {
    return absl::FailedPreconditionError(absl::StrCat(
        "record of shard ", index->header_.shard_index, "; expected shard ", layout.shard().index));
  }
  if (auto s = CheckLayout(index->header_, index->planes_, layout); !s.ok()) return s;
  return index;
}

absl::Status CheckPlane(const DirectoryEntry& entry, std::span<const std::byte> bytes) {
  return bytes.size() == entry.bytes ? CheckPlaneSum(entry, Crc32c(bytes)) : Mismatch(entry);
}

absl::Status CheckPlaneSum(const DirectoryEntry& entry, uint32_t crc32c) {
  return crc32c == entry.crc32c ? absl::OkStatus() : Mismatch(entry);
}

absl::Status DecodeRecord(Codec& codec, const PlaneLayout& layout, const Fingerprint& fingerprint,
                          std::span<const std::byte> record, std::span<std::byte> out) {
  auto index = RecordIndex::Parse(record, layout, fingerprint);
  if (!index.ok()) return index.status();
  if (record.size() != index->header().record_bytes) {
    return absl::DataLossError("record is shorter or longer than its header says");
  }
  if (out.size() != layout.raw_bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("room for ", out.size(), " bytes; the block has ", layout.raw_bytes()));
  }
  const SpaceRotary space_rotary(layout);
  const BlockRotary rotary = space_rotary.At(index->header().first_position);
  size_t at = 0;
  for (size_t i = 0; i < layout.planes().size(); ++i) {
    const PlaneSpec& plane = layout.planes()[i];
    const DirectoryEntry& entry = index->planes()[i];
    const auto bytes = record.subspan(entry.offset, entry.bytes);
    if (auto s = CheckPlane(entry, bytes); !s.ok()) return s;
    for (size_t p = entry.offset + entry.bytes; p < RoundUpToTile(entry.offset + entry.bytes);
         ++p) {
      if (record[p] != std::byte{0}) return absl::DataLossError("padding of a plane is not zero");
    }
    auto s = DecodePlane(codec, plane, rotary.of_plane(i), bytes, out.subspan(at, plane.raw_bytes));
    if (!s.ok()) return s;
    at += plane.raw_bytes;
  }
  return absl::OkStatus();
}

}  // namespace kvstow
