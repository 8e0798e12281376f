// What the daemon asks of a GPU, free of CUDA's headers: the plugin (libkvstow_gpu.so) implements
// it, so that one daemon binary starts on machines with and without a driver.
//
// Thread safety: all methods are thread-safe and may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "codec/codec.h"

namespace kvstow::gpu {

// One copy of a batch. Any of the two ends may be device memory, pinned or ordinary host memory.
struct Copy {
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
  size_t bytes = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  // For people: "NVIDIA H200 (sm_90)".
  virtual absl::string_view description() const = 0;

  // The CUDA twin for tiles in host memory. Each has a stream and buffers of its own, so that two
  // of them overlap copies and kernels; the first batch is as fast as later ones. Must not outlive
  // the device.
  virtual absl::StatusOr<std::unique_ptr<Codec>> NewCodec() = 0;

  // Device memory. RESOURCE_EXHAUSTED when there is not so much.
  virtual absl::StatusOr<std::byte*> Allocate(size_t bytes) = 0;
  virtual void Free(std::byte* memory) = 0;

  // Makes ordinary memory pinned, whole pages; may take long. RESOURCE_EXHAUSTED at the limit of
  // locked memory.
  virtual absl::Status Pin(std::byte* memory, size_t bytes) = 0;
  virtual void Unpin(std::byte* memory) = 0;

  // Returns when all of them are done. Copies must not overlap.
  virtual absl::Status CopyAll(std::span<const Copy> copies) = 0;

  // INTERNAL once the device or its context is lost: only a new process helps.
  virtual absl::Status health() const = 0;
  // CUDA calls that failed so far.
  virtual uint64_t errors() const = 0;
};

// What the plugin exports, by this name. The version must be the loader's own: the two share C++
// types.
inline constexpr char kPluginEntry[] = "kvstow_gpu_plugin";
struct Plugin {
  const char* version;
  // UNAVAILABLE where there is no such device, no driver, or no kernels for its architecture.
  absl::StatusOr<std::unique_ptr<Device>> (*open)(int index);
};

}  // namespace kvstow::gpu
