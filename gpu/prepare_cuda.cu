// First step of an encode: the tile as floats, scaled by a power of two, its rotary embedding
// undone, transposed to [d, n] so that later kernels may give a thread a token and still read whole
// lines. Tiles whose channel means may pay get a second slot with the means taken off.
//
// A block a tile, because the exponent needs the whole tile first. A warp takes sixteen channels,
// and its lanes a token each, of 32 at a time: what they write is whole lines without a detour,
// what they read is sectors whose other half a neighbouring warp wants. Usual tiles are read once
// and stay in registers while the exponent is found.
#include "gpu/elements.cuh"
#include "gpu/kernels.h"
#include "gpu/rotation.cuh"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kWarps = kThreads / kWarp;
constexpr uint32_t kBlocks = 2;             // on a multiprocessor
constexpr uint32_t kChannels = 2 * kEight;  // of a warp at a time
constexpr uint32_t kHeldChunks = 4;         // of 32 tokens, that stay in registers
// Channel means are tried where they hold at least this share of the energy left without them.
constexpr double kMeansShare = 8;

// Where a warp's channels begin: two runs of eight, apart where halves of a head are rotated
// together.
struct Runs {
  uint32_t a, b;
  __device__ uint32_t Channel(uint32_t i) const { return i < kEight ? a + i : b + i - kEight; }
};

// The rotation of a pair undone, rounded the same way wherever it is.
__device__ __forceinline__ float UnrotatedFirst(float x, float y, float cos, float sin) {
  return fmaf(x, cos, y * sin);
}
__device__ __forceinline__ float UnrotatedSecond(float x, float y, float cos, float sin) {
  return fmaf(y, cos, -(x * sin));
}

// A tile as a thread sees it.
struct Source {
  const EncodeBatch& batch;
  const EncodeTile& job;
  bool wide;        // 16-bit elements, eight of a row in one aligned load
  bool halves;      // rotated, as RotatesHalves says
  bool neighbours;  // rotated, as RotatesNeighbours says
  float scale_a, scale_b;

  __device__ Source(const EncodeBatch& b, const EncodeTile& tile) : batch(b), job(tile) {
    wide = b.dtype != kFp32 &&
           ((reinterpret_cast<uintptr_t>(tile.values) | tile.row_stride) & 15) == 0;
    halves = tile.cos != nullptr && RotatesHalves(b.rotary, b.d);
    neighbours = tile.cos != nullptr && RotatesNeighbours(b.rotary);
  }
  __device__ bool fast() const { return wide && (halves || neighbours || job.cos == nullptr); }

  __device__ Runs RunsAt(uint32_t i) const {
    return halves ? Runs{kEight * i, kEight * i + batch.rotary.pairs}
                  : Runs{kChannels * i, kChannels * i + kEight};
  }
  __device__ const uint8_t* Row(uint32_t t) const { return job.values + t * job.row_stride; }
  __device__ __forceinline__ uint4 Words(uint32_t t, uint32_t c) const {
    return *reinterpret_cast<const uint4*>(Row(t) + 2 * c);
  }
  __device__ __forceinline__ void Unpack(const uint4& words, float (&x)[kEight]) const {
    UnpackEight(words, batch.dtype, x);
#pragma unroll
    for (float& value : x) value = value * scale_a * scale_b;
  }

  // Undoes the rotation of channels a.. and a + d / 2.. of token t.
  __device__ __forceinline__ void UnrotateHalves(uint32_t t, uint32_t a, float (&x)[kEight],
                                                 float (&y)[kEight]) const {
    const size_t at = size_t{t} * batch.rotary.pairs + a;
#pragma unroll
    for (uint32_t i = 0; i < kEight; i += 4) {
      const float4 c = *reinterpret_cast<const float4*>(job.cos + at + i);
      const float4 s = *reinterpret_cast<const float4*>(job.sin + at + i);
      const float cos[4] = {c.x, c.y, c.z, c.w}, sin[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
      for (uint32_t k = 0; k < 4; ++k) {
        const float p = x[i + k], q = y[i + k];
        x[i + k] = UnrotatedFirst(p, q, cos[k], sin[k]);
        y[i + k] = UnrotatedSecond(p, q, cos[k], sin[k]);
      }
    }
  }

  // The same of channels c.. of token t, turned with their neighbours.
  __device__ __forceinline__ void UnrotateNeighbours(uint32_t t, uint32_t c,
                                                     float (&x)[kEight]) const {
    const uint32_t first = c - batch.rotary.offset;
    if (c < batch.rotary.offset || first >= 2 * batch.rotary.pairs) return;
    const size_t at = size_t{t} * batch.rotary.pairs + first / 2;
    const float4 c4 = *reinterpret_cast<const float4*>(job.cos + at);
    const float4 s4 = *reinterpret_cast<const float4*>(job.sin + at);
    const float cos[4] = {c4.x, c4.y, c4.z, c4.w}, sin[4] = {s4.x, s4.y, s4.z, s4.w};
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) {
      const float p = x[2 * k], q = x[2 * k + 1];
      x[2 * k] = UnrotatedFirst(p, q, cos[k], sin[k]);
      x[2 * k + 1] = UnrotatedSecond(p, q, cos[k], sin[k]);
    }
  }

