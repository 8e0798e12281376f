#include "codec/cpu/tile_decoder.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#include "codec/cpu/rotary_view.h"
#include "codec/half.h"
#include "codec/length_code.h"
#include "codec/little_endian.h"
#include "codec/residual_codebook.h"
#include "codec/residual_rotation.h"

namespace kvstow::cpu {
namespace {

const uint8_t* Bytes(const std::byte* p) { return reinterpret_cast<const uint8_t*>(p); }

void CopyRaw(const TileDecodeJob& job) {
  const size_t row_bytes = job.shape.dim * SizeOf(job.shape.dtype);
  for (size_t t = 0; t < job.shape.tokens; ++t) {
    std::memcpy(job.values + t * job.row_stride, job.body + t * row_bytes, row_bytes);
  }
}

// What is decoded is mostly read by another core, and not at once: past the caches no line is read
// before it is written, or taken from the core that read what lay there before.
bool GoesPastCaches(const TileDecodeJob& job) {
  const size_t vector_bytes = 8 * SizeOf(job.shape.dtype);
  const auto address = reinterpret_cast<uintptr_t>(job.values);
  return !job.read_at_once && (address | job.row_stride) % vector_bytes == 0;
}

}  // namespace

void TileDecoder::ExpandLengths(const TileDecodeJob& job, const TileBodyLayout& at) {
  float reference = LoadLe<float>(job.body + at.reference);
  if (!std::isfinite(reference)) reference = 0;
  const auto& factors = LengthFactors();
  lengths_.resize(job.shape.tokens);
  const uint8_t* codes = Bytes(job.body + at.lengths);
  for (size_t t = 0; t < lengths_.size(); ++t) lengths_[t] = reference * factors[codes[t]];
}

void TileDecoder::ExpandFactors(const TileDecodeJob& job, const TileBodyLayout& at) {
  const size_t n = job.shape.tokens;
  const size_t d = job.shape.dim;
  const size_t rank = job.head.rank;
  if (rank == 0) return;
  u_.resize(rank * n);
  v_.resize(rank * d);
  const auto* u_levels = reinterpret_cast<const int8_t*>(job.body + at.u_levels);
  const auto* v_levels = reinterpret_cast<const int8_t*>(job.body + at.v_levels);
  kernels_.expand_nibbles(Bytes(job.body + at.u_codes), rank * n, u_levels, 1.0f / 128, u_.data());
  for (size_t i = 0; i < rank; ++i) {
    const float phi = HalfToFloat(LoadLe<uint16_t>(job.body + at.phi + 2 * i));
    kernels_.expand_nibbles(Bytes(job.body + at.v_codes + i * (d / 2)), d, v_levels, phi / 128,
                            v_.data() + i * d);
  }
}

void TileDecoder::ExpandMeans(const TileDecodeJob& job, const TileBodyLayout& at) {
  if (!job.head.has_means) return;
  means_.resize(job.shape.dim);
  for (size_t c = 0; c < means_.size(); ++c) {
    means_[c] = HalfToFloat(LoadLe<uint16_t>(job.body + at.means + 2 * c));
  }
}

void TileDecoder::Decode(const TileDecodeJob& job) {
  if (job.head.mode == TileMode::kRaw) return CopyRaw(job);
  const TileBodyLayout at = LayoutOf(job.shape, job.head);
  ExpandLengths(job, at);
  ExpandFactors(job, at);
  ExpandMeans(job, at);
  const ResidualRotation& rotation = ResidualRotationFor(job.shape.dim);
  const ResidualCodebook& codebook = ResidualCodebookFor(job.shape.dim, job.head.bits);
  Rotary rotary = {};
  if (job.head.rotary_undone) rotary = ViewOf(*job.rotary);

  DecodeArgs args = {};
  args.rows = job.shape.tokens;
  args.dim = job.shape.dim;
  args.dtype = static_cast<uint32_t>(job.shape.dtype);
  args.codebook = {codebook.bits, codebook.levels.data(), codebook.thresholds.data()};
  args.rotation = {rotation.dim, rotation.outer, rotation.inner, rotation.signs.data(),
                   rotation.dct.data()};
  args.codes = Bytes(job.body + at.codes);
  args.lengths = lengths_.data();
  args.rank = job.head.rank;
  args.u = u_.data();
  args.v = v_.data();
  args.means = job.head.has_means ? means_.data() : nullptr;
  args.rotary = job.head.rotary_undone ? &rotary : nullptr;
  args.scale = std::ldexp(1.0f, job.head.exponent);
  args.out = job.values;
  args.out_stride = job.row_stride;
  args.past_caches = GoesPastCaches(job);
  kernels_.decode(args);
}

}  // namespace kvstow::cpu
