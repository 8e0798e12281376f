#include "codec/crc32c.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include <isa-l/crc.h>

namespace kvstow {

uint32_t Crc32c(std::span<const std::byte> bytes) { return ExtendCrc32c(0, bytes); }

uint32_t ExtendCrc32c(uint32_t crc, std::span<const std::byte> bytes) {
  // ISA-L leaves initial value and final xor to the caller, and takes int lengths and mutable
  // bytes.
  constexpr size_t kLargestPiece = std::numeric_limits<int>::max();
  crc = ~crc;
  while (!bytes.empty()) {
    const size_t piece = std::min(bytes.size(), kLargestPiece);
    auto* data = reinterpret_cast<unsigned char*>(const_cast<std::byte*>(bytes.data()));
    crc = crc32_iscsi(data, static_cast<int>(piece), crc);
    bytes = bytes.subspan(piece);
  }
  return ~crc;
}

uint32_t CopyAndSum(std::span<const std::byte> from, std::span<std::byte> to, uint32_t crc) {
  // At a time: what was just summed is copied while the nearest cache has it.
  constexpr size_t kPiece = 8 << 10;
  for (size_t at = 0; at < from.size(); at += kPiece) {
    const auto piece = from.subspan(at, std::min(kPiece, from.size() - at));
    crc = ExtendCrc32c(crc, piece);
    std::memcpy(to.data() + at, piece.data(), piece.size());
  }
  return crc;
}

}  // namespace kvstow