  // Channel c of token t as the tile has it, scaled.
  __device__ float Scaled(uint32_t t, uint32_t c) const {
    return LoadElement(Row(t), c, batch.dtype) * scale_a * scale_b;
  }
  // The same with its rotation undone, whatever the pairing.
  __device__ float Unrotated(uint32_t t, uint32_t c) const {
    const float x = Scaled(t, c);
    const RotaryShape& rotary = batch.rotary;
    const uint32_t pairs = rotary.pairs, k = c - rotary.offset;
    if (job.cos == nullptr || c < rotary.offset || k >= 2 * pairs) return x;
    const bool interleaved = rotary.interleaved != 0;
    const size_t at = size_t{t} * pairs + (interleaved ? k / 2 : k % pairs);
    const uint32_t step = interleaved ? 1 : pairs;
    const bool second = interleaved ? k % 2 != 0 : k >= pairs;
    return second ? UnrotatedSecond(Scaled(t, c - step), x, job.cos[at], job.sin[at])
                  : UnrotatedFirst(x, Scaled(t, c + step), job.cos[at], job.sin[at]);
  }
};

// What a warp reads of a tile at a time: its channels of some tokens. Usual tiles have no more for
// each warp.
constexpr uint32_t kPieceTokens = kHeldChunks * kWarp;
struct Piece {
  uint4 a[kHeldChunks], b[kHeldChunks];
};
__device__ bool IsOnePieceAWarp(const EncodeBatch& b) {
  return b.n <= kPieceTokens && b.d <= kWarps * kChannels;
}

__device__ __forceinline__ uint32_t LargestPair(uint32_t largest, const uint4& words) {
  largest = __vmaxu2(largest, words.x & 0x7fff7fffu);
  largest = __vmaxu2(largest, words.y & 0x7fff7fffu);
  largest = __vmaxu2(largest, words.z & 0x7fff7fffu);
  return __vmaxu2(largest, words.w & 0x7fff7fffu);
}

// Magnitudes order like their bits, so they are widened at the end.
__device__ uint32_t WidenPair(uint32_t largest, uint32_t dtype) {
  const uint32_t h = max(largest & 0xffffu, largest >> 16);
  if (dtype == kBf16) return h << 16;
  return h >= 0x7c00u ? 0x7f800000u
                      : __float_as_uint(__half2float(__ushort_as_half(static_cast<uint16_t>(h))));
}

// All loads before the first use.
__device__ __forceinline__ void Load(const Source& from, const Runs& runs, uint32_t first,
                                     Piece* piece) {
#pragma unroll
  for (uint32_t k = 0; k < kHeldChunks; ++k) {
    const uint32_t t = first + k * kWarp + threadIdx.x % kWarp;
    if (t >= from.batch.n) continue;
    piece->a[k] = from.Words(t, runs.a);
    piece->b[k] = from.Words(t, runs.b);
  }
}

__device__ __forceinline__ uint32_t LargestOf(const Piece& piece, uint32_t tokens,
                                              uint32_t largest) {
#pragma unroll
  for (uint32_t k = 0; k < kHeldChunks; ++k) {
    if (k * kWarp >= tokens) continue;
    largest = LargestPair(LargestPair(largest, piece.a[k]), piece.b[k]);
  }
  return largest;
}

// The largest magnitude of what the thread reads; `piece` has the warp's last one.
__device__ __forceinline__ uint32_t ReadPieces(const Source& from, Piece* piece) {
  const EncodeBatch& b = from.batch;
  uint32_t largest = 0;
  for (uint32_t i = threadIdx.x / kWarp; kChannels * i < b.d; i += kWarps) {
    for (uint32_t first = 0; first < b.n; first += kPieceTokens) {
      Load(from, from.RunsAt(i), first, piece);
      largest = LargestOf(*piece, b.n - first, largest);
    }
  }
  return WidenPair(largest, b.dtype);
}

