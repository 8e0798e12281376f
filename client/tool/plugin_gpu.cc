#include "client/tool/plugin_gpu.h"

#include <utility>
#include <vector>

#include "gpu/api/load_plugin.h"

namespace kvstow::tool {
namespace {

class Region final : public WorkerGpuRegion {
 public:
  explicit Region(std::unique_ptr<gpu::SharedMemory> memory) : memory_(std::move(memory)) {}
  std::span<std::byte> bytes() const override { return memory_->bytes(); }

 private:
  const std::unique_ptr<gpu::SharedMemory> memory_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<PluginGpu>> PluginGpu::Open(const std::string& plugin) {
  auto device = gpu::OpenDevice(plugin, 0);
  if (!device.ok()) return device.status();
  return std::shared_ptr<PluginGpu>(new PluginGpu(*std::move(device)));
}

absl::StatusOr<std::unique_ptr<WorkerGpuRegion>> PluginGpu::Import(const OwnedFd& memory,
                                                                   uint64_t bytes,
                                                                   const StagingProbe& probe) {
  auto mapped = device_->Import(memory.get(), bytes);
  if (!mapped.ok()) return mapped.status();
  std::byte* const at = (*mapped)->bytes().data();
  StagingProbe found;
  const gpu::Copy read{reinterpret_cast<std::byte*>(found.bytes.data()), at, found.bytes.size()};
  if (auto s = device_->CopyAll({&read, 1}); !s.ok()) return s;
  if (!(found == probe)) {
    return absl::FailedPreconditionError("the worker does not see what the daemon wrote");
  }
  const StagingProbe answer = probe.Answer();
  const gpu::Copy write{at + found.bytes.size(),
                        reinterpret_cast<const std::byte*>(answer.bytes.data()),
                        answer.bytes.size()};
  if (auto s = device_->CopyAll({&write, 1}); !s.ok()) return s;
  return std::make_unique<Region>(*std::move(mapped));
}

absl::Status TryDeviceMemory(const ClientOptions& options) {
  const auto client = Client::Create(options);
  SpaceSpec spec;
  spec.model.name = "kvstow tool";
  spec.groups = {{.layers = {0}, .kv_heads = 1, .k_dim = 64, .v_dim = 64, .rotary = {}}};
  auto space = client->OpenSpace(spec);
  if (!space.ok()) return space.status();
  // Opens a session, and with it asks for memory.
  const auto looked = (*space)->Lookup((*space)->Keys(std::vector<uint32_t>(128, 0)),
                                       {.ttl = absl::ZeroDuration()});
  return looked.status.ok() ? client->health().no_device_memory : looked.status;
}

}  // namespace kvstow::tool
