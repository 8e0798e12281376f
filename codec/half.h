// IEEE 754 binary16, for the few 16-bit side values of a tile.
#pragma once

#include <bit>
#include <cstdint>

namespace kvstow {

// Non-finite values become 0: a side value of a broken record must not poison the tile.
inline float HalfToFloat(uint16_t half) {
  if ((half & 0x7c00) == 0x7c00) return 0;
  const float magnitude = std::bit_cast<float>(static_cast<uint32_t>(half & 0x7fff) << 13);
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude * 0x1p112f);
  return std::bit_cast<float>(bits | static_cast<uint32_t>(half & 0x8000) << 16);
}

// Round to nearest even, saturating; NaN becomes 0.
inline uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits & 0x80000000u) >> 16;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0;
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7bffu);
  if (magnitude < 0x38800000u) {
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

}  // namespace kvstow
