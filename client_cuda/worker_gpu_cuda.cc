#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/worker_gpu.h"
#include "client_cuda/kvstow/cuda.h"
#include "gpu/api/check_plugin.h"
#include "gpu/cuda_status.h"
#include "gpu/shared_memory.h"

namespace kvstow {
namespace {

class Region final : public WorkerGpuRegion {
 public:
  Region(int device, gpu::SharedMapping mapping) : device_(device), mapping_(std::move(mapping)) {}
  ~Region() override {
    // A call that was given up may have left copies on the engine's stream; without the memory they
    // would be the end of its context.
    (void)cudaSetDevice(device_);
    (void)cudaDeviceSynchronize();
  }
  std::span<std::byte> bytes() const override { return mapping_.bytes(); }

 private:
  const int device_;
  const gpu::SharedMapping mapping_;
};

class CudaWorkerGpu final : public WorkerGpu {
 public:
  CudaWorkerGpu(int device, const SideChannelUuid& uuid) : device_(device), uuid_(uuid) {}

  SideChannelUuid uuid() const override { return uuid_; }

  absl::StatusOr<std::unique_ptr<WorkerGpuRegion>> Import(const OwnedFd& memory, uint64_t bytes,
                                                          const StagingProbe& probe) override {
    auto mapping = gpu::SharedMapping::Import(device_, memory.get(), bytes);
    if (!mapping.ok()) return mapping.status();
    if (auto s = AnswerProbe(mapping->bytes().data(), probe); !s.ok()) return s;
    return std::make_unique<Region>(device_, *std::move(mapping));
  }

 private:
  static absl::Status AnswerProbe(std::byte* at, const StagingProbe& probe) {
    StagingProbe found;
    KVSTOW_CUDA_RETURN_IF_ERROR(
        cudaMemcpy(found.bytes.data(), at, found.bytes.size(), cudaMemcpyDeviceToHost));
    if (!(found == probe)) {
      return absl::FailedPreconditionError("the worker does not see what the daemon wrote");
    }
    const StagingProbe answer = probe.Answer();
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemcpy(at + found.bytes.size(), answer.bytes.data(),
                                           answer.bytes.size(), cudaMemcpyHostToDevice));
    // Such a copy may be under way when it returns.
    KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(nullptr));
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
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaFree(nullptr));
  cudaDeviceProp properties;
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaGetDeviceProperties(&properties, device));
  SideChannelUuid uuid;
  static_assert(sizeof(properties.uuid) == uuid.size());
  std::memcpy(uuid.data(), &properties.uuid, uuid.size());
  return std::make_shared<CudaWorkerGpu>(device, uuid);
}

}  // namespace kvstow
