// Error sums of a slot against what the decoder gave back, and the choice between a tile's slots.
//
// A thread takes eight channels of every so many rows, so that reads are lines and every sum has a
// fixed order. Channel means come first, then centred sums, so that a large mean costs no digits.
#include "gpu/elements.cuh"
#include "gpu/kernels.h"
#include "gpu/tile_body.cuh"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kWarps = kThreads / kWarp;
constexpr uint32_t kBlocks = 2;  // on a multiprocessor
constexpr uint32_t kMaxDim = 576;
constexpr uint32_t kHeld = 8;  // rows of a thread that stay in registers

// A tile's original and what the decoder gave back, as a thread reads them: eight channels of every
// step-th row.
struct Rows {
  const uint8_t *values, *decoded;
  size_t row_stride, decoded_stride;
  uint32_t dtype, n, channel, first, step;
  int32_t exponent;
  float a, b;    // of the scale, which may be no float itself
  bool aligned;  // to 16 bytes, all rows

  __device__ bool active() const { return first < step; }
  // Eight 16-bit elements of row t.
  __device__ __forceinline__ uint4 ValueWords(uint32_t t) const {
    return Words(values + t * row_stride);
  }
  __device__ __forceinline__ uint4 DecodedWords(uint32_t t) const {
    return Words(decoded + t * decoded_stride);
  }

 private:
  __device__ __forceinline__ uint4 Words(const uint8_t* row) const {
    const uint16_t* at = reinterpret_cast<const uint16_t*>(row) + channel;
    if (aligned) return *reinterpret_cast<const uint4*>(at);
    const auto two = [at](uint32_t i) { return at[i] | static_cast<uint32_t>(at[i + 1]) << 16; };
    return make_uint4(two(0), two(2), two(4), two(6));
  }
};

// Read once, all at the same time, so that few warps keep the memory busy; as they are, so that
// nothing is scaled: sums over a channel of 128 equal 16-bit elements are exact, and squares fit.
template <uint32_t kDtype>
class HeldRows {
 public:
  static __device__ bool Allow(const Rows& rows) {
    return rows.dtype == kDtype && rows.n <= kHeld * rows.step && abs(rows.exponent) <= 30;
  }

  __device__ __forceinline__ explicit HeldRows(const Rows& rows)
      : count_((rows.n - rows.first + rows.step - 1) / rows.step) {
#pragma unroll
    for (uint32_t k = 0; k < kHeld; ++k) {
      if (k >= count_) continue;
      values_[k] = rows.ValueWords(rows.first + k * rows.step);
      decoded_[k] = rows.DecodedWords(rows.first + k * rows.step);
    }
  }
  __device__ __forceinline__ void Origin(float (&x)[kEight], float (&e)[kEight]) const {
#pragma unroll
    for (uint32_t i = 0; i < kEight; ++i) x[i] = e[i] = 0;
  }
  // f(x, e): values and errors of a row.
  template <typename F>
  __device__ __forceinline__ void ForAll(const F& f) const {
#pragma unroll
    for (uint32_t k = 0; k < kHeld; ++k) {
      if (k >= count_) continue;
      float x[kEight], e[kEight];
      UnpackEight(values_[k], kDtype, x);
      UnpackEight(decoded_[k], kDtype, e);
#pragma unroll
      for (uint32_t i = 0; i < kEight; ++i) e[i] -= x[i];
      f(x, e);
    }
  }

 private:
  const uint32_t count_;
  uint4 values_[kHeld], decoded_[kHeld];
};

// Any rows, read as often as they are asked for, in units of the tile's scale.
class ReadRows {
 public:
  __device__ explicit ReadRows(const Rows& rows) : rows_(rows) {}

  // The first row, so that sums over constant channels are exact.
  __device__ __forceinline__ void Origin(float (&x)[kEight], float (&e)[kEight]) const {
    Load(0, x, e);
  }
  template <typename F>
  __device__ __forceinline__ void ForAll(const F& f) const {
#pragma unroll 2
    for (uint32_t t = rows_.first; t < rows_.n; t += rows_.step) {
      float x[kEight], e[kEight];
      Load(t, x, e);
      f(x, e);
    }
  }

