// One CUDA device behind the daemon's interface.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gpu/api/device.h"
#include "gpu/piece_copies.h"

namespace kvstow::gpu {

class CudaDevice final : public Device {
 public:
  // UNAVAILABLE where there is no such device, no driver, or no kernels for its architecture.
  static absl::StatusOr<std::unique_ptr<Device>> Open(int index);
  ~CudaDevice() override;

  absl::string_view description() const override { return description_; }
  absl::StatusOr<std::unique_ptr<Codec>> NewCodec() override;
  absl::StatusOr<std::byte*> Allocate(size_t bytes) override;
  void Free(std::byte* memory) override;
  absl::Status Pin(std::byte* memory, size_t bytes) override;
  void Unpin(std::byte* memory) override;
  absl::Status CopyAll(std::span<const Copy> copies) override;
  absl::Status FetchAll(std::span<const Copy> copies) override;
  DeviceUuid uuid() const override { return uuid_; }
  absl::StatusOr<std::unique_ptr<SharedMemory>> Share(size_t bytes) override;
  absl::StatusOr<std::unique_ptr<SharedMemory>> Import(int descriptor, size_t bytes) override;
  absl::StatusOr<std::unique_ptr<PlaneReader>> NewPlaneReader(const PlaneLayout& layout,
                                                              size_t max_records) override;
  absl::StatusOr<std::unique_ptr<PlaneWriter>> NewPlaneWriter(const PlaneLayout& layout,
                                                              size_t max_bytes,
                                                              size_t max_blocks) override;
  absl::Status health() const override;
  uint64_t errors() const override { return errors_.load(std::memory_order_relaxed); }

 private:
  CudaDevice(int index, std::string description, const DeviceUuid& uuid)
      : index_(index), description_(std::move(description)), uuid_(uuid) {}

  // Counts a failure; remembers one that is for good.
  absl::Status Note(cudaError_t error, absl::string_view what) const;
  absl::Status Note(absl::Status status) const;
  absl::StatusOr<cudaStream_t> BorrowStream();
  // Waits for the stream first, whatever `status` is: nothing may be under way when the caller goes
  // on.
  absl::Status ReturnStream(cudaStream_t stream, absl::Status status);

  const int index_;
  const std::string description_;
  const DeviceUuid uuid_;
  mutable std::atomic<uint64_t> errors_{0};

  mutable absl::Mutex mu_;
  mutable absl::Status lost_ ABSL_GUARDED_BY(mu_);
  std::vector<cudaStream_t> idle_streams_ ABSL_GUARDED_BY(mu_);

  absl::Mutex fetch_mu_;
  PieceCopies fetches_ ABSL_GUARDED_BY(fetch_mu_);
};

}  // namespace kvstow::gpu
