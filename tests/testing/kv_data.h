// Seeded KV that looks like KV: a few shared directions a head plus independent noise a token.
#pragma once

#include <cstddef>
#include <cstring>
#include <random>
#include <vector>

#include "codec/half.h"
#include "space/plane_layout.h"

namespace kvstow::testing {

// One plane, C order [heads, tokens, dim], FP16; opaque planes get random bytes.
inline std::vector<std::byte> MakePlane(const PlaneSpec& plane, uint64_t seed) {
  std::mt19937_64 random(seed * 1000003 + plane.layer * 17 + static_cast<uint64_t>(plane.kind));
  std::vector<std::byte> bytes(plane.raw_bytes);
  if (plane.is_opaque()) {
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    return bytes;
  }
  std::normal_distribution<float> normal;
  size_t at = 0;
  for (uint32_t h = 0; h < plane.heads; ++h) {
    std::vector<float> shared(3 * plane.dim);
    for (float& s : shared) s = normal(random);
    for (uint32_t t = 0; t < plane.tokens; ++t) {
      const float a[3] = {3 + normal(random), 2 * normal(random), normal(random)};
      for (uint32_t c = 0; c < plane.dim; ++c) {
        float x = 0.5f * normal(random);
        for (int i = 0; i < 3; ++i) x += a[i] * shared[i * plane.dim + c];
        const uint16_t half = FloatToHalf(x);
        std::memcpy(&bytes[at], &half, sizeof(half));
        at += sizeof(half);
      }
    }
  }
  return bytes;
}

// All planes of one block, in the layout's order.
inline std::vector<std::vector<std::byte>> MakeBlock(const PlaneLayout& layout, uint64_t seed) {
  std::vector<std::vector<std::byte>> planes;
  for (const PlaneSpec& plane : layout.planes()) planes.push_back(MakePlane(plane, seed));
  return planes;
}

// NMSE of FP16 arrays.
inline double Nmse(std::span<const std::byte> exact, std::span<const std::byte> got) {
  double error = 0, energy = 0;
  for (size_t i = 0; i + 1 < exact.size(); i += 2) {
    uint16_t a, b;
    std::memcpy(&a, &exact[i], 2);
    std::memcpy(&b, &got[i], 2);
    const double x = HalfToFloat(a), y = HalfToFloat(b);
    error += (x - y) * (x - y);
    energy += x * x;
  }
  return energy == 0 ? error : error / energy;
}

}  // namespace kvstow::testing
