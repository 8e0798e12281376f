// What every codec asks of a job before it touches its pointers: INVALID_ARGUMENT otherwise.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "codec/codec.h"

namespace kvstow {
namespace internal {

inline absl::Status CheckRotary(const TileShape& shape, const RotaryTable& rotary) {
  if (rotary.pairs() == 0) return absl::InvalidArgumentError("rotary table without channels");
  if (uint64_t{rotary.offset()} + 2 * uint64_t{rotary.pairs()} > shape.dim) {
    return absl::InvalidArgumentError("rotary table reaches beyond the tile's channels");
  }
  return absl::OkStatus();
}

inline absl::Status CheckShape(const TileShape& shape, bool coded) {
  if (!IsValid(shape.dtype)) return absl::InvalidArgumentError("tile has no known dtype");
  if (coded && !IsSupportedDim(shape.dim)) {
    return absl::InvalidArgumentError(absl::StrCat("no codec for dim ", shape.dim));
  }
  if (coded && !IsSupportedBlockTokens(shape.tokens)) {
    return absl::InvalidArgumentError(absl::StrCat("no codec for ", shape.tokens, " tokens"));
  }
  return absl::OkStatus();
}

}  // namespace internal

inline absl::Status CheckEncodeJob(const TileEncodeJob& job) {
  const TileEncodeOptions& options = job.options;
  const bool coded = options.codec != CodecId::kRaw;
  if (options.codec > CodecId::kEOptShrinkQ) return absl::InvalidArgumentError("unknown codec");
  if (auto s = internal::CheckShape(job.shape, coded); !s.ok()) return s;
  if (coded && (options.bits < 1 || options.bits > 4)) {
    return absl::InvalidArgumentError(absl::StrCat("bits ", options.bits, " not in 1..4"));
  }
  if (!(options.max_relative_error >= 0)) {
    return absl::InvalidArgumentError("max_relative_error is negative or not a number");
  }
  if (job.values == nullptr || job.body == nullptr) {
    return absl::InvalidArgumentError("encode job without values or body");
  }
  return job.rotary != nullptr ? internal::CheckRotary(job.shape, *job.rotary) : absl::OkStatus();
}

inline absl::Status CheckDecodeJob(const TileDecodeJob& job) {
  const bool coded = job.head.mode == TileMode::kCoded;
  if (auto s = internal::CheckShape(job.shape, coded); !s.ok()) return s;
  if (coded && (job.head.bits < 1 || job.head.bits > 4 || job.head.rank > kMaxRank)) {
    return absl::InvalidArgumentError("tile head out of range");
  }
  if (job.values == nullptr || job.body == nullptr) {
    return absl::InvalidArgumentError("decode job without values or body");
  }
  if (!job.head.rotary_undone) return absl::OkStatus();
  if (job.rotary == nullptr) {
    return absl::InvalidArgumentError("tile with rotary embedding undone needs a rotary table");
  }
  return internal::CheckRotary(job.shape, *job.rotary);
}

}  // namespace kvstow
