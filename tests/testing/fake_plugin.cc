// A GPU plugin without a GPU: a FakeDevice that the test in the same process gets hold of.
#include "gpu/api/plugin_version.h"
#include "gpu/api/testing/fake_device.h"

namespace kvstow::gpu {
namespace {

FakeDevice* opened = nullptr;

}  // namespace

extern "C" {

// The device of the daemon that was started last. Its tests start one at a time.
FakeDevice* kvstow_fake_device() { return opened; }

const Plugin kvstow_gpu_plugin = {
    KVSTOW_PLUGIN_VERSION, [](int index) -> absl::StatusOr<std::unique_ptr<Device>> {
      if (index != 0) return absl::UnavailableError("the fake plugin has one device");
      auto device = std::make_unique<FakeDevice>();
      opened = device.get();
      return device;
    }};

}  // extern "C"
}  // namespace kvstow::gpu
