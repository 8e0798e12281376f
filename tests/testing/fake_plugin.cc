// A GPU plugin without a GPU: a FakeDevice that the test in the same process gets hold of.
#include "gpu/api/plugin_version.h"
#include "gpu/api/testing/fake_device.h"

namespace {

kvstow::gpu::FakeDevice* opened = nullptr;

}  // namespace

extern "C" {

// The device of the daemon that was started last. Its tests start one at a time.
kvstow::gpu::FakeDevice* kvstow_fake_device() { return opened; }

extern const kvstow::gpu::Plugin kvstow_gpu_plugin;
const kvstow::gpu::Plugin kvstow_gpu_plugin = {
    kvstow::gpu::kPluginVersion,
    [](int index) -> absl::StatusOr<std::unique_ptr<kvstow::gpu::Device>> {
      if (index != 0) return absl::UnavailableError("the fake plugin has one device");
      auto device = std::make_unique<kvstow::gpu::FakeDevice>();
      opened = device.get();
      return device;
    }};
}
