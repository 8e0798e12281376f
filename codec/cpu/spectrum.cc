#include "codec/cpu/spectrum.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace kvstow::cpu {
namespace {

constexpr uint32_t kLanes = 8;
// A direction is dominant above this many times lambda_{2k+1}.
constexpr double kDominance = 1e3;
// ... unless it is itself within rounding of the largest.
constexpr double kRounding = 0x1p-20;
constexpr int kMaxRounds = 4;

uint64_t NextRandom(uint64_t* state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return *state >> 33;
}

// One step of inverse iteration, (T - shift) x = b by Gaussian elimination with row exchanges. In
// double; off the fast path.
void SolveShifted(std::span<const float> diag, std::span<const float> off, double shift,
                  Scratch<double>* x) {
  const size_t p = diag.size();
  const double tiny = std::max(std::abs(shift), 1e-30) * 1e-16;
  Scratch<double> a(p), b(p), c(p);  // pivots, first and second superdiagonal
  for (size_t i = 0; i < p; ++i) a[i] = diag[i] - shift;
  for (size_t i = 0; i + 1 < p; ++i) b[i] = off[i];
  for (size_t i = 0; i + 1 < p; ++i) {
    double below = off[i];
    double next_diag = a[i + 1];
    double next_up = b[i + 1];
    if (std::abs(below) > std::abs(a[i])) {
      std::swap(a[i], below);
      std::swap(b[i], next_diag);
      std::swap(c[i], next_up);
      std::swap((*x)[i], (*x)[i + 1]);
    }
    if (std::abs(a[i]) < tiny) a[i] = tiny;
    const double factor = below / a[i];
    a[i + 1] = next_diag - factor * b[i];
    b[i + 1] = next_up - factor * c[i];
    (*x)[i + 1] -= factor * (*x)[i];
  }
  if (std::abs(a[p - 1]) < tiny) a[p - 1] = tiny;
  for (size_t i = p; i-- > 0;) {
    double rest = (*x)[i];
    if (i + 1 < p) rest -= b[i] * (*x)[i + 1];
    if (i + 2 < p) rest -= c[i] * (*x)[i + 2];
    (*x)[i] = rest / a[i];
  }
}

void Normalise(Scratch<double>* x) {
  double largest = 0;
  for (double v : *x) largest = std::max(largest, std::abs(v));
  if (!(largest > 0)) return;
  double squares = 0;
  for (double& v : *x) {
    v /= largest;
    squares += v * v;
  }
  for (double& v : *x) v /= std::sqrt(squares);
}

}  // namespace

void Spectrum::Resize(uint32_t n, uint32_t d) {
  wide_ = n < d;
  p_ = std::min(n, d);
  q_ = std::max(n, d);
  leading_ = 3 * BulkIndex(p_) + 1;
  deflated_ = 0;
  vectors_ = 0;
  round_lambda_.resize(p_);
  lambda_.resize(p_);
  gram_.resize(p_ * gram_stride());
  diag_.resize(p_);
  off_.resize(p_);
  beta_.resize(p_);
  work_.resize(std::max<size_t>(4 * (p_ + 16), size_t{16} * p_));
  lanes_.resize(size_t{kLanes} * p_);
  projections_.resize(kMaxVectors * q_);
  short_.resize((kMaxVectors + 1) * p_);
  long_.resize(kMaxVectors * q_);
}

void Spectrum::Solve(const float* y) {
  kernels_.gram(y, q_, p_, gram_.data(), gram_stride());
  kernels_.tridiagonalise(gram_.data(), p_, gram_stride(), diag_.data(), off_.data(), beta_.data(),
                          work_.data());
  eigenvalues_.Find(diag_, std::span(off_).first(p_ - 1), leading_, round_lambda_);
}

void Spectrum::Merge() {
  // Each direction taken out left a zero behind, the smallest of this round.
  for (uint32_t i = 0; i < deflated_; ++i) lambda_[i] = direction_lambda_[i];
  std::copy_n(round_lambda_.begin(), p_ - deflated_, lambda_.begin() + deflated_);
  if (deflated_ > 0) std::sort(lambda_.begin(), lambda_.end(), std::greater<>());
  edge_ = FindBulkEdge(lambda_);
}

uint32_t Spectrum::CountDominant() const {
  const double floor = std::max(kDominance * lambda_[2 * edge_.k], kRounding * lambda_[0]);
  uint32_t count = 0;
  while (count + deflated_ < edge_.k && round_lambda_[count] > floor) ++count;
  return count;
}

bool Spectrum::AppendOrthonormalised(const float* lanes, size_t lane) {
  float* out = &short_[size_t{vectors_} * p_];
  for (size_t i = 0; i < p_; ++i) out[i] = lanes[kLanes * i + lane];
  float norm = kernels_.dot(out, out, p_);
  if (!std::isfinite(norm)) return false;
  // Twice: once loses digits where vectors were close.
  for (int pass = 0; pass < 2; ++pass) {
    for (uint32_t j = 0; j < vectors_; ++j) {
      const float* other = &short_[size_t{j} * p_];
      const float overlap = kernels_.dot(out, other, p_);
      for (size_t i = 0; i < p_; ++i) out[i] -= overlap * other[i];
    }
    norm = kernels_.dot(out, out, p_);
    if (!(norm > 0.01f)) return false;
    const float scale = 1 / std::sqrt(norm);
    for (size_t i = 0; i < p_; ++i) out[i] *= scale;
  }
  ++vectors_;
  return true;
}