__device__ uint32_t ReadElements(const Source& from) {
  const EncodeBatch& b = from.batch;
  uint32_t largest = 0;
  for (uint32_t t = threadIdx.x / kWarp; t < b.n; t += kWarps) {
    for (uint32_t c = threadIdx.x % kWarp; c < b.d; c += kWarp) {
      largest = max(largest, MagnitudeBits(from.Row(t), c, b.dtype));
    }
  }
  return largest;
}

__device__ void InitialiseSlot(Slot* slot, uint32_t tile, int32_t exponent, bool finite) {
  slot->tile = tile;
  slot->exponent = exponent;
  slot->scale_a = ldexpf(1.0f, -(exponent / 2));
  slot->scale_b = ldexpf(1.0f, -(exponent - exponent / 2));
  slot->finite = finite;
  slot->with_means = 0;
  slot->vectors = slot->deflated = slot->dominant = slot->rank = 0;
  slot->deficient = slot->solved = slot->met = slot->second = 0;
  slot->bits = slot->body_bytes = 0;
  for (double& sum : slot->sums) sum = 0;
  slot->done = finite ? 0 : 1;
}

// What is known of channel means: the energy that they hold, a token's, and that of the whole tile;
// a thread's share.
struct MeansEnergy {
  double held = 0, total = 0;
};

// Writes the warp's channels and, where asked, their means: as differences to the first token,
// which are exact for constant channels.
class Writer {
 public:
  // `first` holds kChannels floats of the warp's own.
  __device__ Writer(const EncodeBatch& b, float* x, uint16_t* half_means, float* first)
      : b_(b), x_(x), half_means_(half_means), first_(first) {}

  __device__ __forceinline__ void Begin(const Runs& runs) {
    runs_ = runs;
#pragma unroll
    for (float& sum : sums_) sum = 0;
  }
  __device__ __forceinline__ void Put(uint32_t t, const float (&x)[kEight],
                                      const float (&y)[kEight]) {
    float* const to_a = x_ + size_t{runs_.a} * b_.n + t;
    float* const to_b = x_ + size_t{runs_.b} * b_.n + t;
#pragma unroll
    for (uint32_t i = 0; i < kEight; ++i) to_a[i * b_.n] = x[i];
#pragma unroll
    for (uint32_t i = 0; i < kEight; ++i) to_b[i * b_.n] = y[i];
    if (half_means_ == nullptr) return;
    if (t == 0) {
#pragma unroll
      for (uint32_t i = 0; i < kEight; ++i) {
        first_[i] = x[i];
        first_[kEight + i] = y[i];
      }
    }
    __syncwarp();
#pragma unroll
    for (uint32_t i = 0; i < kEight; ++i) {
      sums_[i] += x[i] - first_[i];
      sums_[kEight + i] += y[i] - first_[kEight + i];
      squares_ = fmaf(x[i], x[i], fmaf(y[i], y[i], squares_));
    }
  }
  __device__ __forceinline__ void End(MeansEnergy* energy) {
    if (half_means_ == nullptr) return;
    const float sum = SpreadSixteen(sums_);
    energy->total += squares_;
    squares_ = 0;
    const uint32_t lane = threadIdx.x % kWarp, i = lane / 2;
    const float mean = first_[i] + sum * (1.0f / static_cast<float>(b_.n));
    __syncwarp();
    if (lane % 2 != 0) return;
    energy->held += static_cast<double>(mean) * mean;
    half_means_[runs_.Channel(i)] = ToSideValue(mean);
  }

 private:
  const EncodeBatch& b_;
  float* const x_;
  uint16_t* const half_means_;
  float* const first_;
  Runs runs_;
  float sums_[kChannels];
  float squares_ = 0;
};

__device__ __forceinline__ void WritePiece(const Source& from, const Runs& runs, uint32_t first,
                                           const Piece& piece, Writer* to) {
#pragma unroll
  for (uint32_t k = 0; k < kHeldChunks; ++k) {
    const uint32_t t = first + k * kWarp + threadIdx.x % kWarp;
    if (t >= from.batch.n) continue;
    float x[kEight], y[kEight];
    from.Unpack(piece.a[k], x);
    from.Unpack(piece.b[k], y);
    if (from.halves) {
      from.UnrotateHalves(t, runs.a, x, y);
    } else if (from.neighbours) {
      from.UnrotateNeighbours(t, runs.a, x);
      from.UnrotateNeighbours(t, runs.b, y);
    }
    to->Put(t, x, y);
  }
}

