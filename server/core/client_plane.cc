#include "server/core/client_plane.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "codec/crc32c.h"
#include "codec/little_endian.h"
#include "codec/plane.h"
#include "codec/scratch.h"

namespace kvstow {
namespace {

using Finding = std::optional<PlaneFinding>;

// Encoders sum in float, in an order of their own.
constexpr double kSlack = 1e-3;
// Of a bound that is met exactly.
constexpr double kBoundSlack = 1e-6;

double LargestOf(DType dtype) {
  return dtype == DType::kFp16 ? 65504.0 : std::numeric_limits<float>::max();
}

std::string OfTile(size_t tile, absl::string_view what) {
  return absl::StrCat("tile ", tile, ": ", what);
}

// ---- Settings ----

Finding FindFaultInHead(const ClientPlane& plane, size_t tile, const TileHead& head) {
  const CodecSettings& settings = *plane.settings;
  const auto fault = [&](absl::string_view what) {
    return PlaneFinding{PlaneFault::kSettings, OfTile(tile, what)};
  };
  if (head.mode == TileMode::kRaw) return std::nullopt;
  if (settings.codec == CodecId::kRaw) return fault("coded, in a space with codec raw");
  const TileEncodeOptions options = EncodeOptionsFor(settings, *plane.spec);
  // With a bound of error encoders add bits until it is met.
  const uint32_t most = options.max_relative_error > 0 ? 4 : options.bits;
  if (head.bits < options.bits || head.bits > most) {
    return fault(
        absl::StrCat(head.bits, " bits; the space's settings allow ", options.bits, " to ", most));
  }
  if (options.codec == CodecId::kTurboQuant && (head.rank > 0 || head.has_means)) {
    return fault("low-rank part or means, in a space with codec turboquant");
  }
  const bool undo_rotary = plane.spec->rotary != nullptr && settings.undo_rotary;
  if (head.rotary_undone != undo_rotary) {
    return fault(undo_rotary ? "rotary embedding not undone, and the space's settings undo it"
                             : "rotary embedding undone, and the space's settings keep it");
  }
  return std::nullopt;
}

// ---- Declared sums ----

// What the sums say of the decoded tile: |x^|^2 = |x^ - x|^2 + 2 <x^, x> - |x|^2.
double DecodedEnergy(const ErrorSums& s) { return s.error + 2 * s.inner_product - s.energy; }
// What it may be off by.
double SlackOf(const ErrorSums& s) { return kSlack * (s.energy + s.error); }

bool ArePossible(const ErrorSums& s, double largest_energy) {
  for (double x : {s.energy, s.error, s.centred_energy, s.centred_error}) {
    if (!std::isfinite(x) || x < 0) return false;
  }
  // Twice the largest values of either sign is what an error can be.
  if (!std::isfinite(s.inner_product) || s.energy > largest_energy ||
      s.error > 4 * largest_energy) {
    return false;
  }
  const double slack = SlackOf(s);
  // Taking means off makes nothing larger.
  if (s.centred_energy > s.energy + slack || s.centred_error > s.error + slack) return false;
  if (s.energy == 0 && s.error > 0) return false;
  // Cauchy and Schwarz.
  const double decoded = DecodedEnergy(s);
  return decoded >= -slack && s.inner_product * s.inner_product <=
                                  s.energy * std::max(decoded, 0.0) + slack * slack / kSlack;
}

Finding FindFaultInSums(const ClientPlane& plane, size_t tile, const TileHead& head) {
  const ErrorSums& s = plane.declared->tiles[tile];
  const double largest = LargestOf(plane.spec->dtype);
  const size_t entries = plane.spec->tile_bytes() / SizeOf(plane.spec->dtype);
  const auto describe = [&](absl::string_view what) {
    return OfTile(tile, absl::StrFormat(
                            "%s: energy %g, error %g, centred %g and %g, inner product %g", what,
                            s.energy, s.error, s.centred_energy, s.centred_error, s.inner_product));
  };
  if (!ArePossible(s, static_cast<double>(entries) * largest * largest * (1 + kSlack))) {
    return PlaneFinding{PlaneFault::kDeclaration, describe("sums that no tile can have")};
  }
  if (head.mode == TileMode::kRaw) {
    if (s.error == 0 && s.centred_error == 0 &&
        std::abs(s.inner_product - s.energy) <= SlackOf(s)) {
      return std::nullopt;
    }
    return PlaneFinding{PlaneFault::kDeclaration, describe("an error of a tile that is kept raw")};
  }
  const double bound = plane.settings->max_relative_error;
  const double error = plane.spec->is_key_like() ? s.centred_nmse() : s.nmse();
  if (bound == 0 || error <= bound * (1 + kBoundSlack)) return std::nullopt;
  return PlaneFinding{PlaneFault::kBound,
                      OfTile(tile, absl::StrFormat("a relative error of %g; the space allows %g. "
                                                   "Code it with more bits, or keep it raw",
                                                   error, bound))};
}

// ---- A tile decoded ----

// Not finite where a value is not. `load` reads the i-th value. Several sums, so that none waits
// for the one before it.
template <typename Load>
double SumOfSquares(size_t count, Load load) {
  constexpr size_t kSums = 8;  // dims are multiples of it
  double sums[kSums] = {};
  for (size_t at = 0; at + kSums <= count; at += kSums) {
    for (size_t i = 0; i < kSums; ++i) {
      const double x = load(at + i);
      sums[i] += x * x;
    }
  }
  double sum = 0;
  for (double s : sums) sum += s;
  return sum;
}

double EnergyOf(std::span<const std::byte> values, DType dtype) {
  const std::byte* const from = values.data();
  const size_t count = values.size() / SizeOf(dtype);
  switch (dtype) {
    case DType::kFp32:
      return SumOfSquares(count, [from](size_t i) { return LoadLe<float>(from + 4 * i); });
    case DType::kBf16:
      return SumOfSquares(count, [from](size_t i) {
        return std::bit_cast<float>(static_cast<uint32_t>(LoadLe<uint16_t>(from + 2 * i)) << 16);
      });
    case DType::kFp16:
      break;
  }
  uint32_t not_finite = 0;
  const double energy = SumOfSquares(count, [from, &not_finite](size_t i) {
    const auto half = LoadLe<uint16_t>(from + 2 * i);
    not_finite |= (half & 0x7c00u) == 0x7c00u;
    // As HalfToFloat, where it is finite.
    return std::bit_cast<float>(static_cast<uint32_t>(half & 0x7fff) << 13) * 0x1p112f;
  });
  return not_finite != 0 ? std::numeric_limits<double>::infinity() : energy;
}

Finding FindFaultInValues(const ClientPlane& plane, const PlaneView& view, Codec& codec,
                          size_t tile) {
  Scratch<std::byte> values(plane.spec->tile_bytes());
  TileDecodeJob job;
  job.shape = ShapeOf(*plane.spec);
  job.head = view.head(tile);
  job.body = view.body(tile).data();
  job.rotary = plane.rotary;
  job.owner = plane.owner;
  job.values = values.data();
  job.row_stride = job.shape.dim * SizeOf(job.shape.dtype);
  job.read_at_once = true;
  if (absl::Status s = codec.Decode({&job, 1}); !s.ok()) {
    return PlaneFinding{PlaneFault::kStructure, OfTile(tile, s.message())};
  }
  const double energy = EnergyOf(values, plane.spec->dtype);
  const ErrorSums& s = plane.declared->tiles[tile];
  const double declared = DecodedEnergy(s);
  // Of a tile that is not finite nothing was summed.
  if (!std::isfinite(energy) && s.energy == 0) return std::nullopt;
  if (std::abs(energy - declared) <= SlackOf(s)) return std::nullopt;
  return PlaneFinding{
      PlaneFault::kDeclaration,
      OfTile(tile, absl::StrFormat("it decodes to an energy of %g; the declared sums imply %g",
                                   energy, declared))};
}

// ---- The whole plane ----

QualityReport ReportOf(const ClientPlane& plane, const PlaneView& view) {
  QualityReport report;
  if (plane.spec->is_opaque()) return report;
  const bool coded = plane.settings->codec != CodecId::kRaw;
  for (size_t i = 0; i < view.tiles(); ++i) {
    TileReport tile;
    if (coded) tile.sums = plane.declared->tiles[i];
    tile.raw = coded && view.head(i).mode == TileMode::kRaw;
    tile.rank = view.head(i).rank;
    report.Add(tile);
  }
  report.entries = plane.spec->entries();
  report.bytes = plane.bytes.size();
  return report;
}

}  // namespace

Finding FindFaultInSize(const PlaneSpec& spec, const CodecSettings& settings, size_t bytes,
                        const PlaneDeclaration& declared) {
  const size_t most = MaxPlaneBytes(spec);
  const size_t least =
      IsVerbatim(spec, settings) ? most : TileTableBytes(spec) + spec.heads * kTileAlignment;
  if (bytes < least || bytes > most) {
    return PlaneFinding{PlaneFault::kStructure,
                        absl::StrCat(bytes, " bytes; encoded it takes ", least, " to ", most)};
  }
  const size_t tiles = IsVerbatim(spec, settings) ? 0 : spec.heads;
  if (declared.tiles.size() != tiles) {
    return PlaneFinding{PlaneFault::kDeclaration,
                        absl::StrCat("sums of ", declared.tiles.size(), " tiles; declare ", tiles)};
  }
  return std::nullopt;
}

Finding FindFault(const ClientPlane& plane, Codec& codec, uint64_t sample, QualityReport* report) {
  const uint32_t crc32c = Crc32c(plane.bytes);
  if (crc32c != plane.declared->crc32c) {
    return PlaneFinding{PlaneFault::kChecksum,
                        absl::StrFormat("its bytes have the CRC32C %08x; declared is %08x", crc32c,
                                        plane.declared->crc32c)};
  }
  const auto view = PlaneView::Parse(plane.bytes, *plane.spec);
  if (!view.ok()) {
    return PlaneFinding{PlaneFault::kStructure, std::string(view.status().message())};
  }
  for (size_t i = 0; i < view->tiles(); ++i) {
    if (auto f = FindFaultInHead(plane, i, view->head(i))) return f;
    if (plane.declared->tiles.empty()) continue;  // verbatim
    if (auto f = FindFaultInSums(plane, i, view->head(i))) return f;
  }
  if (!plane.declared->tiles.empty()) {
    if (auto f = FindFaultInValues(plane, *view, codec, sample % view->tiles())) return f;
  }
  *report = ReportOf(plane, *view);
  return std::nullopt;
}

}  // namespace kvstow
