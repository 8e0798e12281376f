// A plugin as another state of the same release's headers would have built it.
#include "gpu/api/device.h"

extern "C" const kvstow::gpu::Plugin kvstow_gpu_plugin;
const kvstow::gpu::Plugin kvstow_gpu_plugin = {
    FOREIGN_VERSION, [](int) -> absl::StatusOr<std::unique_ptr<kvstow::gpu::Device>> {
      return absl::InternalError("never to be asked");
    }};
