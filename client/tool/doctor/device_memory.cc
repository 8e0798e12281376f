#include "client/tool/doctor/device_memory.h"

#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/kvstow/client.h"
#include "client/worker_gpu.h"
#include "gpu/api/load_plugin.h"

namespace kvstow::tool {
namespace {

// The plugin's device in a worker's place: this tool links no CUDA.
class PluginGpu final : public WorkerGpu {
 public:
  explicit PluginGpu(std::unique_ptr<gpu::Device> device) : device_(std::move(device)) {}

  SideChannelUuid uuid() const override { return device_->uuid(); }
  absl::StatusOr<std::unique_ptr<WorkerGpuRegion>> Import(const OwnedFd& memory, uint64_t bytes,
                                                          const StagingProbe& probe) override {
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
  std::string description() const { return std::string(device_->description()); }

 private:
  class Region final : public WorkerGpuRegion {
   public:
    explicit Region(std::unique_ptr<gpu::SharedMemory> memory) : memory_(std::move(memory)) {}
    std::span<std::byte> bytes() const override { return memory_->bytes(); }

   private:
    const std::unique_ptr<gpu::SharedMemory> memory_;
  };

  const std::unique_ptr<gpu::Device> device_;
};

std::string AdviceFor(const absl::Status& status) {
  const absl::string_view why = status.message();
  if (absl::StrContains(why, "another one than the daemon's")) {
    return "give both containers one claim (deploy/kubernetes/overlays/gpu)";
  }
  if (absl::IsResourceExhausted(status)) {
    return "raise `staging.device_total`, or leave more of the device's memory free";
  }
  if (absl::StrContains(why, "nobody offers")) {
    return "set `staging`, and mount the folder of the daemon's socket whole";
  }
  if (absl::StrContains(why, "uses no GPU")) {
    return "its log says why it uses none; `staging.device_total` must not be \"none\"";
  }
  return "KV goes through host memory meanwhile; see docs/operations.md, Troubleshooting";
}

}  // namespace

void CheckDeviceMemory(const Connection& connection, const std::string& plugin, Checkup* checkup) {
  constexpr char kCheck[] = "path cuda";
  auto device = gpu::OpenDevice(plugin, 0);
  if (!device.ok()) {
    checkup->Skip(kCheck, absl::StrCat("no GPU to try it with: ", device.status().message()));
    return;
  }
  const auto gpu = std::make_shared<PluginGpu>(*std::move(device));
  ClientOptions options = connection.Options();
  options.gpu = gpu;
  options.path = DataPath::kAuto;
  const auto client = Client::Create(options);
  SpaceSpec spec;
  spec.model.name = "kvstow doctor";
  spec.groups = {{.layers = {0}, .kv_heads = 1, .k_dim = 64, .v_dim = 64, .rotary = {}}};
  auto space = client->OpenSpace(spec);
  if (!space.ok()) {
    checkup->Fail(kCheck, space.status().ToString(), "this is a fault of kvstow: report it");
    return;
  }
  // Opens a session, and with it asks for memory.
  const auto looked = (*space)->Lookup((*space)->Keys(std::vector<uint32_t>(128, 0)),
                                       {.ttl = absl::ZeroDuration()});
  const absl::Status why = looked.status.ok() ? client->health().no_device_memory : looked.status;
  if (why.ok()) {
    checkup->Ok(kCheck, absl::StrCat("memory of ", gpu->description(),
                                     " is shared with the daemon, proved from both ends"));
  } else {
    checkup->Warn(kCheck, absl::StrCat("not available: ", why.message()), AdviceFor(why));
  }
}

}  // namespace kvstow::tool
