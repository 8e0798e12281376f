// The low-rank part of a tile as the decoder will see it: long vectors and singular values, the
// shrunk values (codec/shrinkage.h), 4-bit codebooks of both factors (codec/factor_codebook.h), and
// the values refitted to the quantised factors by least squares.
//
// A block a tile. Histograms count in integers, whose sums are exact in any order; Lloyd's
// algorithm then runs in one warp a factor, both starts side by side, a lane a level.
#include "gpu/project.cuh"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kWarps = kThreads / kWarp;
constexpr int kBins = 512;
constexpr int kIterations = 12;
// Fixed point of the histograms: 22 * 576 values of weight 2^24 and magnitude 2^16 stay exact.
constexpr double kWeightUnit = 0x1p24;
constexpr float kValueUnit = 0x1p16f;

__device__ constexpr double kNormal[8] = {0.1284, 0.3881, 0.6568, 0.9424,
                                          1.2562, 1.6181, 2.0690, 2.7326};

// Bins lie one apart after every 16: a lane sums up 16 of them.
constexpr int kBinPlaces = kBins + kBins / 16 + 1;
__device__ inline int BinPlace(int bin) { return bin + bin / 16; }

// Of each bin, then as doubles of all bins below; of both factors.
struct Histograms {
  unsigned long long weight[2][kBinPlaces], moment[2][kBinPlaces];
};

// Least squares for phi.
struct Equations {
  double normal[kMaxVectors][kMaxVectors + 1];
  double cross[kMaxVectors][kMaxVectors + 1];
};

struct Room {
  union {
    Histograms bins;
    Equations fit;  // once the codebooks are made
  };
  int8_t levels[2][16];
  uint8_t code_of_bin[2][kBins];
  double phi[kMaxVectors], fitted[kMaxVectors];
  unsigned long long weights[kMaxVectors];
  float stretch[2], rms[2];
  double sums[kWarps];
  uint32_t maxima[kWarps];
};

// Long vectors, singular values and signs of the leading directions.
__device__ void Complete(const EncodeBatch& b, uint32_t index, Slot* slot) {
  const uint32_t p = b.p, q = b.q, lane = threadIdx.x % kWarp;
  float* shorts = b.shorts + size_t{index} * kMaxVectors * p;
  float* longs = b.longs + size_t{index} * kMaxVectors * q;
  Project(b, b.x + size_t{index} * b.n * b.d, shorts, slot->rank, longs);
  __syncthreads();
  for (uint32_t i = threadIdx.x / kWarp; i < slot->rank; i += kWarps) {
    float* long_vector = longs + size_t{i} * q;
    float* short_vector = shorts + size_t{i} * p;
    const double s = sqrt(WarpEnergy(long_vector, q));
    // Signs are free; the largest entry of u is positive.
    const float* u = b.tokens_short != 0 ? short_vector : long_vector;
    float largest = 0;
    uint32_t at = b.n;
    for (uint32_t t = lane; t < b.n; t += kWarp) {
      if (fabsf(u[t]) > fabsf(largest)) {
        largest = u[t];
        at = t;
      }
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, largest, step);
      const uint32_t other_at = __shfl_xor_sync(kAllLanes, at, step);
      const float mine = fabsf(largest), theirs = fabsf(other);
      if (theirs > mine || (theirs == mine && other_at < at)) {
        largest = other;
        at = other_at;
      }
    }
    const float sign = largest < 0 ? -1.0f : 1.0f;
    const float scale = s > 0 ? static_cast<float>(sign / s) : 0.0f;
    __syncwarp();
    for (uint32_t l = lane; l < q; l += kWarp) long_vector[l] *= scale;
    for (uint32_t j = lane; j < p; j += kWarp) short_vector[j] *= sign;
    if (lane == 0) slot->singular[i] = s;
  }
  __syncthreads();
}

