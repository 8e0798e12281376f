// The CPU behind the Codec interface: checks jobs, then hands them tile by tile to an encoder or
// decoder that each thread keeps, so that steady state allocates nothing.
#include <cpuid.h>

#include <optional>

#include "codec/codec.h"
#include "codec/cpu/kernels.h"
#include "codec/cpu/tile_decoder.h"
#include "codec/cpu/tile_encoder.h"
#include "codec/job_checks.h"

namespace kvstow {
namespace {

// An encoder or a decoder. What it holds is Scratch, and so overwritten when it makes room for the
// next owner's.
template <typename Coder, const cpu::Kernels& (*kKernels)()>
class KeptFor {
 public:
  Coder& Owner(uint32_t owner) {
    if (!coder_ || owner != owner_) coder_.emplace(kKernels());
    owner_ = owner;
    return *coder_;
  }

 private:
  std::optional<Coder> coder_;
  uint32_t owner_ = 0;
};

template <const cpu::Kernels& (*kKernels)()>
class CpuCodecOn final : public Codec {
 public:
  absl::string_view device() const override { return "cpu"; }
  absl::string_view description() const override { return kKernels().name; }

  absl::Status Encode(std::span<TileEncodeJob> jobs) override {
    for (const TileEncodeJob& job : jobs) {
      if (auto s = CheckEncodeJob(job); !s.ok()) return s;
    }
    thread_local KeptFor<cpu::TileEncoder, kKernels> encoder;
    for (TileEncodeJob& job : jobs) encoder.Owner(job.owner).Encode(&job);
    return absl::OkStatus();
  }

  absl::Status Decode(std::span<const TileDecodeJob> jobs) override {
    for (const TileDecodeJob& job : jobs) {
      if (auto s = CheckDecodeJob(job); !s.ok()) return s;
    }
    thread_local KeptFor<cpu::TileDecoder, kKernels> decoder;
    for (const TileDecodeJob& job : jobs) decoder.Owner(job.owner).Decode(job);
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
