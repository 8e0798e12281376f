// The 8-bit logarithmic lengths of residual rows: code 0 is length 0, code c in 1..255 is
// reference * 2^(-(c-1)/16). Part of the format.
#pragma once

#include <array>
#include <cstdint>

namespace kvstow {

// [c] is the factor of code c, so [0] = 0 and [1] = 1; powers of two times the sixteen mantissas.
const std::array<float, 256>& LengthFactors();

// The code nearest to length / reference. 0 where either is 0.
uint8_t LengthCodeFor(float length, float reference);

}  // namespace kvstow
