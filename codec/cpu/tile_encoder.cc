#include "codec/cpu/tile_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <utility>

#include "codec/cpu/rotary_view.h"
#include "codec/half.h"
#include "codec/length_code.h"
#include "codec/little_endian.h"
#include "codec/residual_codebook.h"
#include "codec/residual_rotation.h"

namespace kvstow::cpu {
namespace {

constexpr uint32_t kMaxBits = 4;
// Channel means are tried where they hold at least this share of the energy left without them.
constexpr double kMeansShare = 8;

ElementRows RowsOf(const TileEncodeJob& job) {
  return {job.values, job.row_stride, job.shape.tokens, job.shape.dim,
          static_cast<uint32_t>(job.shape.dtype)};
}

// Solves m x = b for a symmetric positive semidefinite m, by Cholesky with a ridge; x replaces b.
void SolveNormalEquations(std::span<double> m, std::span<double> b) {
  const size_t r = b.size();
  for (size_t i = 0; i < r; ++i) m[i * r + i] *= 1 + 1e-9;
  for (size_t i = 0; i < r; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      double sum = m[i * r + j];
      for (size_t k = 0; k < j; ++k) sum -= m[i * r + k] * m[j * r + k];
      m[i * r + j] = i == j ? std::sqrt(std::max(sum, 1e-300)) : sum / m[j * r + j];
    }
  }
  for (size_t i = 0; i < r; ++i) {
    for (size_t k = 0; k < i; ++k) b[i] -= m[i * r + k] * b[k];
    b[i] /= m[i * r + i];
  }
  for (size_t i = r; i-- > 0;) {
    for (size_t k = i + 1; k < r; ++k) b[i] -= m[k * r + i] * b[k];
    b[i] /= m[i * r + i];
  }
}

double BoundedError(const TileEncodeJob& job, const ErrorSums& sums) {
  return job.options.key_like ? sums.centred_nmse() : sums.nmse();
}

}  // namespace

void TileEncoder::KeepRaw(TileEncodeJob* job, bool asked_for) {
  const size_t row_bytes = job->shape.dim * SizeOf(job->shape.dtype);
  for (size_t t = 0; t < job->shape.tokens; ++t) {
    std::memcpy(job->body + t * row_bytes, job->values + t * job->row_stride, row_bytes);
  }
  const size_t body_bytes = MaxTileBodyBytes(job->shape);
  std::memset(job->body + job->shape.bytes(), 0, body_bytes - job->shape.bytes());
  job->head = TileHead{};
  job->report = TileReport{};
  job->report.raw = !asked_for;
}

void TileEncoder::LoadTile(const TileEncodeJob& job, float largest) {
  exponent_ = largest > 0 ? std::clamp(std::ilogb(largest), -128, 127) : 0;
  // Two factors, because one alone can be out of range.
  scale_a_ = std::ldexp(1.0f, -(exponent_ / 2));
  scale_b_ = std::ldexp(1.0f, -(exponent_ - exponent_ / 2));
  tile_.resize(job.shape.entries());
  kernels_.load(RowsOf(job), scale_a_, scale_b_, tile_.data());
  if (job.rotary != nullptr) {
    kernels_.unrotate(ViewOf(*job.rotary), job.shape.tokens, job.shape.dim, tile_.data());
  }
}

bool TileEncoder::MeansMayPay(const TileEncodeJob& job) {
  if (!job.options.key_like || job.options.codec != CodecId::kEOptShrinkQ) return false;
  const uint32_t n = job.shape.tokens;
  const uint32_t d = job.shape.dim;
  means_.resize(d);
  kernels_.column_means(tile_.data(), n, d, means_.data());
  const double held = n * kernels_.energy(means_.data(), d);
  const double total = kernels_.energy(tile_.data(), tile_.size());
  return held > kMeansShare * (total - held);
}

void TileEncoder::PrepareMeans(const TileEncodeJob& job) {
  const uint32_t d = job.shape.dim;
  half_means_.resize(d);
  for (size_t c = 0; c < d; ++c) {
    half_means_[c] = FloatToHalf(means_[c]);
    means_[c] = HalfToFloat(half_means_[c]);
  }
  kernels_.subtract_means(means_.data(), job.shape.tokens, d, residual_.data());
}

