// The client library's half on a CUDA device: a worker whose KV cache lies there gets blocks
// straight into its pages, and puts them out of these, through device memory that it shares with a
// daemon on the same GPU.
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
#include <span>
#include <vector>

#include "absl/status/status.h"
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
  // What copies and coding are enqueued on; outlives it.
  cudaStream_t stream = nullptr;
  // Set: planes arrive encoded and are decoded here, on the stream: the fastest way, since no other
  // process's kernels take turns with this one's. Outlives it.
  const PlaneLayout* decode = nullptr;
  // Set: planes of Puts are encoded here, on the stream, and a seventh of the bytes goes to the
  // host and through its memory or the stream to the daemon. Outlives it.
  const PlaneLayout* encode = nullptr;
  // Raw bytes encoded at a time, about. They take 10 to 20 times as much device memory.
  size_t encode_bytes = size_t{32} << 20;
  size_t max_blocks = 1024;  // of one call; rotary tables for so many are kept
};

// A paged KV cache, call after call, one at a time. Other threads may capture graphs meanwhile; but
// Create, the end of it and SetPages with more pages than ever before are not for the time of a
// capture on a stream that was made without cudaStreamNonBlocking. Scatter and Gather are
// INVALID_ARGUMENT for pages that do not hold a block, and for opaque planes, which have no rows.
class PagedDeviceKv : public DeviceKv {
 public:
  // RESOURCE_EXHAUSTED when there is no memory for tables, or for encoding.
  static absl::StatusOr<std::shared_ptr<PagedDeviceKv>> Create(const DeviceKvOptions& options);
  // Of the next Get or Put. Not while one runs.
  virtual absl::Status SetPages(DevicePages pages) = 0;
};

// The copying alone, for engines that move planes on their own: as kvstow/pages.h has it, enqueued
// on the caller's stream, with the plane, the cache and `pages` in the memory of the current device
// (or that it can read), where they stay until the stream has passed. Nothing is allocated or
// waited for. Addresses and strides are multiples of 2; of 16 they are copied faster.
//
// INVALID_ARGUMENT as of pages.h, with nothing enqueued. Thread-safe.
absl::Status GatherPlane(const PlaneSpec& plane, const PagedKv& from,
                         std::span<const uint32_t> pages, std::span<std::byte> plane_bytes,
                         cudaStream_t stream);
absl::Status ScatterPlane(const PlaneSpec& plane, std::span<const std::byte> plane_bytes,
                          const PagedKv& to, std::span<const uint32_t> pages, cudaStream_t stream);

}  // namespace kvstow
