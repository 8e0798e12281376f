// The client library's half on a CUDA device: a worker whose KV cache lies there gets blocks
// straight into its pages, through device memory that it shares with a daemon on the same GPU.
//
//   options.gpu = *kvstow::OpenWorkerGpu(0);
//   ...
//   auto kv = *kvstow::PagedDeviceKv::Create({.device = 0, .stream = stream, .decode = layout});
//   kv->SetPages(pages);
//   request.device = kv;
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

struct DeviceKvOptions {
  int device = 0;
  // What copies and decoding are enqueued on; outlives it.
  cudaStream_t stream = nullptr;
  // Set: planes arrive encoded and are decoded here, on the stream: the fastest way, since no other
  // process's kernels take turns with this one's. Outlives it.
  const PlaneLayout* decode = nullptr;
  size_t max_blocks = 1024;  // of one Get; rotary tables for so many are kept
};

// A paged KV cache, Get after Get, one at a time. Scatter is INVALID_ARGUMENT for pages that do not
// hold a block, and for opaque planes, which have no rows.
class PagedDeviceKv : public DeviceKv {
 public:
  // RESOURCE_EXHAUSTED when there is no memory for tables.
  static absl::StatusOr<std::shared_ptr<PagedDeviceKv>> Create(const DeviceKvOptions& options);
  // Of the next Get. Not while one runs.
  virtual absl::Status SetPages(DevicePages pages) = 0;
};

}  // namespace kvstow
