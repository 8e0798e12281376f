// The GPU as the daemon uses it: found, or not and why; its codecs and its tier.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "codec/codec.h"
#include "gpu/api/device.h"
#include "server/app/config.h"
#include "server/tiers/gpu_tier.h"

namespace kvstow {

// Members are destroyed from the last to the first.
struct Accelerator {
  // UNAVAILABLE when the configuration asks for a GPU and there is none; with device auto that is
  // no error but a reason in why_not.
  static absl::StatusOr<Accelerator> Open(const DaemonConfig& config);

  std::unique_ptr<gpu::Device> device;  // null: CPU only
  std::string why_not;
  std::vector<std::unique_ptr<Codec>> codecs;  // empty without a device
  std::unique_ptr<GpuTier> tier;  // null when none was asked for or it could not be had
};

}  // namespace kvstow