void TileEncoder::PrepareLowRank(const TileEncodeJob& job) {
  const size_t n = job.shape.tokens;
  const size_t d = job.shape.dim;
  spectrum_.Analyse(residual_.data(), job.shape.tokens, job.shape.dim);
  rank_ = spectrum_.rank();
  if (rank_ == 0) return;
  shrunk_.resize(rank_);
  phi_.resize(rank_);
  weights_.resize(rank_);
  ShrinkValues(spectrum_.lambda(), spectrum_.edge(), spectrum_.beta(), shrunk_);
  u_.resize(rank_ * n);
  v_.resize(rank_ * d);
  for (uint32_t i = 0; i < rank_; ++i) {
    phi_[i] =
        job.options.shrinker == Shrinker::kOptimal ? shrunk_[i].phi : spectrum_.singular_value(i);
    weights_[i] = phi_[i] * phi_[i];
    const auto u = spectrum_.u(i);
    const auto v = spectrum_.v(i);
    // Signs are free; the largest entry of u is positive.
    float largest = 0;
    for (float x : u) largest = std::abs(x) > std::abs(largest) ? x : largest;
    const float sign = largest < 0 ? -1.0f : 1.0f;
    for (size_t t = 0; t < n; ++t) u_[i * n + t] = sign * u[t];
    for (size_t c = 0; c < d; ++c) v_[i * d + c] = sign * v[c];
  }
  if (job.options.closed_loop) {
    u_quantiser_.Fit(u_, rank_, weights_);
    v_quantiser_.Fit(v_, rank_, weights_);
  } else {
    u_quantiser_.FitUniform(u_);
    v_quantiser_.FitUniform(v_);
  }
  u_codes_.resize(u_.size() / 2);
  v_codes_.resize(v_.size() / 2);
  u_quantiser_.Pack(u_, u_codes_.data());
  v_quantiser_.Pack(v_, v_codes_.data());
  RefitPhi(job);
  SubtractLowRank(job);
}

// Least squares of sum c_i u^_i v^_i^T to L = sum phi_i u_i v_i^T, u^ and v^ as decoded.
void TileEncoder::RefitPhi(const TileEncodeJob& job) {
  const size_t n = job.shape.tokens;
  const size_t d = job.shape.dim;
  const size_t r = rank_;
  u_decoded_.resize(r * n);
  v_decoded_.resize(r * d);
  kernels_.expand_nibbles(u_codes_.data(), r * n, u_quantiser_.levels().data(), 1.0f / 128,
                          u_decoded_.data());
  kernels_.expand_nibbles(v_codes_.data(), r * d, v_quantiser_.levels().data(), 1.0f / 128,
                          v_decoded_.data());
  fitted_.assign(r, 0);
  normal_matrix_.assign(r * r, 0);
  const auto dot = [&](const Scratch<float>& a, size_t i, const Scratch<float>& b, size_t j,
                       size_t length) {
    return static_cast<double>(kernels_.dot(&a[i * length], &b[j * length], length));
  };
  if (!job.options.closed_loop) {
    const double stretch = double{u_quantiser_.stretch()} * v_quantiser_.stretch();
    for (size_t i = 0; i < r; ++i) fitted_[i] = phi_[i] / stretch;
  } else {
    for (size_t i = 0; i < r; ++i) {
      for (size_t j = 0; j < r; ++j) {
        normal_matrix_[i * r + j] =
            dot(u_decoded_, i, u_decoded_, j, n) * dot(v_decoded_, i, v_decoded_, j, d);
        fitted_[i] += phi_[j] * dot(u_, j, u_decoded_, i, n) * dot(v_, j, v_decoded_, i, d);
      }
    }
    SolveNormalEquations(normal_matrix_, fitted_);
  }
  half_phi_.resize(r);
  for (size_t i = 0; i < r; ++i) half_phi_[i] = FloatToHalf(static_cast<float>(fitted_[i]));
}

void TileEncoder::SubtractLowRank(const TileEncodeJob& job) {
  const size_t n = job.shape.tokens;
  const size_t d = job.shape.dim;
  const bool closed = job.options.closed_loop;
  v_scaled_.resize(rank_ * d);
  for (size_t i = 0; i < rank_; ++i) {
    // As the decoder multiplies: level * (phi / 128).
    const float phi = closed ? HalfToFloat(half_phi_[i]) : static_cast<float>(phi_[i]);
    const float* v = closed ? &v_decoded_[i * d] : &v_[i * d];
    for (size_t c = 0; c < d; ++c) v_scaled_[i * d + c] = v[c] * phi;
  }
  kernels_.subtract_low_rank(closed ? u_decoded_.data() : u_.data(), 1, n, v_scaled_.data(), rank_,
                             job.shape.tokens, job.shape.dim, residual_.data());
}

void TileEncoder::WriteBody(const TileEncodeJob& job, Candidate* out) {
  const uint32_t n = job.shape.tokens;
  const uint32_t d = job.shape.dim;
  const TileBodyLayout at = LayoutOf(job.shape, out->head);
  out->body.assign(at.total, std::byte{0});
  std::byte* body = out->body.data();
  const ResidualCodebook& codebook = ResidualCodebookFor(d, out->head.bits);
  lengths_.resize(n);
  kernels_.quantise({codebook.bits, codebook.levels.data(), codebook.thresholds.data()},
                    rotated_.data(), n, d, reinterpret_cast<uint8_t*>(body + at.codes),
                    lengths_.data());
  const float reference = *std::max_element(lengths_.begin(), lengths_.end());
  for (size_t t = 0; t < n; ++t) {
    body[at.lengths + t] = static_cast<std::byte>(LengthCodeFor(lengths_[t], reference));
  }
  StoreLe(reference, body + at.reference);
  if (rank_ > 0) {
    std::memcpy(body + at.u_codes, u_codes_.data(), u_codes_.size());
    std::memcpy(body + at.v_codes, v_codes_.data(), v_codes_.size());
    std::memcpy(body + at.u_levels, u_quantiser_.levels().data(), 16);
    std::memcpy(body + at.v_levels, v_quantiser_.levels().data(), 16);
    std::memcpy(body + at.phi, half_phi_.data(), 2 * rank_);
  }
  if (out->head.has_means) std::memcpy(body + at.means, half_means_.data(), 2 * d);
}

