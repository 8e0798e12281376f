#include "client_cuda/stream_marks.h"

#include <utility>

#include "gpu/cuda_status.h"

namespace kvstow {

absl::StatusOr<uint64_t> StreamMarks::Mark() {
  if (idle_.empty()) {
    auto made = gpu::MakeEvent();
    if (!made.ok()) return made.status();
    idle_.push_back(*std::move(made));
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(idle_.back().get(), stream_));
  events_.push_back(std::move(idle_.back()));
  idle_.pop_back();
  return ++last_;
}

absl::StatusOr<bool> StreamMarks::Passed(uint64_t mark) {
  while (!events_.empty() && passed_ < mark) {
    const auto passed = gpu::HasPassed(events_.front());
    if (!passed.ok() || !*passed) return passed;
    ++passed_;
    idle_.push_back(std::move(events_.front()));
    events_.pop_front();
  }
  return true;
}

}  // namespace kvstow
