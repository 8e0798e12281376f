// Planes to and from the pages of a paged KV cache, many at a time, by one kernel.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace kvstow {

// One plane, C order [heads, tokens, row_bytes], and where its rows lie in pages: the row of (head,
// token) begins at base + pages[token / page_tokens] page_stride + head head_stride +
// (token % page_tokens) token_stride.
struct PagedPlane {
  uint8_t* plane = nullptr;  // read by a scatter, written by a gather
  uint8_t* base = nullptr;   // the other way round
  uint64_t page_stride = 0;
  uint64_t head_stride = 0;
  uint64_t token_stride = 0;
  const uint32_t* pages = nullptr;  // in device memory
  uint32_t page_tokens = 0;
  uint32_t tokens = 0;
  uint32_t rows = 0;  // heads x tokens
  uint32_t row_bytes = 0;
};

enum class PageCopy {
  kGather,   // pages to plane
  kScatter,  // plane to pages
};

// `planes`: memory that the device can read, until the stream has passed.
cudaError_t LaunchPageCopies(PageCopy direction, const PagedPlane* planes, uint32_t count,
                             cudaStream_t stream);
// One, whose description travels with the launch.
cudaError_t LaunchPageCopy(PageCopy direction, const PagedPlane& plane, cudaStream_t stream);

}  // namespace kvstow
