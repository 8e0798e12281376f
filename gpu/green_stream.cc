#include "gpu/green_stream.h"

#include <cuda.h>

#include "absl/strings/str_cat.h"
#include "gpu/cuda_status.h"

namespace kvstow::gpu {
namespace {

constexpr unsigned kDriverVersion = 12050;  // where cuGreenCtxStreamCreate came

template <typename Function>
absl::Status Find(const char* name, Function* out) {
  cudaDriverEntryPointQueryResult found;
  void* symbol = nullptr;
  KVSTOW_CUDA_RETURN_IF_ERROR(
      cudaGetDriverEntryPointByVersion(name, &symbol, kDriverVersion, cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess) {
    return absl::UnimplementedError(absl::StrCat("the driver has no ", name));
  }
  *out = reinterpret_cast<Function>(symbol);
  return absl::OkStatus();
}

struct Driver {
  decltype(&cuDeviceGetDevResource) get_resource;
  decltype(&cuDevSmResourceSplitByCount) split;
  decltype(&cuDevResourceGenerateDesc) describe;
  decltype(&cuGreenCtxCreate) create;
  decltype(&cuGreenCtxDestroy) destroy;
  decltype(&cuGreenCtxStreamCreate) create_stream;
  decltype(&cuStreamDestroy) destroy_stream;

  absl::Status Load() {
    KVSTOW_RETURN_IF_ERROR(Find("cuDeviceGetDevResource", &get_resource));
    KVSTOW_RETURN_IF_ERROR(Find("cuDevSmResourceSplitByCount", &split));
    KVSTOW_RETURN_IF_ERROR(Find("cuDevResourceGenerateDesc", &describe));
    KVSTOW_RETURN_IF_ERROR(Find("cuGreenCtxCreate", &create));
    KVSTOW_RETURN_IF_ERROR(Find("cuGreenCtxDestroy", &destroy));
    KVSTOW_RETURN_IF_ERROR(Find("cuGreenCtxStreamCreate", &create_stream));
    return Find("cuStreamDestroy", &destroy_stream);
  }
};

absl::Status Check(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": driver error ", static_cast<int>(result)));
}

class Green final : public GreenStream {
 public:
  explicit Green(const Driver& driver) : driver_(driver) {}
  ~Green() override {
    if (stream_ != nullptr) (void)driver_.destroy_stream(stream_);
    if (context_ != nullptr) (void)driver_.destroy(context_);
  }

  absl::Status Open(int device, uint32_t multiprocessors) {
    CUdevResource all = {}, part = {}, rest = {};
    unsigned groups = 1;
    KVSTOW_RETURN_IF_ERROR(Check(driver_.get_resource(device, &all, CU_DEV_RESOURCE_TYPE_SM),
                                 "cuDeviceGetDevResource"));
    KVSTOW_RETURN_IF_ERROR(Check(driver_.split(&part, &groups, &all, &rest, 0, multiprocessors),
                                 "cuDevSmResourceSplitByCount"));
    multiprocessors_ = part.sm.smCount;
    CUdevResourceDesc description = nullptr;
    KVSTOW_RETURN_IF_ERROR(
        Check(driver_.describe(&description, &part, 1), "cuDevResourceGenerateDesc"));
    KVSTOW_RETURN_IF_ERROR(
        Check(driver_.create(&context_, description, device, CU_GREEN_CTX_DEFAULT_STREAM),
              "cuGreenCtxCreate"));
    return Check(driver_.create_stream(&stream_, context_, CU_STREAM_NON_BLOCKING, 0),
                 "cuGreenCtxStreamCreate");
  }

  cudaStream_t stream() const override { return stream_; }
  uint32_t multiprocessors() const override { return multiprocessors_; }

 private:
  const Driver driver_;
  CUgreenCtx context_ = nullptr;
  CUstream stream_ = nullptr;
  uint32_t multiprocessors_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GreenStream>> GreenStream::Create(int device,
                                                                 uint32_t multiprocessors) {
  // Makes the primary context, in which the runtime works.
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device));
  Driver driver = {};
  KVSTOW_RETURN_IF_ERROR(driver.Load());
  auto green = std::make_unique<Green>(driver);
  KVSTOW_RETURN_IF_ERROR(green->Open(device, multiprocessors));
  return green;
}

}  // namespace kvstow::gpu
