// Lloyd-Max codebooks of one coordinate of a random unit row of d channels, whose law is
// (1 - x^2)^((d-3)/2) on [-1, 1] (TurboQuant, arXiv 2504.19874, section 3). Part of the format.
#pragma once

#include <array>
#include <cstdint>

namespace kvstow {

struct ResidualCodebook {
  uint32_t bits = 0;
  // [2^bits], ascending, odd around 0. Code c stands for levels[c].
  std::array<float, 16> levels{};
  // [2^bits - 1] midpoints. The code of a coordinate is the number of thresholds below it, so a tie
  // takes the lower code.
  std::array<float, 15> thresholds{};
  // Expected squared error of a unit row.
  float distortion = 0;
};

// REQUIRES IsSupportedDim(dim) and bits in 1..4. Lives as long as the process; thread-safe.
const ResidualCodebook& ResidualCodebookFor(uint32_t dim, uint32_t bits);

}  // namespace kvstow
