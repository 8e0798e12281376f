// Eigenvalues of a positive semidefinite tridiagonal matrix by counting sign changes (Sturm
// sequences): the leading ones to 3e-5 of themselves, the others to 1/256 of the largest among
// them. The shrinker uses the latter only in means over the whole bulk, where that resolution is
// worth 1e-4.
#pragma once

#include <cstdint>
#include <span>

#include "codec/cpu/kernels.h"
#include "codec/scratch.h"

namespace kvstow::cpu {

// Not thread-safe; reuses its memory.
class EigenvalueFinder {
 public:
  explicit EigenvalueFinder(const Kernels& kernels) : kernels_(kernels) {}

  // diag [p], off [p - 1]; fills lambda [p], descending, none negative.
  void Find(std::span<const float> diag, std::span<const float> off, uint32_t leading,
            std::span<double> lambda);

 private:
  void CountAbove(std::span<const float> diag, size_t shifts);
  void Bracket(std::span<const float> diag, float top, uint32_t leading);
  void Bisect(std::span<const float> diag, uint32_t leading);
  void SpreadBulk(std::span<const float> diag, uint32_t leading, std::span<double> lambda);

  const Kernels& kernels_;
  Scratch<float> off2_;
  Scratch<float> shifts_;
  Scratch<int32_t> above_;
  Scratch<float> low_, high_;
};

}  // namespace kvstow::cpu
