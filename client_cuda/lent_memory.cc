#include "client_cuda/lent_memory.h"

#include <utility>

#include "gpu/cuda_status.h"

namespace kvstow {

LentMemory::~LentMemory() {
  (void)cudaSetDevice(device_);
  (void)AwaitAll();
}

absl::StatusOr<LentMemory::Buffers*> LentMemory::Add() {
  if (buffers_.size() == kMost) {
    return absl::UnavailableError("the engine's stream has not come to what earlier calls left");
  }
  auto passed = gpu::MakeEvent();
  if (!passed.ok()) return passed.status();
  buffers_.push_back(std::make_unique<Buffers>());
  buffers_.back()->passed = *std::move(passed);
  return buffers_.back().get();
}

absl::StatusOr<LentMemory::Buffers*> LentMemory::Borrow(size_t host_bytes, size_t device_bytes) {
  Buffers* idle = nullptr;
  for (const auto& buffers : buffers_) {
    const auto passed = gpu::HasPassed(buffers->passed);
    if (!passed.ok()) return passed.status();
    if (!*passed) continue;
    idle = buffers.get();
    if (idle->host.size() >= host_bytes && idle->device.size() >= device_bytes) return idle;
  }
  // Rather another than to have one grow, which frees what it had, and that waits for the device.
  if (idle == nullptr || buffers_.size() < kMost) {
    auto added = Add();
    if (!added.ok()) return added.status();
    idle = *added;
  }
  KVSTOW_RETURN_IF_ERROR(idle->host.Reserve(host_bytes));
  KVSTOW_RETURN_IF_ERROR(idle->device.Reserve(device_bytes));
  return idle;
}

absl::Status LentMemory::Return(Buffers* buffers) {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventRecord(buffers->passed.get(), stream_));
  return absl::OkStatus();
}

absl::Status LentMemory::AwaitAll() {
  for (const auto& buffers : buffers_) {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(buffers->passed.get()));
  }
  return absl::OkStatus();
}

}  // namespace kvstow