// phi_i by the shrinker: eOptShrink, arXiv 2207.03466. A warp a value.
__device__ void Shrink(const EncodeBatch& b, const Slot* slot, const double* lambda, Room* room) {
  const uint32_t lane = threadIdx.x % kWarp, rank = slot->rank, k = b.k;
  const double beta = static_cast<double>(b.p) / b.q;
  for (uint32_t i = threadIdx.x / kWarp; i < rank; i += kWarps) {
    const double s = slot->singular[i];
    double phi = s;
    if (b.optimal != 0 && slot->deficient == 0) {
      const double z = s * s;
      const double top = lambda[rank + k], bottom = lambda[rank + 2 * k];
      double m1 = 0, m1_prime = 0;
      for (uint32_t j = lane; j < b.p - rank; j += kWarp) {
        const double x = j < k ? top + b.law[j] / b.edge_law * (top - bottom) : lambda[rank + j];
        const double r = 1 / (x - z);
        m1 += r;
        m1_prime += r * r;
      }
      const double count = b.p - rank;
      m1 = WarpSum(m1) / count;
      m1_prime = WarpSum(m1_prime) / count;
      const double m2 = beta * m1 - (1 - beta) / z;
      const double m2_prime = beta * m1_prime + (1 - beta) / (z * z);
      const double t = z * m1 * m2;
      const double t_prime = m1 * m2 + z * m1_prime * m2 + z * m1 * m2_prime;
      if (t > 0 && t_prime < 0) phi = fmin(fmax(s * m1 * m2 / fabs(t_prime), 0.0), s);
    }
    if (lane == 0) room->phi[i] = phi;
  }
  __syncthreads();
}

__device__ inline int BinOf(float value, float stretch) {
  const int bin = static_cast<int>(value * stretch * (kBins / 2) + kBins / 2);
  return min(max(bin, 0), kBins - 1);
}

// Stretch, RMS and histogram of one factor.
__device__ void Survey(const float* values, uint32_t rank, uint32_t length, uint32_t which,
                       Room* room) {
  uint32_t largest = 0;
  double squares = 0;
  for (uint32_t i = threadIdx.x; i < rank * length; i += kThreads) {
    largest = max(largest, __float_as_uint(fabsf(values[i])));
    squares += static_cast<double>(values[i]) * values[i];
  }
  const float top = __uint_as_float(BlockMax(largest, room->maxima));
  squares = BlockSum(squares, room->sums);
  const float stretch = top > 0 ? 127.0f / 128.0f / top : 1.0f;
  if (threadIdx.x == 0) {
    room->stretch[which] = stretch;
    room->rms[which] = static_cast<float>(sqrt(squares / (rank * length))) * stretch;
  }
  for (uint32_t i = threadIdx.x; i < rank * length; i += kThreads) {
    const int bin = BinPlace(BinOf(values[i], stretch));
    const long long value = llrintf(values[i] * stretch * kValueUnit);
    const unsigned long long weight = room->weights[i / length];
    atomicAdd(&room->bins.weight[which][bin], weight);
    atomicAdd(&room->bins.moment[which][bin],
              static_cast<unsigned long long>(value * static_cast<long long>(weight)));
  }
  __syncthreads();
}

// Running sums of the histogram, in place; one warp.
__device__ void Accumulate(unsigned long long* sums, double unit) {
  constexpr int kEach = kBins / kWarp;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  double total = 0;
  for (int i = 0; i < kEach; ++i) {
    total += static_cast<double>(static_cast<long long>(sums[BinPlace(lane * kEach + i)]));
  }
  double before = total;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const double other = __shfl_up_sync(kAllLanes, before, step);
    if (lane >= step) before += other;
  }
  before -= total;
  for (int i = 0; i < kEach; ++i) {
    unsigned long long& at = sums[BinPlace(lane * kEach + i)];
    const auto here = static_cast<double>(static_cast<long long>(at));
    at = __double_as_longlong(before / unit);
    before += here;
  }
  if (lane == 31) sums[BinPlace(kBins)] = __double_as_longlong(before / unit);
  __syncwarp();
}

