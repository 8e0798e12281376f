// What the daemon asks of a GPU, free of CUDA's headers: the plugin (libkvstow_gpu.so) implements
// it, so that one daemon binary starts on machines with and without a driver.
//
// Thread safety: all methods are thread-safe and may be called from any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "codec/codec.h"
#include "codec/record.h"
#include "codec/stored_record.h"
#include "space/plane_layout.h"

namespace kvstow::gpu {

// One copy of a batch. Any of the two ends may be device memory, pinned or ordinary host memory.
struct Copy {
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
  size_t bytes = 0;
};

// Device memory that other processes may map who are given its descriptor (gpu/shared_memory.h).
// The memory goes with the last who has it mapped.
class SharedMemory {
 public:
  virtual ~SharedMemory() = default;
  virtual std::span<std::byte> bytes() const = 0;  // device addresses
  virtual int descriptor() const = 0;              // to be passed on; stays this one's
  virtual void CloseDescriptor() = 0;              // nobody else will be given it
};

// What names a GPU in every process that sees it.
using DeviceUuid = std::array<uint8_t, 16>;

// Reads planes of stored records into device memory, many at a time. One call at a time.
class PlaneReader {
 public:
  enum class Form { kDecoded, kEncoded };
  struct Plane {
    uint32_t record = 0;      // into the records of the call
    uint32_t plane = 0;       // as in layout.planes()
    std::byte* to = nullptr;  // device memory, aligned to 16: the plane's raw_bytes, C order, or,
                              // encoded, its stored bytes rounded up to 16
    bool damaged = false;     // out
  };

  virtual ~PlaneReader() = default;
  // Planes ascending within a record; all aligned records of the layout that the reader is for. A
  // decoded plane whose checksum or table is wrong is marked as damaged, and none of it is written;
  // encoded ones are copied unseen. Returns when all is there: INTERNAL when the device is lost,
  // INVALID_ARGUMENT for what could never be read.
  virtual absl::Status Read(std::span<const StoredRecord> records, Form form,
                            std::span<Plane> planes) = 0;
};

// Encodes planes in device memory, many at a time. One call at a time.
class PlaneWriter {
 public:
  struct Plane {
    uint32_t plane = 0;  // as in layout.planes()
    uint64_t first_position = 0;
    const std::byte* values = nullptr;   // device memory, aligned to 16: raw_bytes, C order
    PlaneSummary summary;                // out
    const std::byte* encoded = nullptr;  // out: summary.bytes in host memory, until the next End
  };

  virtual ~PlaneWriter() = default;
  // What a plane counts for in a call, and how much a call may have. One plane always fits.
  virtual size_t LoadOf(uint32_t plane) const = 0;
  virtual size_t max_load() const = 0;
  // Starts encoding, with the values copied first, so that nobody can change them under way: they
  // are not read any more when this returns. INTERNAL when the device is lost, INVALID_ARGUMENT for
  // more than max_load().
  virtual absl::Status Begin(std::span<const Plane> planes) = 0;
  // Returns when that is done, and fills in what became of the same planes. Each Begin that
  // succeeds is followed by one.
  virtual absl::Status End(std::span<Plane> planes) = 0;
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
  // The same from device memory to pinned memory, for many small pieces: by one kernel instead of a
  // copy each. Addresses and sizes are multiples of 16.
  virtual absl::Status FetchAll(std::span<const Copy> copies) = 0;

  virtual DeviceUuid uuid() const = 0;
  // Zeros, a whole number of the device's large pages. RESOURCE_EXHAUSTED when there is not so
  // much, UNIMPLEMENTED where the driver shares none.
  virtual absl::StatusOr<std::unique_ptr<SharedMemory>> Share(size_t bytes) = 0;
  // What another process shares, all of it. The descriptor stays the caller's. FAILED_PRECONDITION
  // when it is no such memory, or of another size or device.
  virtual absl::StatusOr<std::unique_ptr<SharedMemory>> Import(int descriptor, size_t bytes) = 0;

  // For records of up to `max_records` a call. Takes all the memory that it will ever use; borrows
  // the layout and the device. RESOURCE_EXHAUSTED when there is too little.
  virtual absl::StatusOr<std::unique_ptr<PlaneReader>> NewPlaneReader(const PlaneLayout& layout,
                                                                      size_t max_records) = 0;

  // For calls of `max_bytes` of raw planes, about, at up to `max_blocks` positions. Takes all the
  // memory that it will ever use, several times `max_bytes`; borrows the layout and the device.
  // RESOURCE_EXHAUSTED when there is too little.
  virtual absl::StatusOr<std::unique_ptr<PlaneWriter>> NewPlaneWriter(const PlaneLayout& layout,
                                                                      size_t max_bytes,
                                                                      size_t max_blocks) = 0;

  // INTERNAL once the device or its context is lost: only a new process helps.
  virtual absl::Status health() const = 0;
  // CUDA calls that failed so far.
  virtual uint64_t errors() const = 0;
};

// What the plugin exports, for those that load it and those that link it.
struct Plugin {
  const char* version;  // KVSTOW_PLUGIN_VERSION of its build (gpu/api/check_plugin.h)
  // UNAVAILABLE where there is no such device, no driver, or no kernels for its architecture.
  absl::StatusOr<std::unique_ptr<Device>> (*open)(int index);
};
extern "C" const Plugin kvstow_gpu_plugin;
inline constexpr char kPluginEntry[] = "kvstow_gpu_plugin";

}  // namespace kvstow::gpu