 private:
  __device__ __forceinline__ void Load(uint32_t t, float (&x)[kEight], float (&e)[kEight]) const {
    if (rows_.dtype != kFp32) {
      UnpackEight(rows_.ValueWords(t), rows_.dtype, x);
      UnpackEight(rows_.DecodedWords(t), rows_.dtype, e);
    } else {
#pragma unroll
      for (uint32_t i = 0; i < kEight; ++i) {
        const uint32_t c = rows_.channel + i;
        x[i] = LoadElement(rows_.values + t * rows_.row_stride, c, kFp32);
        e[i] = LoadElement(rows_.decoded + t * rows_.decoded_stride, c, kFp32);
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < kEight; ++i) {
      x[i] = x[i] * rows_.a * rows_.b;
      e[i] = e[i] * rows_.a * rows_.b - x[i];
    }
  }

  const Rows& rows_;
};

// Of values x and errors e: squares of both, of both centred, and x (x + e).
struct Sums {
  double energy, error, centred_energy, centred_error, inner_product;

  // What the means (x, e) of a channel of n entries add to its centred sums.
  __device__ void AddMeans(uint32_t n, double x, double e) {
    energy += n * x * x;
    error += n * e * e;
    inner_product += n * x * (x + e);
  }
  // Centred squares, and the products of one with the other.
  __device__ void AddCentred(double xx, double ee, double xe) {
    energy += xx;
    error += ee;
    centred_energy += xx;
    centred_error += ee;
    inner_product += xx + xe;
  }
};

struct MeasureRoom {
  // Sums of every row of threads, kThreads * kEight floats at most; of values and of errors.
  alignas(16) float parts[2][kThreads * kEight];
  alignas(16) float origins[2][kMaxDim];
  alignas(16) float means[2][kMaxDim];
  Sums sums[kWarps];
};

// Means of values and errors to the room, and what they add to sums that are centred otherwise.
template <typename Source>
__device__ __forceinline__ void FindMeans(const Source& source, const Rows& rows, uint32_t d,
                                          MeasureRoom& room, Sums* sums) {
  if (rows.active()) {
    float origin_x[kEight], origin_e[kEight], sum_x[kEight] = {}, sum_e[kEight] = {};
    source.Origin(origin_x, origin_e);
    source.ForAll([&](const float(&x)[kEight], const float(&e)[kEight]) {
#pragma unroll
      for (uint32_t i = 0; i < kEight; ++i) {
        sum_x[i] += x[i] - origin_x[i];
        sum_e[i] += e[i] - origin_e[i];
      }
    });
#pragma unroll
    for (uint32_t i = 0; i < kEight; ++i) {
      room.parts[0][rows.first * d + rows.channel + i] = sum_x[i];
      room.parts[1][rows.first * d + rows.channel + i] = sum_e[i];
      if (rows.first != 0) continue;
      room.origins[0][rows.channel + i] = origin_x[i];
      room.origins[1][rows.channel + i] = origin_e[i];
    }
  }
  __syncthreads();
  const float inverse = 1.0f / static_cast<float>(rows.n);
  for (uint32_t c = threadIdx.x; c < d; c += kThreads) {
    float x = 0, e = 0;
    for (uint32_t r = 0; r < rows.step; ++r) {
      x += room.parts[0][r * d + c];
      e += room.parts[1][r * d + c];
    }
    room.means[0][c] = x = fmaf(x, inverse, room.origins[0][c]);
    room.means[1][c] = e = fmaf(e, inverse, room.origins[1][c]);
    sums->AddMeans(rows.n, x, e);
  }
  __syncthreads();
}

template <typename Source>
__device__ __forceinline__ Sums SumRows(const Rows& rows, uint32_t d, MeasureRoom& room) {
  const Source source(rows);
  Sums sums = {};
  FindMeans(source, rows, d, room, &sums);
  if (!rows.active()) return sums;
  float mean_x[kEight], mean_e[kEight];
#pragma unroll
  for (uint32_t i = 0; i < kEight; ++i) {
    mean_x[i] = room.means[0][rows.channel + i];
    mean_e[i] = room.means[1][rows.channel + i];
  }
  source.ForAll([&](const float(&x)[kEight], const float(&e)[kEight]) {
    float xx = 0, ee = 0, xe = 0;
#pragma unroll
    for (uint32_t i = 0; i < kEight; ++i) {
      const float centred = x[i] - mean_x[i], centred_error = e[i] - mean_e[i];
      xx = fmaf(centred, centred, xx);
      ee = fmaf(centred_error, centred_error, ee);
      xe = fmaf(centred, centred_error, xe);
    }
    sums.AddCentred(xx, ee, xe);
  });
  return sums;
}

// In units of 2^exponent.
__device__ __forceinline__ Sums SumTile(const Rows& rows, uint32_t d, MeasureRoom& room,
                                        int32_t* exponent) {
  *exponent = 0;
  if (HeldRows<kFp16>::Allow(rows)) return SumRows<HeldRows<kFp16>>(rows, d, room);
  if (HeldRows<kBf16>::Allow(rows)) return SumRows<HeldRows<kBf16>>(rows, d, room);
  *exponent = rows.exponent;
  return SumRows<ReadRows>(rows, d, room);
}

// Over the block, for thread 0.
__device__ __forceinline__ Sums SumBlock(const Sums& mine, Sums (&room)[kWarps]) {
  Sums sums;
  sums.energy = WarpSum(mine.energy);
  sums.error = WarpSum(mine.error);
  sums.centred_energy = WarpSum(mine.centred_energy);
  sums.centred_error = WarpSum(mine.centred_error);
  sums.inner_product = WarpSum(mine.inner_product);
  if (threadIdx.x % kWarp == 0) room[threadIdx.x / kWarp] = sums;
  __syncthreads();
  if (threadIdx.x != 0) return sums;
  for (uint32_t w = 1; w < kWarps; ++w) {
    sums.energy += room[w].energy;
    sums.error += room[w].error;
    sums.centred_energy += room[w].centred_energy;
    sums.centred_error += room[w].centred_error;
    sums.inner_product += room[w].inner_product;
  }
  return sums;
}

__global__ void __launch_bounds__(kThreads, kBlocks)
    MeasureKernel(const __grid_constant__ EncodeBatch b, uint32_t bits) {
  __shared__ MeasureRoom room;
  const uint32_t index = blockIdx.x;
  if (index >= b.counters[0]) return;
  Slot* slot = &b.slots[index];
  if (slot->done != 0) return;
  const uint32_t n = b.n, d = b.d, pieces = d / kEight;
  const EncodeTile job = b.jobs[slot->tile];
  Rows rows;
  rows.values = job.values;
  rows.row_stride = job.row_stride;
  rows.decoded = b.raw != 0 ? job.values : b.decoded + size_t{index} * n * d * b.element_bytes;
  rows.decoded_stride = b.raw != 0 ? job.row_stride : size_t{d} * b.element_bytes;
  rows.dtype = b.dtype;
  rows.n = n;
  rows.channel = threadIdx.x % pieces * kEight;
  rows.first = threadIdx.x / pieces;
  rows.step = kThreads / pieces;
  rows.exponent = slot->exponent;
  rows.a = slot->scale_a;
  rows.b = slot->scale_b;
  rows.aligned = ((reinterpret_cast<uintptr_t>(job.values) | job.row_stride) & 15) == 0;
  int32_t exponent;
  const Sums sums = SumBlock(SumTile(rows, d, room, &exponent), room.sums);
  if (threadIdx.x != 0) return;
  const double unit = ldexp(1.0, 2 * exponent);
  slot->sums[0] = sums.energy * unit;
  slot->sums[1] = sums.error * unit;
  slot->sums[2] = sums.centred_energy * unit;
  slot->sums[3] = sums.centred_error * unit;
  slot->sums[4] = sums.inner_product * unit;
  const double energy = b.key_like != 0 ? sums.centred_energy : sums.energy;
  const double error = b.key_like != 0 ? sums.centred_error : sums.error;
  // As ErrorSums: 0 where energy and error are 0.
  const double relative = error == 0 ? 0 : energy > 0 ? error / energy : INFINITY;
  slot->met = b.bound == 0 || relative <= b.bound;
  slot->done = slot->met != 0 || bits >= 4;
}

__device__ double BoundedError(const EncodeBatch& b, const Slot& slot) {
  const double energy = b.key_like != 0 ? slot.sums[2] : slot.sums[0];
  const double error = b.key_like != 0 ? slot.sums[3] : slot.sums[1];
  return error == 0 ? 0 : energy > 0 ? error / energy : INFINITY;
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
