// What the daemon finds in libkvstow_gpu.so.
#include "gpu/api/plugin_version.h"
#include "gpu/cuda_device.h"

extern "C" {
extern const kvstow::gpu::Plugin kvstow_gpu_plugin;
const kvstow::gpu::Plugin kvstow_gpu_plugin = {kvstow::gpu::kPluginVersion,
                                               &kvstow::gpu::CudaDevice::Open};
}
