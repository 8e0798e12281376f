// CUDA errors as absl::Status. Sticky errors (the context is lost) are INTERNAL, others that a
// caller can act on keep their meaning.
#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kvstow::gpu {

inline absl::Status ToStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  // Told here, it is not to be told again by the thread's next launch.
  (void)cudaGetLastError();
  const std::string message =
      absl::StrCat(what, ": ", cudaGetErrorName(error), ", ", cudaGetErrorString(error));
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::ResourceExhaustedError(message);
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorNoKernelImageForDevice:
      return absl::UnavailableError(message);
    case cudaErrorInvalidValue:
      return absl::InvalidArgumentError(message);
    default:
      return absl::InternalError(message);
  }
}

}  // namespace kvstow::gpu

// Returns the status of a failed CUDA call from the enclosing function.
#define KVSTOW_CUDA_RETURN_IF_ERROR(call)                       \
  do {                                                          \
    const cudaError_t kvstow_cuda_error = (call);               \
    if (kvstow_cuda_error != cudaSuccess) {                     \
      return ::kvstow::gpu::ToStatus(kvstow_cuda_error, #call); \
    }                                                           \
  } while (false)

#define KVSTOW_RETURN_IF_ERROR(call)                                                       \
  do {                                                                                     \
    if (absl::Status status_of_call = (call); !status_of_call.ok()) return status_of_call; \
  } while (false)