void TileEncoder::Measure(const TileEncodeJob& job, Candidate* candidate) {
  const size_t row_bytes = job.shape.dim * SizeOf(job.shape.dtype);
  decoded_.resize(job.shape.bytes());
  TileDecodeJob decode;
  decode.shape = job.shape;
  decode.head = candidate->head;
  decode.body = candidate->body.data();
  decode.rotary = job.rotary;
  decode.values = decoded_.data();
  decode.row_stride = row_bytes;
  decode.read_at_once = true;
  decoder_.Decode(decode);
  ElementRows rows = RowsOf(job);
  rows.data = decoded_.data();
  rows.stride = row_bytes;
  const MeasuredSums sums = kernels_.measure(RowsOf(job), rows, scale_a_, scale_b_);
  const double unit = std::ldexp(1.0, 2 * exponent_);
  candidate->sums.energy = sums.energy * unit;
  candidate->sums.error = sums.error * unit;
  candidate->sums.centred_energy = sums.centred_energy * unit;
  candidate->sums.centred_error = sums.centred_error * unit;
  candidate->sums.inner_product = sums.inner_product * unit;
}

bool TileEncoder::EncodeCandidate(const TileEncodeJob& job, bool with_means, bool keep_tile,
                                  Candidate* out) {
  const size_t n = job.shape.tokens;
  const size_t d = job.shape.dim;
  rank_ = 0;
  if (keep_tile) {
    residual_ = tile_;
  } else {
    residual_.swap(tile_);
  }
  if (with_means) PrepareMeans(job);
  if (job.options.codec == CodecId::kEOptShrinkQ) PrepareLowRank(job);
  const ResidualRotation& rotation = ResidualRotationFor(job.shape.dim);
  rotated_.resize(n * d);
  kernels_.rotate(
      {rotation.dim, rotation.outer, rotation.inner, rotation.signs.data(), rotation.dct.data()},
      residual_.data(), job.shape.tokens, rotated_.data());
  const double bound = job.options.max_relative_error;
  for (uint32_t bits = job.options.bits; bits <= kMaxBits; ++bits) {
    out->head.mode = TileMode::kCoded;
    out->head.bits = static_cast<uint8_t>(bits);
    out->head.rank = static_cast<uint8_t>(rank_);
    out->head.exponent = static_cast<int8_t>(exponent_);
    out->head.has_means = with_means;
    out->head.rotary_undone = job.rotary != nullptr;
    WriteBody(job, out);
    Measure(job, out);
    if (bound == 0 || BoundedError(job, out->sums) <= bound) return true;
  }
  return false;
}

void TileEncoder::Encode(TileEncodeJob* job) {
  const float largest = kernels_.max_abs(RowsOf(*job));
  const bool raw_asked_for = job->options.codec == CodecId::kRaw;
  if (!std::isfinite(largest)) return KeepRaw(job, raw_asked_for);
  LoadTile(*job, largest);
  const auto keep_raw = [&] {
    KeepRaw(job, raw_asked_for);
    const MeasuredSums sums = kernels_.measure(RowsOf(*job), RowsOf(*job), scale_a_, scale_b_);
    const double unit = std::ldexp(1.0, 2 * exponent_);
    job->report.sums = {sums.energy * unit, 0, sums.centred_energy * unit, 0, sums.energy * unit};
  };
  if (raw_asked_for) return keep_raw();

  const bool try_means = MeansMayPay(*job);
  bool met = EncodeCandidate(*job, false, try_means, &plain_);
  Candidate* best = &plain_;
  if (try_means) {
    const bool centred_met = EncodeCandidate(*job, true, false, &centred_);
    const double extra_bits =
        8.0 *
        (static_cast<double>(centred_.body.size()) - static_cast<double>(plain_.body.size())) /
        static_cast<double>(job->shape.entries());
    // Bits spent on the residual buy 6.02 dB each; the means have to beat that.
    const double worth = BoundedError(*job, centred_.sums) * std::exp2(2 * extra_bits);
    if ((centred_met && !met) || (centred_met == met && worth < BoundedError(*job, plain_.sums))) {
      best = &centred_;
      met = centred_met;
    }
  }
  if (!met || best->body.size() >= job->shape.bytes()) return keep_raw();
  std::memcpy(job->body, best->body.data(), best->body.size());
  job->head = best->head;
  job->report = TileReport{};
  job->report.sums = best->sums;
  job->report.rank = best->head.rank;
  job->report.bits = best->head.bits;
  job->report.has_means = best->head.has_means;
}

}  // namespace kvstow::cpu
