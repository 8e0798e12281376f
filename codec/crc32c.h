// CRC32C (Castagnoli, RFC 3720 appendix B.4) as the record format uses it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvstow {

// Initial value and final xor are all ones; Crc32c("123456789") is 0xe3069283.
uint32_t Crc32c(std::span<const std::byte> bytes);
// Of two pieces one after the other: Extend(Crc32c(a), b) == Crc32c(ab).
uint32_t ExtendCrc32c(uint32_t crc, std::span<const std::byte> bytes);

// Copies `from` to `to`, of the same size, and returns ExtendCrc32c(crc, from), in one go through
// memory. REQUIRES that nobody changes `from` meanwhile.
uint32_t CopyAndSum(std::span<const std::byte> from, std::span<std::byte> to, uint32_t crc);

}  // namespace kvstow
