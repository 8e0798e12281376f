// What the daemon finds in libkvstow_gpu.so.
#include "gpu/cuda_device.h"

extern "C" {
extern const kvstow::gpu::Plugin kvstow_gpu_plugin;
const kvstow::gpu::Plugin kvstow_gpu_plugin = {KVSTOW_VERSION, &kvstow::gpu::CudaDevice::Open};
}
