#include "codec/plane.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvstow {
namespace {

absl::Status Broken(const PlaneSpec& plane, absl::string_view what) {
  return absl::DataLossError(
      absl::StrCat("plane of layer ", plane.layer, " (", Name(plane.kind), "): ", what));
}

// Bytes of the last part up to the alignment.
bool PaddingIsZero(const TileShape& shape, const TileHead& head, std::span<const std::byte> body) {
  size_t end = shape.bytes();
  if (head.mode == TileMode::kCoded) {
    end = LayoutOf(shape, head).means + (head.has_means ? 2 * size_t{shape.dim} : 0);
  }
  for (std::byte b : body.subspan(end)) {
    if (b != std::byte{0}) return false;
  }
  return true;
}

absl::Status CheckHead(const PlaneSpec& plane, const TileHead& head) {
  if (head.mode != TileMode::kCoded) return absl::OkStatus();
  if (!IsSupportedDim(plane.dim) || !IsSupportedBlockTokens(plane.tokens)) {
    return Broken(plane, "coded tile of a shape that is only kept raw");
  }
  if (head.rotary_undone && plane.rotary == nullptr) {
    return Broken(plane, "rotary undone, but the space declares no rotary embedding here");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PlaneView> PlaneView::Parse(std::span<const std::byte> bytes,
                                           const PlaneSpec& plane) {
  PlaneView view;
  view.spec_ = &plane;
  if (plane.is_opaque()) {
    if (bytes.size() != plane.raw_bytes) return Broken(plane, "wrong size of opaque bytes");
    return view;
  }
  const size_t table_bytes = TileTableBytes(plane);
  if (bytes.size() < table_bytes) return Broken(plane, "shorter than its tile table");
  for (size_t i = kTileHeadBytes * plane.heads; i < table_bytes; ++i) {
    if (bytes[i] != std::byte{0}) return Broken(plane, "padding of the tile table is not zero");
  }
  const TileShape shape = ShapeOf(plane);
  size_t at = table_bytes;
  view.tiles_.reserve(plane.heads);
  for (size_t i = 0; i < plane.heads; ++i) {
    TileHead head;
    if (auto s = UnpackTileHead(bytes.data() + i * kTileHeadBytes, &head); !s.ok()) {
      return Broken(plane, s.message());
    }
    if (auto s = CheckHead(plane, head); !s.ok()) return s;
    const size_t body_bytes = TileBodyBytes(shape, head);
    if (body_bytes > bytes.size() - at) return Broken(plane, "tiles run past its end");
    const auto body = bytes.subspan(at, body_bytes);
    if (!PaddingIsZero(shape, head, body)) return Broken(plane, "padding of a tile is not zero");
    view.tiles_.push_back({head, body});
    at += body_bytes;
  }
  if (at != bytes.size()) return Broken(plane, "bytes left after its tiles");
  return view;
}

bool IsVerbatim(const PlaneSpec& plane, const CodecSettings& settings) {
  return plane.is_opaque() || settings.codec == CodecId::kRaw;
}

size_t VerbatimOffset(const PlaneSpec& plane) {
  return plane.is_opaque() ? 0 : TileTableBytes(plane);
}

std::vector<std::byte> VerbatimTable(const PlaneSpec& plane) {
  std::vector<std::byte> table(VerbatimOffset(plane));
  if (plane.is_opaque()) return table;
  for (size_t i = 0; i < plane.heads; ++i) {
    PackTileHead(TileHead{}, table.data() + i * kTileHeadBytes);
  }
  return table;
}

bool HoldsVerbatim(const PlaneSpec& plane, const CodecSettings& settings,
                   std::span<const std::byte> bytes) {
  if (!IsVerbatim(plane, settings) || bytes.size() != VerbatimOffset(plane) + plane.raw_bytes) {
    return false;
  }
  return std::ranges::equal(VerbatimTable(plane), bytes.first(VerbatimOffset(plane)));
}

QualityReport VerbatimReport(const PlaneSpec& plane) {
  QualityReport report;
  if (plane.is_opaque()) return report;
  for (size_t i = 0; i < plane.heads; ++i) report.Add(TileReport{});
  report.entries = plane.entries();
  report.bytes = VerbatimOffset(plane) + plane.raw_bytes;
  return report;
}

QualityReport FinishVerbatim(const PlaneSpec& plane, std::span<std::byte> bytes) {
  std::ranges::copy(VerbatimTable(plane), bytes.begin());
  return VerbatimReport(plane);
}

PlaneEncodeJobs MakeEncodeJobs(const PlaneSpec& plane, const CodecSettings& settings,
                               const RotaryTable* rotary, std::span<const std::byte> values,
                               uint32_t owner) {
  PlaneEncodeJobs out;
  const TileShape shape = ShapeOf(plane);
  const size_t body_bytes = MaxTileBodyBytes(shape);
  out.scratch.resize(plane.heads * body_bytes);
  out.jobs.resize(plane.heads);
  for (size_t i = 0; i < plane.heads; ++i) {
    TileEncodeJob& job = out.jobs[i];
    job.shape = shape;
    job.values = values.data() + i * shape.bytes();
    job.row_stride = shape.dim * SizeOf(shape.dtype);
    job.rotary = plane.rotary != nullptr && settings.undo_rotary ? rotary : nullptr;
    job.options = EncodeOptionsFor(settings, plane);
    job.owner = owner;
    job.body = out.scratch.data() + i * body_bytes;
  }
  return out;
}

EncodedPlane AssemblePlane(const PlaneSpec& plane, const PlaneEncodeJobs& jobs) {
  EncodedPlane out;
  size_t total = TileTableBytes(plane);
  for (const TileEncodeJob& job : jobs.jobs) total += TileBodyBytes(job.shape, job.head);
  out.bytes.resize(total);
  size_t at = TileTableBytes(plane);
  for (size_t i = 0; i < jobs.jobs.size(); ++i) {
    const TileEncodeJob& job = jobs.jobs[i];
    PackTileHead(job.head, out.bytes.data() + i * kTileHeadBytes);
    const size_t body_bytes = TileBodyBytes(job.shape, job.head);
    std::memcpy(out.bytes.data() + at, job.body, body_bytes);
    at += body_bytes;
    out.report.Add(job.report);
  }
  out.report.entries = plane.entries();
  out.report.bytes = total;
  return out;
}

std::vector<TileDecodeJob> MakeDecodeJobs(const PlaneView& view, const RotaryTable* rotary,
                                          std::span<std::byte> out, uint32_t owner) {
  const TileShape shape = ShapeOf(view.spec());
  std::vector<TileDecodeJob> jobs(view.tiles());
  for (size_t i = 0; i < jobs.size(); ++i) {
    jobs[i].shape = shape;
    jobs[i].head = view.head(i);
    jobs[i].body = view.body(i).data();
    jobs[i].rotary = rotary;
    jobs[i].owner = owner;
    jobs[i].values = out.data() + i * shape.bytes();
    jobs[i].row_stride = shape.dim * SizeOf(shape.dtype);
  }
  return jobs;
}

absl::StatusOr<EncodedPlane> EncodePlane(Codec& codec, const PlaneSpec& plane,
                                         const CodecSettings& settings, const RotaryTable* rotary,
                                         std::span<const std::byte> values) {
  if (values.size() != plane.raw_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("plane has ", values.size(), " bytes; it must have ", plane.raw_bytes));
  }
  if (plane.is_opaque()) {
    EncodedPlane out;
    out.bytes.assign(values.begin(), values.end());
    return out;
  }
  if (plane.rotary != nullptr && settings.undo_rotary && rotary == nullptr) {
    return absl::InvalidArgumentError("the plane's rotary embedding needs a rotary table");
  }
  PlaneEncodeJobs jobs = MakeEncodeJobs(plane, settings, rotary, values);
  if (auto s = codec.Encode(std::span(jobs.jobs)); !s.ok()) return s;
  return AssemblePlane(plane, jobs);
}

absl::Status DecodePlane(Codec& codec, const PlaneSpec& plane, const RotaryTable* rotary,
                         std::span<const std::byte> bytes, std::span<std::byte> out,
                         uint32_t owner) {
  if (out.size() != plane.raw_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("room for ", out.size(), " bytes; the plane has ", plane.raw_bytes));
  }
  auto view = PlaneView::Parse(bytes, plane);
  if (!view.ok()) return view.status();
  if (plane.is_opaque()) {
    if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return absl::OkStatus();
  }
  return codec.Decode(MakeDecodeJobs(*view, rotary, out, owner));
}

}  // namespace kvstow
