// Calls of kvstow's in a worker's process whose other threads may capture CUDA graphs. By default
// (cudaStreamCaptureModeGlobal) such a capture ends with an error as soon as any thread allocates,
// frees, or asks or waits for an event or a stream. Not those of threads that say they know what
// they do, which kvstow's may: nothing of it is ever part of the engine's graphs.
//
// Two things end a capture all the same: cudaDeviceSynchronize and, where the stream that captures
// is not cudaStreamNonBlocking, whatever goes by the legacy default stream.
#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "gpu/cuda_status.h"

namespace kvstow {

// Has this thread use a device, in that way until its end. Not from a thread that captures.
class CaptureSafe {
 public:
  explicit CaptureSafe(int device) : status_(Begin(device)) {}
  ~CaptureSafe() {
    if (status_.ok()) (void)cudaThreadExchangeStreamCaptureMode(&mode_);
  }
  CaptureSafe(const CaptureSafe&) = delete;
  CaptureSafe& operator=(const CaptureSafe&) = delete;

  const absl::Status& status() const { return status_; }

 private:
  absl::Status Begin(int device) {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device));
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaThreadExchangeStreamCaptureMode(&mode_));
    return absl::OkStatus();
  }

  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;  // then the thread's own
  absl::Status status_;
};

}  // namespace kvstow
