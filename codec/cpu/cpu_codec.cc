// The CPU behind the Codec interface: checks jobs, then hands them tile by tile to an encoder or
// decoder that each thread keeps, so that steady state allocates nothing.
#include <cpuid.h>

#include "absl/strings/str_cat.h"
#include "codec/codec.h"
#include "codec/cpu/kernels.h"
#include "codec/cpu/tile_decoder.h"
#include "codec/cpu/tile_encoder.h"

namespace kvstow {
namespace {

absl::Status CheckRotary(const TileShape& shape, const RotaryTable& rotary) {
  if (uint64_t{rotary.offset()} + 2 * uint64_t{rotary.pairs()} > shape.dim) {
    return absl::InvalidArgumentError("rotary table reaches beyond the tile's channels");
  }
  return absl::OkStatus();
}

absl::Status CheckShape(const TileShape& shape, bool coded) {
  if (!IsValid(shape.dtype)) return absl::InvalidArgumentError("tile has no known dtype");
  if (coded && !IsSupportedDim(shape.dim)) {
    return absl::InvalidArgumentError(absl::StrCat("no codec for dim ", shape.dim));
  }
  if (coded && !IsSupportedBlockTokens(shape.tokens)) {
    return absl::InvalidArgumentError(absl::StrCat("no codec for ", shape.tokens, " tokens"));
  }
  return absl::OkStatus();
}

absl::Status CheckEncodeJob(const TileEncodeJob& job) {
  const TileEncodeOptions& options = job.options;
  const bool coded = options.codec != CodecId::kRaw;
  if (options.codec > CodecId::kEOptShrinkQ) return absl::InvalidArgumentError("unknown codec");
  if (auto s = CheckShape(job.shape, coded); !s.ok()) return s;
  if (coded && (options.bits < 1 || options.bits > 4)) {
    return absl::InvalidArgumentError(absl::StrCat("bits ", options.bits, " not in 1..4"));
  }
  if (!(options.max_relative_error >= 0)) {
    return absl::InvalidArgumentError("max_relative_error is negative or not a number");
  }
  if (job.values == nullptr || job.body == nullptr) {
    return absl::InvalidArgumentError("encode job without values or body");
  }
  return job.rotary != nullptr ? CheckRotary(job.shape, *job.rotary) : absl::OkStatus();
}

absl::Status CheckDecodeJob(const TileDecodeJob& job) {
  const bool coded = job.head.mode == TileMode::kCoded;
  if (auto s = CheckShape(job.shape, coded); !s.ok()) return s;
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
  return CheckRotary(job.shape, *job.rotary);
}

template <const cpu::Kernels& (*kKernels)()>
class CpuCodecOn final : public Codec {
 public:
  absl::string_view device() const override { return "cpu"; }
  absl::string_view description() const override { return kKernels().name; }

  absl::Status Encode(std::span<TileEncodeJob> jobs) override {
    for (const TileEncodeJob& job : jobs) {
      if (auto s = CheckEncodeJob(job); !s.ok()) return s;
    }
    thread_local cpu::TileEncoder encoder(kKernels());
    for (TileEncodeJob& job : jobs) encoder.Encode(&job);
    return absl::OkStatus();
  }

  absl::Status Decode(std::span<const TileDecodeJob> jobs) override {
    for (const TileDecodeJob& job : jobs) {
      if (auto s = CheckDecodeJob(job); !s.ok()) return s;
    }
    thread_local cpu::TileDecoder decoder(kKernels());
    for (const TileDecodeJob& job : jobs) decoder.Decode(job);
    return absl::OkStatus();
  }
};

// Not every compiler's __builtin_cpu_supports knows F16C.
bool F16cSupported() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

bool Avx2Supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && F16cSupported();
}

}  // namespace

Codec* CpuCodec(CpuIsa isa) {
  static CpuCodecOn<cpu::PortableKernels> portable;
  static CpuCodecOn<cpu::Avx2Kernels> avx2;
  static const bool has_avx2 = Avx2Supported();
  switch (isa) {
    case CpuIsa::kPortable:
      return &portable;
    case CpuIsa::kAvx2:
      return has_avx2 ? &avx2 : nullptr;
    case CpuIsa::kBest:
      break;
  }
  return has_avx2 ? static_cast<Codec*>(&avx2) : &portable;
}

}  // namespace kvstow
