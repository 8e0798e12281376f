// Error sums of a slot whose decoder's output lies in device memory, and the choice between a
// tile's slots. Tiles that a block decodes whole are measured there (check_cuda.cu).
#include "gpu/elements.cuh"
#include "gpu/kernels.h"
#include "gpu/measure_rows.cuh"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kBlocks = 2;  // on a multiprocessor
constexpr uint32_t kMaxDim = 576;
constexpr uint32_t kHeld = 8;  // rows of a thread that stay in registers

// A tile's original and what the decoder gave back, as a thread reads them: eight channels in a
// row, of every groups-th row.
struct Rows {
  const uint8_t *values, *decoded;
  size_t row_stride, decoded_stride;
  bool aligned;  // to 16 bytes, all rows
  Share share;
  Unit unit;

  __device__ const uint8_t* Value(uint32_t t) const { return values + t * row_stride; }
  __device__ const uint8_t* Decoded(uint32_t t) const { return decoded + t * decoded_stride; }
  // Eight 16-bit elements.
  __device__ __forceinline__ uint4 Words(const uint8_t* row) const {
    const uint16_t* at = reinterpret_cast<const uint16_t*>(row) + share.a;
    if (aligned) return *reinterpret_cast<const uint4*>(at);
    const auto two = [at](uint32_t i) { return at[i] | static_cast<uint32_t>(at[i + 1]) << 16; };
    return make_uint4(two(0), two(2), two(4), two(6));
  }
};

// 16-bit elements, several rows at the same time, so that few warps keep the memory busy: held from
// the first time on, or read again.
template <uint32_t kDtype, bool kHolds>
class PackedRows : public ZeroOrigin {
 public:
  __device__ __forceinline__ explicit PackedRows(const Rows& rows)
      : rows_(rows),
        count_((rows.share.n - rows.share.group + rows.share.groups - 1) / rows.share.groups) {
    if (kHolds) Load(0, &held_);
  }
  template <typename F>
  __device__ __forceinline__ void ForAll(const F& f) const {
    if constexpr (kHolds) {
      Pass(held_, count_, f);
    } else {
      for (uint32_t first = 0; first < count_; first += kBatch) {
        Batch batch;
        Load(first, &batch);
        Pass(batch, count_ - first, f);
      }
    }
  }

 private:
  static constexpr uint32_t kBatch = kHolds ? kHeld : 4;
  struct Batch {
    uint4 values[kBatch], decoded[kBatch];
  };

  __device__ __forceinline__ void Load(uint32_t first, Batch* batch) const {
#pragma unroll
    for (uint32_t k = 0; k < kBatch; ++k) {
      if (first + k >= count_) continue;
      const uint32_t t = rows_.share.group + (first + k) * rows_.share.groups;
      batch->values[k] = rows_.Words(rows_.Value(t));
      batch->decoded[k] = rows_.Words(rows_.Decoded(t));
    }
  }
  template <typename F>
  __device__ __forceinline__ void Pass(const Batch& batch, uint32_t count, const F& f) const {
#pragma unroll
    for (uint32_t k = 0; k < kBatch; ++k) {
      if (k >= count) continue;
      float x[kEight], e[kEight];
      UnpackPair<kDtype>(batch.values[k], batch.decoded[k], rows_.unit, x, e);
      f(x, e);
    }
  }

  const Rows& rows_;
  const uint32_t count_;
  Batch held_;
};

// FP32.
class FloatRows {
 public:
  __device__ explicit FloatRows(const Rows& rows) : rows_(rows) {}

  // The first row, so that sums over constant channels are exact.
  __device__ __forceinline__ void Origin(float (&x)[kEight], float (&e)[kEight]) const {
    Load(0, x, e);
  }
  template <typename F>
  __device__ __forceinline__ void ForAll(const F& f) const {
#pragma unroll 2
    for (uint32_t t = rows_.share.group; t < rows_.share.n; t += rows_.share.groups) {
      float x[kEight], e[kEight];
      Load(t, x, e);
      f(x, e);
    }
  }

 private:
  __device__ __forceinline__ void Load(uint32_t t, float (&x)[kEight], float (&e)[kEight]) const {
    const auto* value = reinterpret_cast<const float*>(rows_.Value(t)) + rows_.share.a;
    const auto* decoded = reinterpret_cast<const float*>(rows_.Decoded(t)) + rows_.share.a;
#pragma unroll
    for (uint32_t i = 0; i < kEight; ++i) {
      x[i] = value[i] * rows_.unit.a * rows_.unit.b;
      e[i] = decoded[i] * rows_.unit.a * rows_.unit.b - x[i];
    }
  }

  const Rows& rows_;
};

using Room = MeasureRoom<kThreads, kMaxDim>;

template <uint32_t kDtype>
__device__ __forceinline__ Sums SumPacked(const Rows& rows, Room& room) {
  return rows.share.n <= kHeld * rows.share.groups
             ? SumRows(PackedRows<kDtype, true>(rows), rows.share, room)
             : SumRows(PackedRows<kDtype, false>(rows), rows.share, room);
}

