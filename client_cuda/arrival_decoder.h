// Planes of a Get that arrived encoded, decoded on the stream straight into the engine's pages, and
// which of them were damaged.
//
// Not thread-safe.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "client_cuda/page_table.h"
#include "gpu/plane_decoder.h"
#include "gpu/staging.h"
#include "kvstow/device_kv.h"

namespace kvstow {

class ArrivalDecoder {
 public:
  // At a time.
  static constexpr size_t kMaxPlanes = gpu::PlaneDecoder::kMaxPlanes;

  ArrivalDecoder(std::unique_ptr<gpu::PlaneDecoder> decoder, cudaStream_t stream)
      : decoder_(std::move(decoder)), stream_(stream) {}

  // What is decoded from here on goes behind what is on the stream now. What was found, or will be,
  // of planes before is not told any more.
  absl::Status Begin();
  // Enqueues the decoding of all these to where the table says; nothing of a damaged one is
  // written. `mark` is the stream's next. INVALID_ARGUMENT as of PageTable::Describe, with nothing
  // enqueued.
  absl::Status Decode(std::span<const ArrivedPlane> planes, const PageTable& table, uint64_t mark);
  // Waits until nothing reads the table any more.
  absl::Status AwaitAll() { return decoder_->AwaitAll(); }
  // The stream has passed `mark`.
  void Collect(uint64_t mark);
  // What was found by then, each told once.
  std::vector<DamagedArrival> TakeDamage() { return std::exchange(damage_, {}); }

 private:
  // Decoded planes whose flags travel back.
  struct Flying {
    uint64_t mark = 0;  // the next one behind it
    std::vector<DamagedArrival> names;
    gpu::PinnedBuffer flags;
  };

  const std::unique_ptr<gpu::PlaneDecoder> decoder_;
  const cudaStream_t stream_;
  std::vector<gpu::PlaneDecoder::Plane> to_decode_;
  std::deque<Flying> flying_;
  std::vector<gpu::PinnedBuffer> idle_flags_;
  std::vector<DamagedArrival> damage_;
};

}  // namespace kvstow