// `piece` is the warp's only one, if it has no more.
__device__ __forceinline__ void WritePieces(const Source& from, Piece* piece, Writer* to,
                                            MeansEnergy* energy) {
  const bool only = IsOnePieceAWarp(from.batch);
  for (uint32_t i = threadIdx.x / kWarp; kChannels * i < from.batch.d; i += kWarps) {
    const Runs runs = from.RunsAt(i);
    to->Begin(runs);
    for (uint32_t first = 0; first < from.batch.n; first += kPieceTokens) {
      if (!only) Load(from, runs, first, piece);
      WritePiece(from, runs, first, *piece, to);
    }
    to->End(energy);
  }
}

__device__ void WriteElements(const Source& from, Writer* to, MeansEnergy* energy) {
  for (uint32_t i = threadIdx.x / kWarp; kChannels * i < from.batch.d; i += kWarps) {
    const Runs runs = from.RunsAt(i);
    to->Begin(runs);
    for (uint32_t t = threadIdx.x % kWarp; t < from.batch.n; t += kWarp) {
      float x[kEight], y[kEight];
#pragma unroll
      for (uint32_t k = 0; k < kEight; ++k) {
        x[k] = from.Unrotated(t, runs.a + k);
        y[k] = from.Unrotated(t, runs.b + k);
      }
      to->Put(t, x, y);
    }
    to->End(energy);
  }
}

__global__ void __launch_bounds__(kThreads, kBlocks)
    PrepareKernel(const __grid_constant__ EncodeBatch b) {
  __shared__ uint32_t max_room[kWarps];
  __shared__ double sum_room[kWarps];
  __shared__ __align__(16) float first[kWarps][kChannels];
  __shared__ uint32_t second;
  const uint32_t tile = blockIdx.x, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const EncodeTile job = b.jobs[tile];
  Source from(b, job);
  Piece piece;
  const uint32_t mine = from.fast() ? ReadPieces(from, &piece) : ReadElements(from);
  const uint32_t largest = BlockMax(mine, max_room);
  const bool finite = largest < 0x7f800000u;
  const int32_t exponent =
      finite && largest > 0 ? max(-128, min(127, ilogbf(__uint_as_float(largest)))) : 0;
  Slot* slot = &b.slots[tile];
  if (threadIdx.x == 0) InitialiseSlot(slot, tile, exponent, finite);
  if (!finite || b.raw != 0) return;

  from.scale_a = ldexpf(1.0f, -(exponent / 2));
  from.scale_b = ldexpf(1.0f, -(exponent - exponent / 2));
  const bool try_means = b.key_like != 0 && b.eoptshrinkq != 0;
  float* x = b.x + size_t{tile} * b.n * b.d;
  uint16_t* half_means = b.means + size_t{tile} * b.d;
  Writer to(b, x, try_means ? half_means : nullptr, first[warp]);
  MeansEnergy energy;
  if (from.fast()) {
    WritePieces(from, &piece, &to, &energy);
  } else {
    WriteElements(from, &to, &energy);
  }
  if (!try_means) return;
  const double in_means = BlockSum(energy.held, sum_room) * b.n;
  const double total = BlockSum(energy.total, sum_room);
  if (!(in_means > kMeansShare * (total - in_means))) return;
  if (threadIdx.x == 0) second = atomicAdd(&b.counters[0], 1);
  __syncthreads();
  const uint32_t centred = second;
  if (threadIdx.x == 0) {
    InitialiseSlot(&b.slots[centred], tile, exponent, true);
    b.slots[centred].with_means = 1;
    slot->second = centred;
  }
  float* y = b.x + size_t{centred} * b.n * b.d;
  for (uint32_t c = warp; c < b.d; c += kWarps) {
    const float mean = SideValue(half_means[c]);
    for (uint32_t t = lane; t < b.n; t += kWarp) {
      y[size_t{c} * b.n + t] = x[size_t{c} * b.n + t] - mean;
    }
    if (lane == 0) b.means[size_t{centred} * b.d + c] = half_means[c];
  }
}

__global__ void ResetKernel(const __grid_constant__ EncodeBatch b) {
  if (threadIdx.x == 0) b.counters[0] = b.tiles;
  if (threadIdx.x > 0 && threadIdx.x <= kMaxDeflationRounds) b.counters[threadIdx.x] = 0;
}

}  // namespace

cudaError_t LaunchPrepare(const EncodeBatch& b, cudaStream_t stream) {
  ResetKernel<<<1, kWarp, 0, stream>>>(b);
  PrepareKernel<<<b.tiles, kThreads, 0, stream>>>(b);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
