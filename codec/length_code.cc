#include "codec/length_code.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace kvstow {
namespace {

// 2^(-i/16), rounded to binary32.
constexpr float kMantissas[16] = {
    0x1p+0f,        0x1.ea4afap-1f, 0x1.d5818ep-1f, 0x1.c199bep-1f, 0x1.ae89fap-1f, 0x1.9c4918p-1f,
    0x1.8ace54p-1f, 0x1.7a1148p-1f, 0x1.6a09e6p-1f, 0x1.5ab07ep-1f, 0x1.4bfdaep-1f, 0x1.3dea64p-1f,
    0x1.306fe0p-1f, 0x1.2387a6p-1f, 0x1.172b84p-1f, 0x1.0b5586p-1f,
};

std::array<float, 256> MakeFactors() {
  std::array<float, 256> factors;
  factors[0] = 0;
  for (int c = 1; c < 256; ++c) {
    factors[c] = std::ldexp(kMantissas[(c - 1) % 16], -((c - 1) / 16));
  }
  return factors;
}

}  // namespace

const std::array<float, 256>& LengthFactors() {
  static const std::array<float, 256> factors = MakeFactors();
  return factors;
}

uint8_t LengthCodeFor(float length, float reference) {
  if (!(length > 0) || !(reference > 0)) return 0;
  const float ratio = length / reference;
  if (ratio >= 1) return 1;
  const auto& factors = LengthFactors();
  if (ratio < factors[255]) return ratio < 0.5f * factors[255] ? 0 : 255;
  // The exponent and the mantissas bracket the code; the nearer end is least squares.
  const int octave = -std::ilogb(ratio) - 1;
  int upper = 1 + 16 * octave;
  while (upper < 254 && factors[upper + 1] >= ratio) ++upper;
  const bool lower_is_nearer = ratio < 0.5f * (factors[upper] + factors[upper + 1]);
  return static_cast<uint8_t>(lower_is_nearer ? upper + 1 : upper);
}

}  // namespace kvstow
