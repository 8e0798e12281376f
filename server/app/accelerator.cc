#include "server/app/accelerator.h"

#include <utility>

#include "gpu/api/load_plugin.h"
#include "server/core/status_macros.h"
#include "spdlog/spdlog.h"

namespace kvstow {
namespace {

// One batch is copied while the other is computed.
constexpr int kCodecs = 2;

}  // namespace

absl::StatusOr<Accelerator> Accelerator::Open(const DaemonConfig& config) {
  Accelerator out;
  if (config.device == DaemonConfig::Device::kCpu) {
    out.why_not = "device is cpu";
    return out;
  }
  auto device = gpu::OpenDevice(config.gpu_plugin, config.device_index);
  if (!device.ok()) {
    if (config.device == DaemonConfig::Device::kCuda) return device.status();
    out.why_not = std::string(device.status().message());
    return out;
  }
  out.device = *std::move(device);
  for (int i = 0; i < kCodecs; ++i) {
    auto codec = out.device->NewCodec();
    if (codec.ok()) {
      out.codecs.push_back(*std::move(codec));
    } else if (!out.codecs.empty()) {
      break;  // one is enough
    } else if (config.device == DaemonConfig::Device::kCuda) {
      return codec.status();
    } else {
      out.why_not = std::string(codec.status().message());
      out.device = nullptr;
      return out;
    }
  }
  if (config.gpu_tier_bytes > 0) {
    auto tier = GpuTier::Create(out.device.get(), config.gpu_tier_bytes);
    if (tier.ok()) {
      out.tier = *std::move(tier);
    } else {
      spdlog::warn("kvstowd goes on without a gpu tier, records stay in host memory: {}",
                   std::string(tier.status().message()));
    }
  }
  return out;
}

}  // namespace kvstow
