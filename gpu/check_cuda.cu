// Decodes what was encoded and measures its error, for tiles that a block decodes whole: what the
// decoder gives back never leaves the multiprocessor.
#include "gpu/decode_tile.cuh"
#include "gpu/kernels.h"
#include "gpu/measure_rows.cuh"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = kDecodeThreads;

template <uint32_t kDim>
struct CheckShape : DecodeShape<kDim> {
  static_assert(DecodeShape<kDim>::kRows == kThreads && kWarp % (kDim / 8) == 0);
  // Lanes that share a row, each with four channels of either half, as they are rotated together.
  static constexpr uint32_t kQuads = kDim / 8;
  static constexpr uint32_t kHeld = kQuads;  // rows of a thread: its warp's, dealt out
  static constexpr uint32_t kStride = DecodeShape<kDim>::StageStride(2);
  using Room = MeasureRoom<kThreads, kDim>;
  // The stage: floats while they are rotated, then 16-bit elements and the room behind them.
  static constexpr uint32_t SharedBytes(bool rotates) {
    const uint32_t measuring = DecodeShape<kDim>::StageBytes(2) + sizeof(Room);
    const uint32_t rotating = rotates ? DecodeShape<kDim>::StageBytes(4) : 0;
    return measuring > rotating ? measuring : rotating;
  }
};

// The k-th of a thread's rows, within those of the block.
template <uint32_t kDim>
__device__ __forceinline__ uint32_t RowOfThread(uint32_t k) {
  constexpr uint32_t kQuads = CheckShape<kDim>::kQuads;
  const uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  return warp * kWarp + lane / kQuads + k * (kWarp / kQuads);
}

// A thread's share of the original, in registers, and of the decoded rows, in the stage.
template <uint32_t kDim, uint32_t kDtype>
class StagedRows : public ZeroOrigin {
 public:
  using Shape = CheckShape<kDim>;

  __device__ __forceinline__ StagedRows(const EncodeTile& job, const uint8_t* stage, uint32_t at,
                                        const Unit& unit)
      : stage_(stage), at_(at), unit_(unit) {
    const bool aligned = ((reinterpret_cast<uintptr_t>(job.values) | job.row_stride) & 7) == 0;
#pragma unroll
    for (uint32_t k = 0; k < Shape::kHeld; ++k) {
      const uint8_t* row = job.values + RowOfThread<kDim>(k) * job.row_stride;
      const uint2 low = Four(row, at, aligned), high = Four(row, kDim / 2 + at, aligned);
      values_[k] = make_uint4(low.x, low.y, high.x, high.y);
    }
  }
  template <typename F>
  __device__ __forceinline__ void ForAll(const F& f) const {
#pragma unroll
    for (uint32_t k = 0; k < Shape::kHeld; ++k) {
      const uint8_t* row = stage_ + RowOfThread<kDim>(k) * Shape::kStride;
      const uint2 low = Four(row, at_, true), high = Four(row, kDim / 2 + at_, true);
      float x[kEight], e[kEight];
      UnpackPair<kDtype>(values_[k], make_uint4(low.x, low.y, high.x, high.y), unit_, x, e);
      f(x, e);
    }
  }

 private:
  // Four 16-bit elements from channel c on.
  static __device__ __forceinline__ uint2 Four(const uint8_t* row, uint32_t c, bool aligned) {
    const uint16_t* at = reinterpret_cast<const uint16_t*>(row) + c;
    if (aligned) return *reinterpret_cast<const uint2*>(at);
    return make_uint2(at[0] | static_cast<uint32_t>(at[1]) << 16,
                      at[2] | static_cast<uint32_t>(at[3]) << 16);
  }

  const uint8_t* const stage_;
  const uint32_t at_;
  const Unit& unit_;
  uint4 values_[Shape::kHeld];
};

// Rotates the block's floats, and leaves them in the stage as 16-bit elements.
template <uint32_t kDim>
__device__ __forceinline__ void RotateInStage(const DecodeTile& tile, uint32_t at, float scale,
                                              uint32_t dtype, uint8_t* stage) {
  using Shape = CheckShape<kDim>;
  uint4 rotated[Shape::kHeld];
  __syncwarp();
#pragma unroll
  for (uint32_t k = 0; k < Shape::kHeld; ++k) {
    const uint32_t row = RowOfThread<kDim>(k);
    const auto* x = reinterpret_cast<const float*>(stage + row * Shape::StageStride(4));
    const uint32_t angles = row * (kDim / 2) + at;
    rotated[k] = RotateQuad(x, at, kDim / 2, tile.cos + angles, tile.sin + angles, scale, dtype);
  }
  __syncthreads();
#pragma unroll
  for (uint32_t k = 0; k < Shape::kHeld; ++k) {
    uint8_t* row = stage + RowOfThread<kDim>(k) * Shape::kStride;
    *reinterpret_cast<uint2*>(row + 2 * at) = make_uint2(rotated[k].x, rotated[k].y);
    *reinterpret_cast<uint2*>(row + kDim + 2 * at) = make_uint2(rotated[k].z, rotated[k].w);
  }
}

