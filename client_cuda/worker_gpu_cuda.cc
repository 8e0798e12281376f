#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/worker_gpu.h"
#include "client_cuda/capture_safe.h"
#include "client_cuda/kvstow/cuda.h"
#include "gpu/api/check_plugin.h"
#include "gpu/cuda_handles.h"
#include "gpu/cuda_status.h"
#include "gpu/shared_memory.h"

namespace kvstow {
namespace {

// Waits for the device as cudaDeviceSynchronize does, which would end every capture
// (capture_safe.h): freeing memory is allowed, and waits for all that was enqueued before.
class DeviceWait {
 public:
  DeviceWait() = default;
  DeviceWait(DeviceWait&& other) noexcept : freed_(std::exchange(other.freed_, nullptr)) {}
  ~DeviceWait() {
    if (freed_ != nullptr) (void)cudaFree(freed_);
  }
  // Now, since later there may be no memory.
  absl::Status Prepare() {
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaMalloc(&freed_, 1));
    return absl::OkStatus();
  }

 private:
  void* freed_ = nullptr;
};

class Region final : public WorkerGpuRegion {
 public:
  Region(int device, gpu::SharedMapping mapping, DeviceWait wait)
      : device_(device), mapping_(std::move(mapping)), wait_(std::move(wait)) {}
  ~Region() override {
    const CaptureSafe here(device_);
    const gpu::SharedMapping mapping = std::move(mapping_);
    // A call that was given up may have left copies on the engine's stream; without the memory they
    // would be the end of its context.
    const DeviceWait before(std::move(wait_));
  }
  std::span<std::byte> bytes() const override { return mapping_.bytes(); }

 private:
  const int device_;
  gpu::SharedMapping mapping_;
  DeviceWait wait_;
};

class CudaWorkerGpu final : public WorkerGpu {
 public:
  CudaWorkerGpu(int device, const SideChannelUuid& uuid) : device_(device), uuid_(uuid) {}

  SideChannelUuid uuid() const override { return uuid_; }

  absl::StatusOr<std::unique_ptr<WorkerGpuRegion>> Import(const OwnedFd& memory, uint64_t bytes,
                                                          const StagingProbe& probe) override {
    const CaptureSafe here(device_);
    KVSTOW_RETURN_IF_ERROR(here.status());
    auto mapping = gpu::SharedMapping::Import(device_, memory.get(), bytes);
    if (!mapping.ok()) return mapping.status();
    KVSTOW_RETURN_IF_ERROR(AnswerProbe(mapping->bytes().data(), probe));
    DeviceWait wait;
    KVSTOW_RETURN_IF_ERROR(wait.Prepare());
    return std::make_unique<Region>(device_, *std::move(mapping), std::move(wait));
  }

 private:
  static absl::Status AnswerProbe(std::byte* at, const StagingProbe& probe) {
    auto own = gpu::MakeStream();
    if (!own.ok()) return own.status();
    const cudaStream_t stream = own->get();
    StagingProbe found;
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(found.bytes.data(), at, found.bytes.size(),
                                                cudaMemcpyDeviceToHost, stream));
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream));
    if (!(found == probe)) {
      return absl::FailedPreconditionError("the worker does not see what the daemon wrote");
    }
    const StagingProbe answer = probe.Answer();
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(at + found.bytes.size(), answer.bytes.data(),
                                                answer.bytes.size(), cudaMemcpyHostToDevice,
                                                stream));
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream));
    return absl::OkStatus();
  }

  const int device_;
  const SideChannelUuid uuid_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<WorkerGpu>> OpenWorkerGpu(int device) {
  // Linked to the worker once, and found on its way again at each start.
  if (auto s = gpu::CheckPlugin("libkvstow_gpu.so", gpu::kvstow_gpu_plugin); !s.ok()) return s;
  int count = 0;
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaGetDeviceCount(&count));
  if (device < 0 || device >= count) {
    return absl::UnavailableError(absl::StrCat("no CUDA device ", device, " of ", count));
  }
  const CaptureSafe here(device);
  KVSTOW_RETURN_IF_ERROR(here.status());
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaFree(nullptr));
  cudaDeviceProp properties;
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaGetDeviceProperties(&properties, device));
  SideChannelUuid uuid;
  static_assert(sizeof(properties.uuid) == uuid.size());
  std::memcpy(uuid.data(), &properties.uuid, uuid.size());
  return std::make_shared<CudaWorkerGpu>(device, uuid);
}

}  // namespace kvstow
