// Copies pieces between any memory that the device can address: host memory that is pinned, too. A
// block a piece at a time; a few blocks with many loads in flight fill the bus and leave the
// multiprocessors to others.
#include <cstdint>

#include "gpu/plane_kernels.h"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 512;
constexpr uint32_t kBlocks = 32;
constexpr uint32_t kLoads = 4;  // of a thread in flight

__global__ void __launch_bounds__(kThreads)
    CopyPiecesKernel(const CopyPiece* pieces, uint32_t count) {
  for (uint32_t p = blockIdx.x; p < count; p += gridDim.x) {
    const CopyPiece piece = pieces[p];
    const auto* from = reinterpret_cast<const uint4*>(piece.from);
    auto* to = reinterpret_cast<uint4*>(piece.to);
    const uint64_t size = piece.bytes / 16;
    for (uint64_t at = threadIdx.x; at < size; at += kLoads * kThreads) {
      uint4 loaded[kLoads];
#pragma unroll
      for (uint32_t i = 0; i < kLoads; ++i) {
        if (at + i * kThreads < size) loaded[i] = __ldcs(from + at + i * kThreads);
      }
#pragma unroll
      for (uint32_t i = 0; i < kLoads; ++i) {
        if (at + i * kThreads < size) to[at + i * kThreads] = loaded[i];
      }
    }
  }
}

}  // namespace

cudaError_t LaunchCopyPieces(const CopyPiece* pieces, uint32_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const uint32_t blocks = count < kBlocks ? count : kBlocks;
  CopyPiecesKernel<<<blocks, kThreads, 0, stream>>>(pieces, count);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
