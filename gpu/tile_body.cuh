// Sizes and offsets of a tile's body on the device: LayoutOf of codec/tile.h.
#pragma once

#include <cstdint>

namespace kvstow::gpu {

struct Head {
  uint32_t coded, bits, rank;
  int32_t exponent;
  uint32_t has_means, rotary_undone;
};

__host__ __device__ inline Head UnpackHead(uint32_t packed) {
  return {packed & 15,      packed >> 4 & 15, packed >> 8 & 255, static_cast<int8_t>(packed >> 16),
          packed >> 24 & 1, packed >> 25 & 1};
}

__host__ __device__ inline uint32_t PackHead(const Head& h) {
  return h.coded | h.bits << 4 | h.rank << 8 |
         static_cast<uint32_t>(static_cast<uint8_t>(h.exponent)) << 16 | h.has_means << 24 |
         h.rotary_undone << 25;
}

struct BodyLayout {
  uint32_t lengths, u_codes, v_codes, u_levels, v_levels, reference, phi, means, end, total;
};

__host__ __device__ inline BodyLayout LayoutOfBody(uint32_t n, uint32_t d, const Head& h) {
  BodyLayout at;
  at.lengths = n * (d * h.bits / 8);
  at.u_codes = at.lengths + n;
  at.v_codes = at.u_codes + h.rank * (n / 2);
  at.u_levels = at.v_codes + h.rank * (d / 2);
  at.v_levels = at.u_levels + (h.rank > 0 ? 16 : 0);
  at.reference = at.v_levels + (h.rank > 0 ? 16 : 0);
  at.phi = at.reference + 4;
  at.means = at.phi + 2 * h.rank;
  at.end = at.means + (h.has_means ? 2 * d : 0);
  at.total = (at.end + 15) / 16 * 16;
  return at;
}

}  // namespace kvstow::gpu
