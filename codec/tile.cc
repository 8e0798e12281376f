#include "codec/tile.h"

#include "absl/strings/str_cat.h"

namespace kvstow {
namespace {

constexpr uint8_t kMeansFlag = 1;
constexpr uint8_t kRotaryFlag = 2;

}  // namespace

TileBodyLayout LayoutOf(const TileShape& shape, const TileHead& head) {
  TileBodyLayout at;
  if (head.mode == TileMode::kRaw) {
    at.total = RoundUpToTile(shape.bytes());
    return at;
  }
  const size_t n = shape.tokens;
  const size_t d = shape.dim;
  const size_t rank = head.rank;
  at.codes = 0;
  at.lengths = at.codes + n * (d * head.bits / 8);
  at.u_codes = at.lengths + n;
  at.v_codes = at.u_codes + rank * (n / 2);
  at.u_levels = at.v_codes + rank * (d / 2);
  at.v_levels = at.u_levels + (rank > 0 ? 16 : 0);
  at.reference = at.v_levels + (rank > 0 ? 16 : 0);
  at.phi = at.reference + 4;
  at.means = at.phi + 2 * rank;
  at.total = RoundUpToTile(at.means + (head.has_means ? 2 * d : 0));
  return at;
}

size_t TileBodyBytes(const TileShape& shape, const TileHead& head) {
  return LayoutOf(shape, head).total;
}

void PackTileHead(const TileHead& head, std::byte* out) {
  out[0] = static_cast<std::byte>(static_cast<uint8_t>(head.mode) | head.bits << 4);
  out[1] = static_cast<std::byte>(head.rank);
  out[2] = static_cast<std::byte>(head.exponent);
  out[3] = static_cast<std::byte>((head.has_means ? kMeansFlag : 0) |
                                  (head.rotary_undone ? kRotaryFlag : 0));
}

absl::Status UnpackTileHead(const std::byte* in, TileHead* head) {
  const auto mode = static_cast<uint8_t>(in[0]) & 15;
  const auto bits = static_cast<uint8_t>(in[0]) >> 4;
  const auto rank = static_cast<uint8_t>(in[1]);
  const auto exponent = static_cast<uint8_t>(in[2]);
  const auto flags = static_cast<uint8_t>(in[3]);
  if (mode > static_cast<uint8_t>(TileMode::kCoded)) {
    return absl::InvalidArgumentError(absl::StrCat("tile mode ", mode, " is unknown"));
  }
  if (mode == static_cast<uint8_t>(TileMode::kRaw)) {
    if (bits != 0 || rank != 0 || exponent != 0 || flags != 0) {
      return absl::InvalidArgumentError("raw tile with fields of a coded one");
    }
    *head = TileHead{};
    return absl::OkStatus();
  }
  if (bits < 1 || bits > 4) {
    return absl::InvalidArgumentError(absl::StrCat("tile bits ", bits, " not in 1..4"));
  }
  if (rank > kMaxRank) {
    return absl::InvalidArgumentError(absl::StrCat("tile rank ", rank, " above ", kMaxRank));
  }
  if ((flags & ~(kMeansFlag | kRotaryFlag)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("tile flags ", flags, " have reserved bits"));
  }
  head->mode = TileMode::kCoded;
  head->bits = static_cast<uint8_t>(bits);
  head->rank = rank;
  head->exponent = static_cast<int8_t>(exponent);
  head->has_means = (flags & kMeansFlag) != 0;
  head->rotary_undone = (flags & kRotaryFlag) != 0;
  return absl::OkStatus();
}

}  // namespace kvstow
