// Optimal shrinkage of singular values under coloured and dependent noise: where the bulk of a
// spectrum ends, how many values stand out of it, and what they are worth. eOptShrink, Su & Wu,
// arXiv 2207.03466 (sections 3 and 4); used on KV blocks by eOptShrinkQ, Su, arXiv 2605.02905.
//
// Pure functions of a spectrum, in double. Thread-safe.
#pragma once

#include <cstdint>
#include <span>

namespace kvstow {

// Largest k of any tile (p = 512), which bounds the rank.
inline constexpr uint32_t kMaxBulkIndex = 22;

// k = floor(p^c), c = min(1/2.01, 1/log(log p)): how far into the spectrum outliers may reach.
uint32_t BulkIndex(uint32_t p);

struct BulkEdge {
  uint32_t k = 0;
  double edge = 0;    // lambda_+
  uint32_t rank = 0;  // eigenvalues with lambda / lambda_+ - 1 > p^(-1/3)
  // Smallest |lambda_j / lambda_+ - 1 - p^(-1/3)|: below 2e-3 two implementations may disagree.
  double margin = 0;
  // The spectrum ends within the first k: rank counts what is not rounding, and nothing is shrunk.
  bool deficient = false;
};

// `lambda` are the p eigenvalues of the Gram matrix of the short side, descending; p >= 16. Only
// the first 2k + 1 are looked at.
BulkEdge FindBulkEdge(std::span<const double> lambda);

struct ShrunkValue {
  double phi = 0;            // Frobenius-optimal value, in [0, s]
  double strength = 0;       // d_i of the spike behind it
  double overlap_short = 0;  // squared cosine to the spike's direction on the short side
  double overlap_long = 0;
};

// For the first edge.rank values. beta = p / q. Where the transforms leave their domain phi = s.
void ShrinkValues(std::span<const double> lambda, const BulkEdge& edge, double beta,
                  std::span<ShrunkValue> out);

}  // namespace kvstow
