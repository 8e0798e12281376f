// Scatters planes into pages: 16 bytes a thread where everything is aligned for it, which pages
// are, neighbours in a row so that whole lines are written.
#include "client_cuda/page_copy.h"

namespace kvstow {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kBlocksOfPlane = 8;  // a plane of Llama-3.1-8B is 256 KiB

template <typename Word>
__device__ void ScatterRows(const PagedPlane& p) {
  const uint32_t words = p.row_bytes / sizeof(Word);  // of a row
  const uint64_t all = uint64_t{p.rows} * words;
  const uint64_t step = uint64_t{gridDim.y} * kThreads;
  for (uint64_t i = uint64_t{blockIdx.y} * kThreads + threadIdx.x; i < all; i += step) {
    const uint32_t row = static_cast<uint32_t>(i / words);
    const uint32_t word = static_cast<uint32_t>(i % words);
    const uint32_t head = row / p.tokens, token = row % p.tokens;
    uint8_t* const to = p.base + uint64_t{p.pages[token / p.page_tokens]} * p.page_stride +
                        head * p.head_stride + (token % p.page_tokens) * p.token_stride;
    reinterpret_cast<Word*>(to)[word] = reinterpret_cast<const Word*>(p.plane)[i];
  }
}

__global__ void __launch_bounds__(kThreads) ScatterKernel(const PagedPlane* planes) {
  // Descriptions may lie in host memory: read once a block.
  __shared__ PagedPlane p;
  constexpr uint32_t kWords = sizeof(PagedPlane) / 4;
  if (threadIdx.x < kWords) {
    reinterpret_cast<uint32_t*>(&p)[threadIdx.x] =
        reinterpret_cast<const uint32_t*>(&planes[blockIdx.x])[threadIdx.x];
  }
  __syncthreads();
  if (p.skip != nullptr && *p.skip != 0) return;
  const uint64_t bits = reinterpret_cast<uintptr_t>(p.base) | reinterpret_cast<uintptr_t>(p.plane) |
                        p.page_stride | p.head_stride | p.token_stride | p.row_bytes;
  if (bits % 16 == 0) {
    ScatterRows<uint4>(p);
  } else {
    ScatterRows<uint16_t>(p);
  }
}

}  // namespace

cudaError_t LaunchScatter(const PagedPlane* planes, uint32_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  ScatterKernel<<<dim3(count, kBlocksOfPlane), kThreads, 0, stream>>>(planes);
  return cudaGetLastError();
}

}  // namespace kvstow