// Lloyd's algorithm from two starts: lanes 0..15 normal, 16..31 companded.
__device__ void FitLevels(uint32_t which, Room* room) {
  const int lane = static_cast<int>(threadIdx.x % kWarp), i = lane % 16;
  const int half = i >= 8 ? i - 8 : 7 - i;
  const double x = (half + 0.5) / 8;
  double level = lane < 16 ? fmin(kNormal[half] * room->rms[which], 1.0) : x * x;
  if (i < 8) level = -level;
  double explained = 0;
  for (int step = 0; step < kIterations; ++step) {
    const double next = __shfl_down_sync(kAllLanes, level, 1, 16);
    int to = kBins;
    if (i < 15) {
      const double middle = (level + next) / 2 * (kBins / 2);
      to = min(max(static_cast<int>(llround(middle)) + kBins / 2, 0), kBins);
    }
    int from = __shfl_up_sync(kAllLanes, to, 1, 16);
    if (i == 0) from = 0;
    const double weight = __longlong_as_double(room->bins.weight[which][BinPlace(to)]) -
                          __longlong_as_double(room->bins.weight[which][BinPlace(from)]);
    const double moment = __longlong_as_double(room->bins.moment[which][BinPlace(to)]) -
                          __longlong_as_double(room->bins.moment[which][BinPlace(from)]);
    explained = 0;
    if (weight > 0) {
      level = moment / weight;
      explained = moment * level;
    }
    // An empty cell keeps its level, which a neighbour may have passed.
    const double before = __shfl_up_sync(kAllLanes, level, 1, 16);
    if (__any_sync(kAllLanes, i > 0 && before > level)) {
      int place = 0;
      for (int j = 0; j < 16; ++j) {
        const double other = __shfl_sync(kAllLanes, level, j, 16);
        place += other < level || (other == level && j < i);
      }
      double sorted = level;
      for (int j = 0; j < 16; ++j) {
        const double other = __shfl_sync(kAllLanes, level, j, 16);
        const int other_place = __shfl_sync(kAllLanes, place, j, 16);
        if (other_place == i) sorted = other;
      }
      level = sorted;
    }
  }
#pragma unroll
  for (int step = 8; step > 0; step /= 2) {
    explained += __shfl_xor_sync(kAllLanes, explained, step);
  }
  const bool normal = __shfl_sync(kAllLanes, explained, 0) >= __shfl_sync(kAllLanes, explained, 16);
  const double best = __shfl_sync(kAllLanes, level, normal ? i : i + 16);
  const int entry = min(max(static_cast<int>(llround(best * 128)), -128), 127);
  if (lane < 16) room->levels[which][i] = static_cast<int8_t>(entry);
  __syncwarp();
}

__device__ void MakeCodebook(const EncodeBatch& b, uint32_t which, Room* room) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  if (b.closed_loop != 0) {
    Accumulate(room->bins.weight[which], 1);
    Accumulate(room->bins.moment[which], kValueUnit);
    FitLevels(which, room);
  } else {
    if (lane < 16) {
      room->levels[which][lane] = static_cast<int8_t>(lround(127.0 * (2 * lane - 15) / 15));
    }
    __syncwarp();
  }
}

// The code of every bin; the whole block.
__device__ void MakeCodes(uint32_t which, Room* room) {
  int thresholds[15];
#pragma unroll
  for (int i = 0; i < 15; ++i) {
    thresholds[i] = room->levels[which][i] + room->levels[which][i + 1] + kBins / 2;
  }
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
    uint32_t code = 0;
#pragma unroll
    for (int threshold : thresholds) code += threshold <= bin ? 1 : 0;
    room->code_of_bin[which][bin] = static_cast<uint8_t>(code);
  }
}

