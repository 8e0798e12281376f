// What the daemon finds in libkvstow_gpu.so.
#include "gpu/api/plugin_version.h"
#include "gpu/cuda_device.h"

namespace kvstow::gpu {

extern "C" const Plugin kvstow_gpu_plugin = {KVSTOW_PLUGIN_VERSION, &CudaDevice::Open};

}  // namespace kvstow::gpu