// Inverse iteration from a random start, for clusters that the twisted factorisation cannot tell
// apart.
void Spectrum::AppendFallback(double lambda) {
  Scratch<float> lanes(size_t{kLanes} * p_);
  uint64_t state = 1 + vectors_;
  Scratch<double> x(p_);
  for (int attempt = 0; attempt < 8; ++attempt) {
    for (double& v : x) v = static_cast<double>(NextRandom(&state)) * 0x1p-30 - 1;
    // Later attempts settle for any direction not yet taken.
    for (int step = 0; step < 3 && attempt < 4; ++step) {
      SolveShifted(diag_, std::span(off_).first(p_ - 1), lambda, &x);
      Normalise(&x);
    }
    Normalise(&x);
    for (size_t i = 0; i < p_; ++i) lanes[kLanes * i] = static_cast<float>(x[i]);
    kernels_.back_transform(gram_.data(), gram_stride(), beta_.data(), p_, lanes.data());
    if (AppendOrthonormalised(lanes.data(), 0)) return;
  }
}

void Spectrum::AppendVectors(uint32_t count) {
  const float tiny =
      std::max(static_cast<float>(round_lambda_[0]) * 1e-14f, std::numeric_limits<float>::min());
  for (uint32_t first = 0; first < count; first += kLanes) {
    float shifts[kLanes], corrected[kLanes];
    for (uint32_t i = 0; i < kLanes; ++i) {
      const uint32_t at = std::min(first + i, count - 1);
      shifts[i] = corrected[i] = static_cast<float>(round_lambda_[at]);
    }
    kernels_.twisted_vectors(diag_.data(), off_.data(), p_, tiny, corrected, lanes_.data(),
                             work_.data());
    // A Rayleigh correction larger than the bisection's error belongs to a neighbour.
    for (uint32_t i = 0; i < kLanes; ++i) {
      if (std::abs(corrected[i] - shifts[i]) <= 2e-4f * shifts[i]) shifts[i] = corrected[i];
    }
    kernels_.twisted_vectors(diag_.data(), off_.data(), p_, tiny, shifts, lanes_.data(),
                             work_.data());
    kernels_.back_transform(gram_.data(), gram_stride(), beta_.data(), p_, lanes_.data());
    for (uint32_t i = 0; i < kLanes && first + i < count; ++i) {
      const uint32_t before = vectors_;
      if (!AppendOrthonormalised(lanes_.data(), i)) AppendFallback(round_lambda_[first + i]);
      if (vectors_ > before) direction_lambda_[before] = round_lambda_[first + i];
    }
  }
}

void Spectrum::Deflate(const float* y, uint32_t first) {
  if (y != y_.data()) y_.assign(y, y + size_t{p_} * q_);
  for (uint32_t i = first; i < vectors_; i += kLanes) {
    const uint32_t count = std::min(kLanes, vectors_ - i);
    const float* vectors = &short_[size_t{i} * p_];
    std::fill(lanes_.begin(), lanes_.end(), 0.0f);
    for (size_t k = 0; k < count; ++k) {
      for (size_t j = 0; j < p_; ++j) lanes_[kLanes * j + k] = vectors[k * p_ + j];
    }
    kernels_.project(y_.data(), q_, p_, lanes_.data(), projections_.data(), kLanes);
    for (size_t k = 0; k < count; ++k) {
      double squares = 0;
      for (size_t t = 0; t < q_; ++t) {
        const double a = projections_[kLanes * t + k];
        squares += a * a;
      }
      direction_lambda_[i + k] = squares;
    }
    kernels_.subtract_low_rank(projections_.data(), kLanes, 1, vectors, count, q_, p_, y_.data());
  }
  deflated_ = vectors_;
}

void Spectrum::Complete(const float* y) {
  for (uint32_t i = 0; i < edge_.rank; i += kLanes) {
    const uint32_t count = std::min(kLanes, edge_.rank - i);
    std::fill(lanes_.begin(), lanes_.end(), 0.0f);
    for (size_t k = 0; k < count; ++k) {
      const auto vector = ShortVector(static_cast<uint32_t>(i + k));
      for (size_t j = 0; j < p_; ++j) lanes_[kLanes * j + k] = vector[j];
    }
    kernels_.project(y, q_, p_, lanes_.data(), projections_.data(), kLanes);
    for (size_t k = 0; k < count; ++k) {
      float* out = &long_[(i + k) * q_];
      for (size_t t = 0; t < q_; ++t) out[t] = projections_[kLanes * t + k];
      const double s = std::sqrt(kernels_.energy(out, q_));
      singular_[i + k] = s;
      lambda_[i + k] = s * s;
      const float scale = s > 0 ? static_cast<float>(1 / s) : 0.0f;
      for (size_t t = 0; t < q_; ++t) out[t] *= scale;
    }
  }
}

void Spectrum::Analyse(const float* x, uint32_t n, uint32_t d) {
  Resize(n, d);
  const float* y = x;
  if (wide_) {
    y_.resize(size_t{n} * d);
    kernels_.transpose(x, n, d, y_.data());
    y = y_.data();
  }
  const float* deflating = y;
  for (int round = 0;; ++round) {
    Solve(deflating);
    Merge();
    const uint32_t dominant = CountDominant();
    if (dominant == 0 || round + 1 == kMaxRounds) break;
    const uint32_t first = vectors_;
    AppendVectors(dominant);
    Deflate(deflating, first);
    deflating = y_.data();
  }
  if (edge_.rank > deflated_) AppendVectors(edge_.rank - deflated_);
  edge_.rank = std::min(edge_.rank, vectors_);
  // Deflation has overwritten the transposed tile.
  if (wide_ && deflated_ > 0) kernels_.transpose(x, n, d, y_.data());
  Complete(wide_ ? y_.data() : x);
}

}  // namespace kvstow::cpu
