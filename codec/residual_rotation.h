// The fixed orthogonal transform of residual rows: z = (H (x) C) S x, with S the signs of the
// dimension, H the orthonormal Hadamard matrix of the largest power of two dividing it (Sylvester
// order), C the orthonormal DCT-II of what is left (1, 3, 5, 7 or 9). Part of the format;
// docs/format.md lists the signs.
#pragma once

#include <cstdint>
#include <vector>

namespace kvstow {

struct ResidualRotation {
  uint32_t dim = 0;
  uint32_t outer = 0;  // size of H
  uint32_t inner = 0;  // size of C; channel a * inner + b is item b of block a
  // [dim], +-outer^(-1/2): signs with H's normalisation folded in.
  std::vector<float> signs;
  // [inner, inner]; row k is the k-th cosine.
  std::vector<float> dct;
};

// Bit c is set where channel c is negated: bit (c mod 64) of the (c / 64 + 1)-th output of
// SplitMix64 with the dimension as its seed.
bool SignIsNegative(uint32_t dim, uint32_t channel);

// REQUIRES IsSupportedDim(dim). Lives as long as the process; thread-safe.
const ResidualRotation& ResidualRotationFor(uint32_t dim);

}  // namespace kvstow
