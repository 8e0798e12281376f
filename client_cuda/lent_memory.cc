#include "client_cuda/lent_memory.h"

#include <iterator>
#include <utility>

#include "gpu/cuda_status.h"

namespace kvstow {

LentMemory::~LentMemory() {
  (void)cudaSetDevice(device_);
  (void)AwaitAll();
}

absl::Status LentMemory::Allocate() {
  for (Buffers& buffers : buffers_) {
    auto passed = gpu::MakeEvent();
    if (!passed.ok()) return passed.status();
    buffers.passed = *std::move(passed);
  }
  return absl::OkStatus();
}

absl::StatusOr<LentMemory::Buffers*> LentMemory::Borrow() {
  Buffers& buffers = buffers_[next_];
  next_ = (next_ + 1) % std::size(buffers_);
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(buffers.passed.get()));
  return &buffers;
}

absl::Status LentMemory::Return(Buffers* buffers) {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(buffers->passed.get(), stream_));
  return absl::OkStatus();
}

absl::Status LentMemory::AwaitAll() {
  for (const Buffers& buffers : buffers_) {
    if (buffers.passed.get() == nullptr) continue;
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(buffers.passed.get()));
  }
  return absl::OkStatus();
}

}  // namespace kvstow
