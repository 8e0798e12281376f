// Copies pieces of device memory, two blocks a piece: pieces are some 40 KB, planes of records.
#include "gpu/piece_copy.h"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kBlocksOfPiece = 2;

__global__ void __launch_bounds__(kThreads) CopyKernel(const PieceCopy* copies) {
  const PieceCopy copy = copies[blockIdx.x];
  const auto* from = reinterpret_cast<const uint4*>(copy.from);
  auto* to = reinterpret_cast<uint4*>(copy.to);
  const uint64_t step = uint64_t{gridDim.y} * kThreads;
  for (uint64_t i = uint64_t{blockIdx.y} * kThreads + threadIdx.x; i < copy.bytes / 16; i += step) {
    to[i] = from[i];
  }
}

}  // namespace

cudaError_t LaunchPieceCopies(const PieceCopy* copies, uint32_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  CopyKernel<<<dim3(count, kBlocksOfPiece), kThreads, 0, stream>>>(copies);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
