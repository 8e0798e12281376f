// Marks on a stream: what was enqueued before one has been done once it has passed.
//
// Not thread-safe.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu/cuda_handles.h"

namespace kvstow {

class StreamMarks {
 public:
  explicit StreamMarks(cudaStream_t stream) : stream_(stream) {}

  // Their numbers ascend by one.
  absl::StatusOr<uint64_t> Mark();
  // Asks the device, and does not wait for it.
  absl::StatusOr<bool> Passed(uint64_t mark);

  uint64_t last() const { return last_; }      // mark made, or 0
  uint64_t passed() const { return passed_; }  // mark known to have passed, or 0

 private:
  const cudaStream_t stream_;
  uint64_t last_ = 0, passed_ = 0;
  std::deque<gpu::Event> events_;  // of the marks from passed_ + 1 on
  std::vector<gpu::Event> idle_;
};

}  // namespace kvstow
