// The client library's half on a CUDA device: a worker whose KV cache lies there gets blocks
// straight into its pages, through device memory that it shares with a daemon on the same GPU.
//
//   auto gpu = kvstow::OpenWorkerGpu(0);
//   options.gpu = *gpu;
//   ...
//   request.device = *kvstow::NewPagedDeviceKv(0, stream, pages);
//   space->GetBlocks(request);
//
// Link kvstow::client_cuda. The library has a CUDA runtime of its own; streams and memory are those
// of the device's primary context, as PyTorch's are.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kvstow/device_kv.h"
#include "kvstow/pages.h"

namespace kvstow {

class WorkerGpu;

// Takes the device's primary context. UNAVAILABLE where there is no such device or no driver for
// it. Thread-safe.
absl::StatusOr<std::shared_ptr<WorkerGpu>> OpenWorkerGpu(int device);

// Where a request's blocks lie in a paged KV cache in device memory.
struct DevicePages {
  // Of the layer and kind of a plane; addresses are the device's.
  std::function<PagedKv(const PlaneSpec& plane)> of_plane;
  // Of each of the request's keys: the block's pages in the order of its tokens.
  std::vector<std::vector<uint32_t>> of_block;
};

// Copies on `stream`, which outlives it; one Get at a time. RESOURCE_EXHAUSTED when there is no
// memory for the page tables. Scatter is INVALID_ARGUMENT for pages that do not hold a block, or
// for opaque planes, which have no rows.
absl::StatusOr<std::shared_ptr<DeviceKv>> NewPagedDeviceKv(int device, cudaStream_t stream,
                                                           DevicePages pages);

}  // namespace kvstow
