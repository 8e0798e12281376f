#include "codec/shrinkage.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace kvstow {
namespace {

constexpr double kDeficiency = 0x1p-18;
const double kEdgeLaw = std::pow(2.0, 2.0 / 3.0) - 1;

// Means of 1/(x - z) and 1/(x - z)^2 over the pseudo-noise spectrum.
struct Stieltjes {
  double m = 0;
  double derivative = 0;
};

// The first k values of the noise are hidden under the outliers; the edge law (eigenvalue j lies
// (j/k)^(2/3) of the way down) stands in for them.
Stieltjes StieltjesAt(double z, std::span<const double> lambda, uint32_t rank,
                      std::span<const double> imputed) {
  Stieltjes sum;
  const auto add = [&](double x) {
    const double r = 1 / (x - z);
    sum.m += r;
    sum.derivative += r * r;
  };
  for (double x : imputed) add(x);
  for (double x : lambda.subspan(rank + imputed.size())) add(x);
  const double count = static_cast<double>(lambda.size() - rank);
  return {sum.m / count, sum.derivative / count};
}

ShrunkValue Shrink(double z, const Stieltjes& one, double beta) {
  const double s = std::sqrt(z);
  ShrunkValue out{.phi = s, .strength = s, .overlap_short = 1, .overlap_long = 1};
  const double m1 = one.m;
  const double m1_prime = one.derivative;
  const double m2 = beta * m1 - (1 - beta) / z;
  const double m2_prime = beta * m1_prime + (1 - beta) / (z * z);
  const double t = z * m1 * m2;
  const double t_prime = m1 * m2 + z * m1_prime * m2 + z * m1 * m2_prime;
  if (!(t > 0) || !(t_prime < 0)) return out;
  const double strength_squared = 1 / t;
  out.strength = std::sqrt(strength_squared);
  out.overlap_short = m1 / (strength_squared * t_prime);
  out.overlap_long = m2 / (strength_squared * t_prime);
  out.phi = std::clamp(s * m1 * m2 / std::abs(t_prime), 0.0, s);
  return out;
}

}  // namespace

uint32_t BulkIndex(uint32_t p) {
  const double c = std::min(1 / 2.01, 1 / std::log(std::log(static_cast<double>(p))));
  return static_cast<uint32_t>(std::floor(std::pow(static_cast<double>(p), c)));
}

BulkEdge FindBulkEdge(std::span<const double> lambda) {
  BulkEdge out;
  const auto p = static_cast<uint32_t>(lambda.size());
  out.k = BulkIndex(p);
  const double upper = lambda[out.k];
  const double lower = lambda[2 * out.k];
  out.edge = upper + (upper - lower) / kEdgeLaw;
  if (upper <= kDeficiency * lambda[0]) {
    out.deficient = true;
    out.margin = 1;
    while (out.rank < out.k && lambda[out.rank] > kDeficiency * lambda[0]) ++out.rank;
    return out;
  }
  const double threshold = std::pow(static_cast<double>(p), -1.0 / 3.0);
  out.margin = std::abs(lambda[0] / out.edge - 1 - threshold);
  for (uint32_t j = 0; j < out.k; ++j) {
    const double excess = lambda[j] / out.edge - 1 - threshold;
    out.margin = std::min(out.margin, std::abs(excess));
    if (excess > 0) out.rank = j + 1;
  }
  return out;
}

void ShrinkValues(std::span<const double> lambda, const BulkEdge& edge, double beta,
                  std::span<ShrunkValue> out) {
  if (edge.deficient) {
    for (uint32_t i = 0; i < edge.rank; ++i) {
      const double s = std::sqrt(lambda[i]);
      out[i] = {.phi = s, .strength = s, .overlap_short = 1, .overlap_long = 1};
    }
    return;
  }
  const uint32_t k = edge.k;
  const double top = lambda[edge.rank + k];
  const double bottom = lambda[edge.rank + 2 * k];
  std::array<double, kMaxBulkIndex> imputed{};
  for (uint32_t j = 1; j <= k; ++j) {
    const double law = 1 - std::pow(static_cast<double>(j) / k, 2.0 / 3.0);
    imputed[j - 1] = top + law / kEdgeLaw * (top - bottom);
  }
  for (uint32_t i = 0; i < edge.rank; ++i) {
    const Stieltjes one = StieltjesAt(lambda[i], lambda, edge.rank, std::span(imputed).first(k));
    out[i] = Shrink(lambda[i], one, beta);
  }
}

}  // namespace kvstow
