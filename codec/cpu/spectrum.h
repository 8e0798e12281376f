// Stage 1 of a tile: the spectrum of X, the rank that stands out of its bulk, and the leading
// singular vectors. Gram matrix of the short side, Householder tridiagonalisation, eigenvalues by
// Sturm counts, vectors by twisted factorisation; dominant directions are deflated first, because a
// float Gram matrix loses the bulk behind them (condition number squared).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "codec/cpu/eigenvalues.h"
#include "codec/cpu/kernels.h"
#include "codec/scratch.h"
#include "codec/shrinkage.h"

namespace kvstow::cpu {

// Not thread-safe; reuses its memory, and results are valid until the next call.
class Spectrum {
 public:
  explicit Spectrum(const Kernels& kernels) : kernels_(kernels), eigenvalues_(kernels) {}

  // x is [n, d], dense.
  void Analyse(const float* x, uint32_t n, uint32_t d);

  const BulkEdge& edge() const { return edge_; }
  uint32_t rank() const { return edge_.rank; }
  // Squared singular values, descending; [min(n, d)].
  std::span<const double> lambda() const { return lambda_; }
  // min(n, d) / max(n, d)
  double beta() const { return static_cast<double>(p_) / q_; }
  double singular_value(uint32_t i) const { return singular_[i]; }
  // Unit vectors: of the tokens [n], and of the channels [d].
  std::span<const float> u(uint32_t i) const { return wide_ ? ShortVector(i) : LongVector(i); }
  std::span<const float> v(uint32_t i) const { return wide_ ? LongVector(i) : ShortVector(i); }

 private:
  static constexpr size_t kMaxVectors = 24;

  std::span<const float> ShortVector(uint32_t i) const { return {&short_[size_t{i} * p_], p_}; }
  std::span<const float> LongVector(uint32_t i) const { return {&long_[size_t{i} * q_], q_}; }

  size_t gram_stride() const { return size_t{p_} + 16; }
  void Resize(uint32_t n, uint32_t d);
  // Tridiagonal form and eigenvalues of y.
  void Solve(const float* y);
  // Eigenvalues of all rounds together.
  void Merge();
  uint32_t CountDominant() const;
  // Appends vectors of the first `count` eigenvalues of this round to short_.
  void AppendVectors(uint32_t count);
  void AppendFallback(double lambda);
  bool AppendOrthonormalised(const float* lanes, size_t lane);
  // Takes the directions [first, vectors_) out of y_.
  void Deflate(const float* y, uint32_t first);
  // Long vectors and singular values of the leading directions.
  void Complete(const float* y);

  const Kernels& kernels_;
  EigenvalueFinder eigenvalues_;
  uint32_t p_ = 0, q_ = 0;
  bool wide_ = false;      // n < d: tokens are the short side
  uint32_t leading_ = 0;   // eigenvalues wanted sharp
  uint32_t deflated_ = 0;  // directions taken out so far
  uint32_t vectors_ = 0;   // rows of short_
  BulkEdge edge_;
  Scratch<double> round_lambda_, lambda_;
  std::array<double, kMaxVectors> direction_lambda_{};
  std::array<double, kMaxVectors> singular_{};
  Scratch<float> y_, gram_, diag_, off_, beta_, work_, lanes_, projections_, short_, long_;
};

}  // namespace kvstow::cpu
