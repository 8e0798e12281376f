#include "client_cuda/kvstow/cuda.h"
#include "client_cuda/page_copy.h"
#include "client_cuda/page_table.h"
#include "gpu/cuda_status.h"

namespace kvstow {
namespace {

absl::Status CopyPlane(PageCopy direction, const PlaneSpec& plane, const PagedKv& paged,
                       std::span<const uint32_t> pages, std::span<const std::byte> plane_bytes,
                       cudaStream_t stream) {
  auto described = DescribePaged(plane, paged, pages, plane_bytes);
  if (!described.ok()) return described.status();
  KVSTOW_CUDA_RETURN_IF_ERROR(LaunchPageCopy(direction, *described, stream));
  return absl::OkStatus();
}

}  // namespace

absl::Status GatherPlane(const PlaneSpec& plane, const PagedKv& from,
                         std::span<const uint32_t> pages, std::span<std::byte> plane_bytes,
                         cudaStream_t stream) {
  return CopyPlane(PageCopy::kGather, plane, from, pages, plane_bytes, stream);
}

absl::Status ScatterPlane(const PlaneSpec& plane, std::span<const std::byte> plane_bytes,
                          const PagedKv& to, std::span<const uint32_t> pages, cudaStream_t stream) {
  return CopyPlane(PageCopy::kScatter, plane, to, pages, plane_bytes, stream);
}

}  // namespace kvstow
