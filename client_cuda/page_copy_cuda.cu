// Copies planes between pages and C order: 16 bytes a thread where everything is aligned for it,
// which pages are, neighbours in a row so that whole lines are read and written.
#include "client_cuda/page_copy.h"

namespace kvstow {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kBlocksOfPlane = 8;  // a plane of Llama-3.1-8B is 256 KiB

template <PageCopy kDirection, typename Word>
__device__ void CopyRows(const PagedPlane& p) {
  const uint32_t words = p.row_bytes / sizeof(Word);  // of a row
  const uint64_t all = uint64_t{p.rows} * words;
  const uint64_t step = uint64_t{gridDim.y} * kThreads;
  for (uint64_t i = uint64_t{blockIdx.y} * kThreads + threadIdx.x; i < all; i += step) {
    const uint32_t row = static_cast<uint32_t>(i / words);
    const uint32_t word = static_cast<uint32_t>(i % words);
    const uint32_t head = row / p.tokens, token = row % p.tokens;
    uint8_t* const first = p.base + uint64_t{p.pages[token / p.page_tokens]} * p.page_stride +
                           head * p.head_stride + (token % p.page_tokens) * p.token_stride;
    Word* const in_pages = reinterpret_cast<Word*>(first) + word;
    Word* const in_plane = reinterpret_cast<Word*>(p.plane) + i;
    if constexpr (kDirection == PageCopy::kGather) {
      *in_plane = *in_pages;
    } else {
      *in_pages = *in_plane;
    }
  }
}

template <PageCopy kDirection>
__device__ void CopyPlane(const PagedPlane& p) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(p.base) | reinterpret_cast<uintptr_t>(p.plane) |
                        p.page_stride | p.head_stride | p.token_stride | p.row_bytes;
  if (bits % 16 == 0) {
    CopyRows<kDirection, uint4>(p);
  } else {
    CopyRows<kDirection, uint16_t>(p);
  }
}

template <PageCopy kDirection>
__global__ void __launch_bounds__(kThreads) ManyKernel(const PagedPlane* planes) {
  // Descriptions may lie in host memory: read once a block.
  __shared__ PagedPlane p;
  constexpr uint32_t kWords = sizeof(PagedPlane) / 4;
  if (threadIdx.x < kWords) {
    reinterpret_cast<uint32_t*>(&p)[threadIdx.x] =
        reinterpret_cast<const uint32_t*>(&planes[blockIdx.x])[threadIdx.x];
  }
  __syncthreads();
  CopyPlane<kDirection>(p);
}

template <PageCopy kDirection>
__global__ void __launch_bounds__(kThreads) OneKernel(const __grid_constant__ PagedPlane plane) {
  CopyPlane<kDirection>(plane);
}

}  // namespace

cudaError_t LaunchPageCopies(PageCopy direction, const PagedPlane* planes, uint32_t count,
                             cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const auto kernel = direction == PageCopy::kGather ? ManyKernel<PageCopy::kGather>
                                                     : ManyKernel<PageCopy::kScatter>;
  kernel<<<dim3(count, kBlocksOfPlane), kThreads, 0, stream>>>(planes);
  return cudaGetLastError();
}

cudaError_t LaunchPageCopy(PageCopy direction, const PagedPlane& plane, cudaStream_t stream) {
  const auto kernel =
      direction == PageCopy::kGather ? OneKernel<PageCopy::kGather> : OneKernel<PageCopy::kScatter>;
  kernel<<<dim3(1, kBlocksOfPlane), kThreads, 0, stream>>>(plane);
  return cudaGetLastError();
}

}  // namespace kvstow
