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

}  // namespace kvstow
