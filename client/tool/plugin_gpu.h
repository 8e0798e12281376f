// The GPU of this tool, which links no CUDA: the plugin's device in a worker's place.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/kvstow/client.h"
#include "client/worker_gpu.h"
#include "gpu/api/device.h"

namespace kvstow::tool {

// Thread-safe.
class PluginGpu final : public WorkerGpu {
 public:
  // The first device. `plugin`: its path, empty to look for it as kvstowd does. UNAVAILABLE says
  // why there is none.
  static absl::StatusOr<std::shared_ptr<PluginGpu>> Open(const std::string& plugin);

  SideChannelUuid uuid() const override { return device_->uuid(); }
  absl::StatusOr<std::unique_ptr<WorkerGpuRegion>> Import(const OwnedFd& memory, uint64_t bytes,
                                                          const StagingProbe& probe) override;
  gpu::Device& device() { return *device_; }

 private:
  explicit PluginGpu(std::unique_ptr<gpu::Device> device) : device_(std::move(device)) {}

  const std::unique_ptr<gpu::Device> device_;
};

// Whether the daemon shares device memory with a client of these options; if not, why, and
// UNAVAILABLE where no daemon answered. For real: it opens a session.
absl::Status TryDeviceMemory(const ClientOptions& options);

}  // namespace kvstow::tool
