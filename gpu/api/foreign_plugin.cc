// A plugin as another release would have built it.
#include "gpu/api/device.h"

extern "C" const kvstow::gpu::Plugin kvstow_gpu_plugin;
const kvstow::gpu::Plugin kvstow_gpu_plugin = {
    "0.0.0-foreign", [](int) -> absl::StatusOr<std::unique_ptr<kvstow::gpu::Device>> {
      return absl::InternalError("never to be asked");
    }};
