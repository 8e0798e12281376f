// The page tables of a request's blocks in device memory, and planes described by them.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client_cuda/kvstow/cuda.h"
#include "client_cuda/lent_memory.h"
#include "client_cuda/page_copy.h"
#include "gpu/cuda_handles.h"
#include "gpu/staging.h"

namespace kvstow {

// `pages` in device memory. INVALID_ARGUMENT as CheckPaged().
absl::StatusOr<PagedPlane> DescribePaged(const PlaneSpec& plane, const PagedKv& paged,
                                         std::span<const uint32_t> pages,
                                         std::span<const std::byte> plane_bytes);

// Room for the descriptions of so many planes, where the device reads them, too: in what was
// borrowed with as many bytes on the host.
inline constexpr size_t kDescriptionBytes = sizeof(PagedPlane);
std::span<PagedPlane> Descriptions(LentMemory::Buffers* lent, size_t planes);

class PageTable {
 public:
  // Not while the device may still read the one before. Done when it returns.
  absl::Status Set(DevicePages pages);
  // The plane of the request's block, C order at `bytes`. INVALID_ARGUMENT for pages that do not
  // hold it.
  absl::StatusOr<PagedPlane> Describe(const PlaneSpec& plane, size_t block,
                                      const std::byte* bytes) const;

 private:
  DevicePages pages_;
  std::vector<size_t> first_page_;  // of each block, in the table
  gpu::DeviceBuffer table_;
  gpu::Stream stream_;  // to set it by: the legacy one would end captures (capture_safe.h)
};

}  // namespace kvstow