__global__ void __launch_bounds__(kThreads, kBlocks)
    MeasureKernel(const __grid_constant__ EncodeBatch b, uint32_t bits) {
  __shared__ Room room;
  const uint32_t index = blockIdx.x;
  if (index >= b.counters[0]) return;
  Slot* slot = &b.slots[index];
  if (slot->done != 0) return;
  const uint32_t n = b.n, d = b.d, pieces = d / kEight;
  const EncodeTile job = b.jobs[slot->tile];
  const uint32_t channel = threadIdx.x % pieces * kEight;
  Rows rows;
  rows.values = job.values;
  rows.row_stride = job.row_stride;
  rows.decoded = b.raw != 0 ? job.values : b.decoded + size_t{index} * n * d * b.element_bytes;
  rows.decoded_stride = b.raw != 0 ? job.row_stride : size_t{d} * b.element_bytes;
  rows.aligned = ((reinterpret_cast<uintptr_t>(job.values) | job.row_stride) & 15) == 0;
  rows.share = {n, d, channel, channel + 4, threadIdx.x / pieces, kThreads / pieces};
  rows.unit = {slot->scale_a, slot->scale_b};
  const Sums mine = b.dtype == kFp16   ? SumPacked<kFp16>(rows, room)
                    : b.dtype == kBf16 ? SumPacked<kBf16>(rows, room)
                                       : SumRows(FloatRows(rows), rows.share, room);
  const Sums sums = SumBlock(mine, room);
  if (threadIdx.x == 0) TakeSums(b, sums, ExponentOfSums(b, *slot), bits, slot);
}

// Slot whose body the tile gets; its own where nothing better is known.
__device__ uint32_t BestSlot(const EncodeBatch& b, uint32_t tile) {
  const Slot& plain = b.slots[tile];
  if (plain.second == 0) return tile;
  const Slot& centred = b.slots[plain.second];
  const double extra_bits =
      8.0 * (static_cast<double>(centred.body_bytes) - static_cast<double>(plain.body_bytes)) /
      (static_cast<double>(b.n) * b.d);
  // Bits spent on the residual buy 6.02 dB each; the means have to beat that.
  const double worth = BoundedError(b, centred) * exp2(2 * extra_bits);
  if (centred.met != plain.met) return centred.met != 0 ? plain.second : tile;
  return worth < BoundedError(b, plain) ? plain.second : tile;
}

__global__ void __launch_bounds__(kThreads) ChooseKernel(const __grid_constant__ EncodeBatch b) {
  __shared__ uint32_t best;
  const uint32_t tile = blockIdx.x;
  const EncodeTile job = b.jobs[tile];
  if (threadIdx.x == 0) best = BestSlot(b, tile);
  __syncthreads();
  const Slot& slot = b.slots[best];
  const uint32_t raw_bytes = b.n * b.d * b.element_bytes;
  const bool coded = b.raw == 0 && slot.finite != 0 && slot.met != 0 && slot.body_bytes < raw_bytes;
  EncodeResult result = {};
  if (slot.finite != 0) {
    result.energy = slot.sums[0];
    result.error = coded ? slot.sums[1] : 0;
    result.centred_energy = slot.sums[2];
    result.centred_error = coded ? slot.sums[3] : 0;
    result.inner_product = coded ? slot.sums[4] : slot.sums[0];
  }
  if (coded) {
    const uint4* from = reinterpret_cast<const uint4*>(b.body + size_t{best} * b.max_body);
    for (uint32_t i = threadIdx.x; i < slot.body_bytes / 16; i += kThreads) {
      reinterpret_cast<uint4*>(job.body)[i] = from[i];
    }
    result.head = slot.head;
    result.body_bytes = slot.body_bytes;
  } else {
    const uint32_t row_halves = b.d * b.element_bytes / 2;
    auto* out = reinterpret_cast<uint16_t*>(job.body);
    for (uint32_t i = threadIdx.x; i < b.n * row_halves; i += kThreads) {
      out[i] = reinterpret_cast<const uint16_t*>(job.values +
                                                 i / row_halves * job.row_stride)[i % row_halves];
    }
    for (uint32_t i = raw_bytes / 2 + threadIdx.x; i < b.max_body / 2; i += kThreads) out[i] = 0;
    result.body_bytes = b.max_body;
    result.raw = b.raw == 0;
  }
  if (threadIdx.x != 0) return;
  b.results[tile] = result;
  if (b.ranges != nullptr) b.ranges[tile] = {job.body, result.body_bytes};
}

}  // namespace

cudaError_t LaunchMeasure(const EncodeBatch& b, uint32_t bits, cudaStream_t stream) {
  MeasureKernel<<<b.max_slots, kThreads, 0, stream>>>(b, bits);
  return cudaGetLastError();
}

cudaError_t LaunchChoose(const EncodeBatch& b, cudaStream_t stream) {
  ChooseKernel<<<b.tiles, kThreads, 0, stream>>>(b);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
