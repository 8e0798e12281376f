#include "codec/cpu/eigenvalues.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvstow::cpu {
namespace {

constexpr size_t kLanes = 8;
constexpr size_t kBracketShifts = 64;
// Below 2^-24 of the largest eigenvalue a float matrix holds rounding errors only.
constexpr double kOctaves = 24;
constexpr int kBisections = 12;
constexpr size_t kBulkShifts = 128;

}  // namespace

void EigenvalueFinder::CountAbove(std::span<const float> diag, size_t count) {
  const auto p = static_cast<uint32_t>(diag.size());
  above_.resize(count);
  kernels_.count_below(diag.data(), off2_.data(), p, shifts_.data(), static_cast<uint32_t>(count),
                       above_.data());
  for (int32_t& c : above_) c = static_cast<int32_t>(p) - c;
}

// Brackets from one set of shifts, evenly spaced on a logarithmic scale.
void EigenvalueFinder::Bracket(std::span<const float> diag, float top, uint32_t leading) {
  shifts_.resize(kBracketShifts);
  for (size_t g = 0; g < kBracketShifts; ++g) {
    const double octaves = kOctaves * static_cast<double>(g) / (kBracketShifts - 1);
    shifts_[g] = static_cast<float>(top * std::exp2(-octaves));
  }
  CountAbove(diag, kBracketShifts);
  size_t g = 0;
  for (uint32_t j = 0; j < leading; ++j) {
    while (g < kBracketShifts && above_[g] <= static_cast<int32_t>(j)) ++g;
    low_[j] = g < kBracketShifts ? shifts_[g] : 0;
    high_[j] = g > 0 ? shifts_[g - 1] : top;
  }
}

void EigenvalueFinder::Bisect(std::span<const float> diag, uint32_t leading) {
  const size_t padded = (leading + kLanes - 1) / kLanes * kLanes;
  shifts_.resize(padded);
  for (int step = 0; step < kBisections; ++step) {
    for (size_t j = 0; j < padded; ++j) {
      const size_t at = std::min<size_t>(j, leading - 1);
      shifts_[j] = 0.5f * (low_[at] + high_[at]);
    }
    CountAbove(diag, padded);
    for (uint32_t j = 0; j < leading; ++j) {
      (above_[j] > static_cast<int32_t>(j) ? low_[j] : high_[j]) = shifts_[j];
    }
  }
}

// The rest lie between 0 and the last of the leading ones; within a bin they are spread evenly.
void EigenvalueFinder::SpreadBulk(std::span<const float> diag, uint32_t leading,
                                  std::span<double> lambda) {
  const double top = lambda[leading - 1];
  const double width = top / kBulkShifts;
  shifts_.resize(kBulkShifts);
  for (size_t g = 0; g < kBulkShifts; ++g) {
    shifts_[g] = static_cast<float>(top - width * static_cast<double>(g + 1));
  }
  shifts_[kBulkShifts - 1] = 0;
  CountAbove(diag, kBulkShifts);
  size_t at = leading;
  for (size_t g = 0; g < kBulkShifts && at < lambda.size(); ++g) {
    const size_t end =
        std::min(lambda.size(), static_cast<size_t>(std::max(above_[g], int32_t{0})));
    if (end <= at) continue;
    const double high = top - width * static_cast<double>(g);
    const auto members = static_cast<double>(end - at);
    for (size_t j = at; j < end; ++j) {
      lambda[j] = high - width * (static_cast<double>(j - at) + 0.5) / members;
    }
    at = end;
  }
  // What rounding made negative.
  for (; at < lambda.size(); ++at) lambda[at] = 0;
}

void EigenvalueFinder::Find(std::span<const float> diag, std::span<const float> off,
                            uint32_t leading, std::span<double> lambda) {
  const size_t p = diag.size();
  off2_.resize(p);
  float top = 0;
  for (size_t i = 0; i < p; ++i) {
    const float before = i > 0 ? std::abs(off[i - 1]) : 0;
    const float after = i + 1 < p ? std::abs(off[i]) : 0;
    top = std::max(top, diag[i] + before + after);
    // Never zero: a zero pivot must give an infinity, not 0/0.
    off2_[i] = std::max(after * after, std::numeric_limits<float>::min());
  }
  if (!(top > 0)) {
    std::fill(lambda.begin(), lambda.end(), 0.0);
    return;
  }
  top *= 1.00001f;
  low_.resize(leading);
  high_.resize(leading);
  Bracket(diag, top, leading);
  Bisect(diag, leading);
  for (uint32_t j = 0; j < leading; ++j) lambda[j] = 0.5 * (double{low_[j]} + high_[j]);
  for (uint32_t j = 1; j < leading; ++j) lambda[j] = std::min(lambda[j], lambda[j - 1]);
  if (leading < p) SpreadBulk(diag, leading, lambda);
}

}  // namespace kvstow::cpu
