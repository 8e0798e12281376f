#include "gpu/shared_memory.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "gpu/cuda_status.h"

namespace kvstow::gpu {
namespace {

// The driver's functions: found through the runtime, so that nothing here links the driver.
struct Driver {
  decltype(&cuMemGetAllocationGranularity) granularity = nullptr;
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemExportToShareableHandle) export_handle = nullptr;
  decltype(&cuMemImportFromShareableHandle) import_handle = nullptr;
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) free_address = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;
  decltype(&cuGetErrorString) error_string = nullptr;
};

template <typename Function>
absl::Status Find(const char* name, Function* function) {
  constexpr unsigned kSince = 10020;  // CUDA 10.2, the youngest of them
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  KVSTOW_CUDA_RETURN_IF_ERROR(
      cudaGetDriverEntryPointByVersion(name, &found, kSince, cudaEnableDefault, &result));
  if (result != cudaDriverEntryPointSuccess) {
    return absl::UnimplementedError(absl::StrCat("the driver has no ", name));
  }
  *function = reinterpret_cast<Function>(found);
  return absl::OkStatus();
}

absl::StatusOr<Driver> Load() {
  Driver d;
  KVSTOW_RETURN_IF_ERROR(Find("cuMemGetAllocationGranularity", &d.granularity));
  KVSTOW_RETURN_IF_ERROR(Find("cuMemCreate", &d.create));
  KVSTOW_RETURN_IF_ERROR(Find("cuMemRelease", &d.release));
  KVSTOW_RETURN_IF_ERROR(Find("cuMemExportToShareableHandle", &d.export_handle));
  KVSTOW_RETURN_IF_ERROR(Find("cuMemImportFromShareableHandle", &d.import_handle));
  KVSTOW_RETURN_IF_ERROR(Find("cuMemAddressReserve", &d.reserve));
  KVSTOW_RETURN_IF_ERROR(Find("cuMemAddressFree", &d.free_address));
  KVSTOW_RETURN_IF_ERROR(Find("cuMemMap", &d.map));
  KVSTOW_RETURN_IF_ERROR(Find("cuMemUnmap", &d.unmap));
  KVSTOW_RETURN_IF_ERROR(Find("cuMemSetAccess", &d.set_access));
  KVSTOW_RETURN_IF_ERROR(Find("cuGetErrorString", &d.error_string));
  return d;
}

const absl::StatusOr<Driver>& GetDriver() {
  static const auto* const driver = new absl::StatusOr<Driver>(Load());
  return *driver;
}

absl::Status ToStatus(const Driver& driver, CUresult result, absl::string_view what) {
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  const char* why = "?";
  driver.error_string(result, &why);
  const std::string message = absl::StrCat(what, ": ", why);
  switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY:
      return absl::ResourceExhaustedError(message);
    case CUDA_ERROR_NOT_SUPPORTED:
    case CUDA_ERROR_NOT_PERMITTED:
    case CUDA_ERROR_OPERATING_SYSTEM:
      return absl::UnimplementedError(message);
    case CUDA_ERROR_INVALID_VALUE:
    case CUDA_ERROR_INVALID_HANDLE:
    case CUDA_ERROR_INVALID_DEVICE:
      return absl::FailedPreconditionError(message);
    default:
      return absl::InternalError(message);
  }
}

CUmemAllocationProp PropertiesOf(int device) {
  CUmemAllocationProp properties = {};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  return properties;
}

// Addresses for the memory. The handle may be released afterwards: the mapping keeps the memory.
absl::StatusOr<std::span<std::byte>> Map(const Driver& driver, int device,
                                         CUmemGenericAllocationHandle handle, size_t bytes) {
  CUdeviceptr at = 0;
  KVSTOW_RETURN_IF_ERROR(
      ToStatus(driver, driver.reserve(&at, bytes, 0, 0, 0), "addresses for shared memory"));
  absl::Status status =
      ToStatus(driver, driver.map(at, bytes, 0, handle, 0), "cannot map shared device memory");
  if (!status.ok()) {
    (void)driver.free_address(at, bytes);
    return status;
  }
  CUmemAccessDesc access = {};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = device;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  status = ToStatus(driver, driver.set_access(at, bytes, &access, 1), "access to shared memory");
  if (!status.ok()) {
    (void)driver.unmap(at, bytes);
    (void)driver.free_address(at, bytes);
    return status;
  }
  return std::span(reinterpret_cast<std::byte*>(at), bytes);
}

// A context, without which the driver knows no device.
absl::Status UseDevice(int device) {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaSetDevice(device));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaFree(nullptr));
  return absl::OkStatus();
}

absl::Status FillWithZeros(std::span<std::byte> bytes) {
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaMemset(bytes.data(), 0, bytes.size()));
  KVSTOW_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(nullptr));
  return absl::OkStatus();
}

}  // namespace

void SharedMapping::CloseDescriptor() {
  if (descriptor_ >= 0) close(std::exchange(descriptor_, -1));
}

SharedMapping::~SharedMapping() {
  CloseDescriptor();
  if (bytes_.empty()) return;
  const Driver& driver = *GetDriver();
  const auto at = reinterpret_cast<CUdeviceptr>(bytes_.data());
  (void)driver.unmap(at, bytes_.size());
  (void)driver.free_address(at, bytes_.size());
}

absl::StatusOr<SharedMapping> SharedMapping::Create(int device, size_t bytes) {
  KVSTOW_RETURN_IF_ERROR(UseDevice(device));
  KVSTOW_RETURN_IF_ERROR(GetDriver().status());
  const Driver& driver = *GetDriver();
  const CUmemAllocationProp properties = PropertiesOf(device);
  size_t page = 0;
  KVSTOW_RETURN_IF_ERROR(
      ToStatus(driver, driver.granularity(&page, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
               "page size"));
  const size_t size = (bytes + page - 1) / page * page;
  CUmemGenericAllocationHandle handle = 0;
  KVSTOW_RETURN_IF_ERROR(ToStatus(driver, driver.create(&handle, size, &properties, 0),
                                  absl::StrCat(size, " bytes of shared device memory")));
  SharedMapping out;
  absl::Status status = ToStatus(
      driver,
      driver.export_handle(&out.descriptor_, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
      "cannot share device memory");
  if (status.ok()) {
    (void)fcntl(out.descriptor_, F_SETFD, FD_CLOEXEC);
    auto mapped = Map(driver, device, handle, size);
    status = mapped.status();
    if (status.ok()) out.bytes_ = *mapped;
  }
  (void)driver.release(handle);
  if (!status.ok()) return status;
  // Whatever lay there before was somebody's.
  KVSTOW_RETURN_IF_ERROR(FillWithZeros(out.bytes_));
  return out;
}

absl::StatusOr<SharedMapping> SharedMapping::Import(int device, int descriptor, size_t bytes) {
  KVSTOW_RETURN_IF_ERROR(UseDevice(device));
  KVSTOW_RETURN_IF_ERROR(GetDriver().status());
  const Driver& driver = *GetDriver();
  CUmemGenericAllocationHandle handle = 0;
  KVSTOW_RETURN_IF_ERROR(ToStatus(
      driver,
      driver.import_handle(&handle, reinterpret_cast<void*>(static_cast<intptr_t>(descriptor)),
                           CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
      "this is no shared device memory"));
  auto mapped = Map(driver, device, handle, bytes);
  (void)driver.release(handle);
  if (!mapped.ok()) return mapped.status();
  SharedMapping out;
  out.bytes_ = *mapped;
  return out;
}

}  // namespace kvstow::gpu
