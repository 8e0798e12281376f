#include "client/tool/doctor/device_memory.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/kvstow/client.h"
#include "client/tool/plugin_gpu.h"

namespace kvstow::tool {
namespace {

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
  auto gpu = PluginGpu::Open(plugin);
  if (!gpu.ok()) {
    checkup->Skip(kCheck, absl::StrCat("no GPU to try it with: ", gpu.status().message()));
    return;
  }
  ClientOptions options = connection.Options();
  options.gpu = *gpu;
  options.path = DataPath::kAuto;
  const absl::Status why = TryDeviceMemory(options);
  if (why.ok()) {
    checkup->Ok(kCheck, absl::StrCat("memory of ", (*gpu)->device().description(),
                                     " is shared with the daemon, proved from both ends"));
  } else {
    checkup->Warn(kCheck, absl::StrCat("not available: ", why.message()), AdviceFor(why));
  }
}

}  // namespace kvstow::tool