// Packs the codes and leaves the decoded values.
__device__ void Quantise(const float* values, uint32_t count, uint32_t which, const Room& room,
                         uint8_t* codes, float* decoded) {
  const float stretch = room.stretch[which];
  for (uint32_t i = threadIdx.x; i < count / 2; i += kThreads) {
    const uint32_t low = room.code_of_bin[which][BinOf(values[2 * i], stretch)];
    const uint32_t high = room.code_of_bin[which][BinOf(values[2 * i + 1], stretch)];
    codes[i] = static_cast<uint8_t>(low | high << 4);
    decoded[2 * i] = static_cast<float>(room.levels[which][low]) * (1.0f / 128);
    decoded[2 * i + 1] = static_cast<float>(room.levels[which][high]) * (1.0f / 128);
  }
}

__device__ inline float WarpDot(const float* a, const float* b, uint32_t count) {
  float sum = 0;
  for (uint32_t i = threadIdx.x % kWarp; i < count; i += kWarp) sum = fmaf(a[i], b[i], sum);
  return WarpSum(sum);
}

// Solves normal x = fitted by Cholesky with a ridge, in place; one warp, a lane a row.
__device__ void SolveNormalEquations(uint32_t rank, Room* room) {
  const uint32_t lane = threadIdx.x % kWarp;
  auto& m = room->fit.normal;
  auto& x = room->fitted;
  if (lane < rank) m[lane][lane] *= 1 + 1e-9;
  __syncwarp();
  for (uint32_t j = 0; j < rank; ++j) {
    const double pivot = sqrt(fmax(m[j][j], 1e-300));
    double below = 0;
    if (lane > j && lane < rank) below = m[lane][j] / pivot;
    __syncwarp();
    if (lane == j) m[j][j] = pivot;
    if (lane > j && lane < rank) m[lane][j] = below;
    __syncwarp();
    if (lane > j && lane < rank) {
      for (uint32_t k = j + 1; k <= lane; ++k) m[lane][k] -= below * m[k][j];
    }
    __syncwarp();
  }
  double value = lane < rank ? x[lane] : 0;
  for (uint32_t j = 0; j < rank; ++j) {
    if (lane == j) value /= m[j][j];
    const double solved = __shfl_sync(kAllLanes, value, j);
    if (lane > j && lane < rank) value -= m[lane][j] * solved;
  }
  for (uint32_t j = rank; j-- > 0;) {
    if (lane == j) value /= m[j][j];
    const double solved = __shfl_sync(kAllLanes, value, j);
    if (lane < j) value -= m[j][lane] * solved;
  }
  if (lane < rank) x[lane] = value;
  __syncwarp();
}

