#include "codec/residual_rotation.h"

#include <array>
#include <cmath>
#include <numbers>

namespace kvstow {
namespace {

constexpr std::array<uint32_t, 8> kDims = {64, 80, 96, 112, 128, 192, 256, 576};

uint64_t SplitMix64(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

ResidualRotation Make(uint32_t dim) {
  ResidualRotation r;
  r.dim = dim;
  r.inner = dim;
  r.outer = 1;
  while (r.inner % 2 == 0) {
    r.inner /= 2;
    r.outer *= 2;
  }
  const double norm = 1 / std::sqrt(static_cast<double>(r.outer));
  for (uint32_t c = 0; c < dim; ++c) {
    r.signs.push_back(static_cast<float>(SignIsNegative(dim, c) ? -norm : norm));
  }
  for (uint32_t k = 0; k < r.inner; ++k) {
    const double scale = std::sqrt((k == 0 ? 1.0 : 2.0) / r.inner);
    for (uint32_t b = 0; b < r.inner; ++b) {
      r.dct.push_back(
          static_cast<float>(scale * std::cos(std::numbers::pi * (b + 0.5) * k / r.inner)));
    }
  }
  return r;
}

std::array<ResidualRotation, kDims.size()> MakeAll() {
  std::array<ResidualRotation, kDims.size()> all;
  for (size_t i = 0; i < kDims.size(); ++i) all[i] = Make(kDims[i]);
  return all;
}

}  // namespace

bool SignIsNegative(uint32_t dim, uint32_t channel) {
  return (SplitMix64(dim, channel / 64) >> (channel % 64) & 1) != 0;
}

const ResidualRotation& ResidualRotationFor(uint32_t dim) {
  static const auto all = MakeAll();
  size_t i = 0;
  while (i + 1 < kDims.size() && kDims[i] != dim) ++i;
  return all[i];
}

}  // namespace kvstow
