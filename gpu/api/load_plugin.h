// Finds and loads the GPU plugin.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "gpu/api/device.h"

namespace kvstow::gpu {

// Opens device `index` through the plugin at `path`; an empty path looks for libkvstow_gpu.so
// beside this program, in ../lib/kvstow, and where a build tree has it. The plugin stays loaded.
// UNAVAILABLE says why there is none: no plugin, no driver, no device, another version.
absl::StatusOr<std::unique_ptr<Device>> OpenDevice(const std::string& path, int index);

}  // namespace kvstow::gpu