// Least squares of sum c_i u^_i v^_i^T to sum phi_i u_i v_i^T, u^ and v^ as decoded.
__device__ void RefitPhi(const EncodeBatch& b, uint32_t rank, const float* u, const float* v,
                         const float* u_decoded, const float* v_decoded, Room* room) {
  const uint32_t n = b.n, d = b.d;
  for (uint32_t pair = threadIdx.x / kWarp; pair < rank * rank; pair += kWarps) {
    const uint32_t i = pair / rank, j = pair % rank;
    const float* ui = u_decoded + size_t{i} * n;
    const float* vi = v_decoded + size_t{i} * d;
    const double cross =
        static_cast<double>(WarpDot(u + size_t{j} * n, ui, n)) * WarpDot(v + size_t{j} * d, vi, d);
    double normal = 0;
    if (j <= i) {
      normal = static_cast<double>(WarpDot(u_decoded + size_t{j} * n, ui, n)) *
               WarpDot(v_decoded + size_t{j} * d, vi, d);
    }
    if (threadIdx.x % kWarp == 0) {
      room->fit.cross[i][j] = cross;
      room->fit.normal[i][j] = normal;
    }
  }
  __syncthreads();
  if (threadIdx.x < kWarp) {
    const uint32_t i = threadIdx.x;
    if (i < rank) {
      double sum = 0;
      for (uint32_t j = 0; j < rank; ++j) sum += room->phi[j] * room->fit.cross[i][j];
      room->fitted[i] = sum;
    }
    __syncwarp();
    SolveNormalEquations(rank, room);
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads, 8)
    FactorsKernel(const __grid_constant__ EncodeBatch b) {
  __shared__ Room room;
  const uint32_t n = b.n, d = b.d;
  const uint32_t index = blockIdx.x;
  if (index >= b.counters[0]) return;
  Slot* slot = &b.slots[index];
  const uint32_t rank = slot->rank;
  if (slot->finite == 0 || rank == 0) return;
  Complete(b, index, slot);
  const float* shorts = b.shorts + size_t{index} * kMaxVectors * b.p;
  const float* longs = b.longs + size_t{index} * kMaxVectors * b.q;
  const float* u = b.tokens_short != 0 ? shorts : longs;
  const float* v = b.tokens_short != 0 ? longs : shorts;
  Shrink(b, slot, b.lambda + (size_t{index} * 2 + 1) * b.p, &room);
  if (threadIdx.x < rank) {
    double largest = 0;
    for (uint32_t i = 0; i < rank; ++i) largest = fmax(largest, room.phi[i]);
    const double share = largest > 0 ? room.phi[threadIdx.x] / largest : 1;
    room.weights[threadIdx.x] =
        max(1ull, static_cast<unsigned long long>(share * share * kWeightUnit));
  }
  for (uint32_t i = threadIdx.x; i < 2 * kBinPlaces; i += kThreads) {
    room.bins.weight[i / kBinPlaces][i % kBinPlaces] =
        room.bins.moment[i / kBinPlaces][i % kBinPlaces] = 0;
  }
  __syncthreads();
  Survey(u, rank, n, 0, &room);
  Survey(v, rank, d, 1, &room);
  if (threadIdx.x / kWarp < 2) MakeCodebook(b, threadIdx.x / kWarp, &room);
  __syncthreads();
  MakeCodes(0, &room);
  MakeCodes(1, &room);
  __syncthreads();
  uint8_t* factors = b.factors + size_t{index} * b.factor_bytes;
  uint8_t* v_codes = factors + kMaxVectors * n / 2;
  uint8_t* levels = v_codes + kMaxVectors * d / 2;
  float* u_decoded = b.u + size_t{index} * kMaxVectors * n;
  float* v_decoded = b.v + size_t{index} * kMaxVectors * d;
  Quantise(u, rank * n, 0, room, factors, u_decoded);
  Quantise(v, rank * d, 1, room, v_codes, v_decoded);
  __syncthreads();
  if (b.closed_loop != 0) {
    RefitPhi(b, rank, u, v, u_decoded, v_decoded, &room);
  } else {
    if (threadIdx.x < rank) {
      room.fitted[threadIdx.x] =
          room.phi[threadIdx.x] / (static_cast<double>(room.stretch[0]) * room.stretch[1]);
    }
    // The residual is taken against the exact low-rank part.
    for (uint32_t i = threadIdx.x; i < rank * n; i += kThreads) u_decoded[i] = u[i];
    __syncthreads();
  }
  for (uint32_t i = threadIdx.x; i < rank * d; i += kThreads) {
    const uint32_t j = i / d;
    v_decoded[i] = b.closed_loop != 0
                       ? v_decoded[i] * SideValue(ToSideValue(static_cast<float>(room.fitted[j])))
                       : v[i] * static_cast<float>(room.phi[j]);
  }
  if (threadIdx.x < 32) {
    levels[threadIdx.x] = static_cast<uint8_t>(room.levels[threadIdx.x / 16][threadIdx.x % 16]);
  }
  if (threadIdx.x < rank) {
    reinterpret_cast<uint16_t*>(levels + 32)[threadIdx.x] =
        ToSideValue(static_cast<float>(room.fitted[threadIdx.x]));
  }
}

}  // namespace

cudaError_t LaunchFactors(const EncodeBatch& b, cudaStream_t stream) {
  FactorsKernel<<<b.max_slots, kThreads, 0, stream>>>(b);
  return cudaGetLastError();
}

}  // namespace kvstow::gpu
