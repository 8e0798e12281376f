// Streams and events that end with their owner. Not thread-safe.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

#include "absl/status/statusor.h"
#include "gpu/cuda_status.h"

namespace kvstow::gpu {

template <typename Handle, cudaError_t (*kDestroy)(Handle)>
class CudaHandle {
 public:
  CudaHandle() = default;
  explicit CudaHandle(Handle handle) : handle_(handle) {}
  CudaHandle(CudaHandle&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  CudaHandle& operator=(CudaHandle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~CudaHandle() {
    if (handle_ != nullptr) (void)kDestroy(handle_);
  }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

using Stream = CudaHandle<cudaStream_t, cudaStreamDestroy>;
using Event = CudaHandle<cudaEvent_t, cudaEventDestroy>;

// Does not wait for the legacy default stream; runs before others where there is a choice.
inline absl::StatusOr<Stream> MakeStream() {
  int least = 0, greatest = 0;
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  cudaStream_t stream = nullptr;
  KVSTOW_CUDA_RETURN_IF_ERROR(
      cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest));
  return Stream(stream);
}

inline absl::StatusOr<Event> MakeEvent() {
  cudaEvent_t event = nullptr;
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return Event(event);
}

// Whether its stream has come to where the event was recorded last, or it never was.
inline absl::StatusOr<bool> HasPassed(const Event& event) {
  const cudaError_t answer = cudaEventQuery(event.get());
  if (answer == cudaErrorNotReady) {
    (void)cudaGetLastError();  // no error, but kept as the last one all the same
    return false;
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(answer);
  return true;
}

}  // namespace kvstow::gpu
