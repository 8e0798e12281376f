// What the daemon finds in libkvstow_gpu.so.
#include "gpu/cuda_device.h"

extern "C" __attribute__((visibility("default")))
const kvstow::gpu::Plugin kvstow_gpu_plugin = {KVSTOW_VERSION, &kvstow::gpu::CudaDevice::Open};