template <uint32_t kDim, uint32_t kDtype>
__device__ __forceinline__ Sums SumStage(const EncodeTile& job, const uint8_t* stage, uint32_t at,
                                         const Unit& unit, typename CheckShape<kDim>::Room& room) {
  constexpr uint32_t kQuads = CheckShape<kDim>::kQuads;
  const Share share = {kThreads, kDim, at, kDim / 2 + at, threadIdx.x / kQuads, kThreads / kQuads};
  return SumRows(StagedRows<kDim, kDtype>(job, stage, at, unit), share, room);
}

template <uint32_t kDim>
__global__ void __launch_bounds__(kThreads, 3)
    CheckKernel(const __grid_constant__ EncodeBatch b, uint32_t bits, uint32_t side_bytes) {
  using Shape = CheckShape<kDim>;
  extern __shared__ __align__(16) uint8_t side[];
  uint8_t* const stage = side + side_bytes;
  const DecodeTile& tile = b.check[blockIdx.x];
  if (tile.skip != 0) return;
  const Head head = UnpackHead(tile.head);
  const float scale = ldexpf(1.0f, head.exponent);
  const uint32_t at = threadIdx.x % Shape::kQuads * 4;
  {
    float x[kDim];
    DecodeRow<kDim>(tile, head, kThreads, threadIdx.x, b.tables, side, x);
    if (head.rotary_undone == 0) {
      StagePacked<kDim>(x, scale, b.dtype, stage + threadIdx.x * Shape::kStride);
    } else {
      StageFloats<kDim>(x, stage + threadIdx.x * Shape::StageStride(4));
    }
  }
  if (head.rotary_undone != 0) RotateInStage<kDim>(tile, at, scale, b.dtype, stage);
  __syncwarp();
  auto& room = *reinterpret_cast<typename Shape::Room*>(stage + DecodeShape<kDim>::StageBytes(2));
  Slot* slot = &b.slots[blockIdx.x];
  const EncodeTile& job = b.jobs[slot->tile];
  const Unit unit = {slot->scale_a, slot->scale_b};
  const Sums mine = b.dtype == kFp16 ? SumStage<kDim, kFp16>(job, stage, at, unit, room)
                                     : SumStage<kDim, kBf16>(job, stage, at, unit, room);
  const Sums sums = SumBlock(mine, room);
  if (threadIdx.x != 0) return;
  TakeSums(b, sums, ExponentOfSums(b, *slot), bits, slot);
}

template <uint32_t kDim>
cudaError_t LaunchCheckOf(const EncodeBatch& b, uint32_t bits, cudaStream_t stream) {
  using Shape = CheckShape<kDim>;
  const uint32_t side = SideBytes<kDim>(kThreads);
  const cudaError_t error =
      cudaFuncSetAttribute(CheckKernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(Shape::SharedBytes(true) + side));
  if (error != cudaSuccess) return error;
  const uint32_t stage = Shape::SharedBytes(b.rotary.pairs > 0);
  CheckKernel<kDim><<<b.max_slots, kThreads, stage + side, stream>>>(b, bits, side);
  return cudaGetLastError();
}

}  // namespace

bool ChecksWhole(const EncodeBatch& b) {
  return b.raw == 0 && b.n == kThreads && (b.d == 64 || b.d == 128) && b.dtype != kFp32 &&
         (b.rotary.pairs == 0 || RotatesHalves(b.rotary, b.d));
}

cudaError_t LaunchCheck(const EncodeBatch& b, uint32_t bits, cudaStream_t stream) {
  if (ChecksWhole(b)) {
    return b.d == 64 ? LaunchCheckOf<64>(b, bits, stream) : LaunchCheckOf<128>(b, bits, stream);
  }
  const cudaError_t error =
      LaunchDecode(b.check, b.max_slots, b.n, b.d, b.dtype, b.rotary, b.tables, stream);
  return error != cudaSuccess ? error : LaunchMeasure(b, bits, stream);
}

}  // namespace kvstow::gpu
