// A worker's GPU as the client library sees it, free of CUDA: kvstow/cuda.h makes one.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "staging/side_channel.h"

namespace kvstow {

// Memory of the daemon's on this GPU, mapped into this process.
class WorkerGpuRegion {
 public:
  virtual ~WorkerGpuRegion() = default;
  virtual std::span<std::byte> bytes() const = 0;  // device addresses
};

class WorkerGpu {
 public:
  virtual ~WorkerGpu() = default;
  // What names it in every process that sees it.
  virtual SideChannelUuid uuid() const = 0;
  // Maps what the daemon shares, finds its probe and answers it (StagingProbe).
  // FAILED_PRECONDITION when it is not there.
  virtual absl::StatusOr<std::unique_ptr<WorkerGpuRegion>> Import(const OwnedFd& memory,
                                                                  uint64_t bytes,
                                                                  const StagingProbe& probe) = 0;
};

}  // namespace kvstow
