// From the tridiagonal form to the rank and the leading vectors of the short side: eigenvalues by
// Sturm counts (256 shifts at a time, several an eigenvalue), the bulk edge and the rank it gives
// (codec/shrinkage.h), vectors by twisted factorisation, back-transformed and orthonormalised.
// Dominant directions ask for another round on the deflated tile, as in codec/cpu/spectrum.h.
//
// A block a tile, eight vectors at a time: a thread runs one half of one factorisation, a warp
// finishes one vector. Decisions are made in double by one thread.
#include <cfloat>

#include "gpu/elements.cuh"
#include "gpu/kernels.h"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kBatch = 8;  // vectors at a time, one a warp
// Below 2^-24 of the largest eigenvalue a float matrix holds rounding errors only.
constexpr float kOctaves = 24;
// From the brackets of the first 256 shifts (6.7 %) to 4e-5 of the eigenvalue.
constexpr uint32_t kRefinement = 1700;
constexpr uint32_t kBulkShifts = 128;
constexpr double kDominance = 1e3;
constexpr double kRounding = 0x1p-20;
constexpr double kDeficiency = 0x1p-18;

struct Room {  // shared, besides the arrays of p
  float shifts[kThreads];
  int32_t above[kThreads];
  float low[72], high[72];
  float overlaps[kMaxVectors];
  double sums[kThreads / kWarp];
  float norms[kThreads / kWarp];
  uint32_t count, accepted;
};

// Number of eigenvalues above the shift.
__device__ int32_t CountAbove(const float* diag, const float* off2, uint32_t p, float shift) {
  float q = diag[0] - shift;
  int32_t below = q < 0;
  for (uint32_t i = 1; i < p; ++i) {
    q = (diag[i] - shift) - __fdividef(off2[i - 1], q);
    below += q < 0;
  }
  return static_cast<int32_t>(p) - below;
}

__device__ void CountAll(const float* diag, const float* off2, uint32_t p, Room* room,
                         uint32_t count) {
  __syncthreads();
  if (threadIdx.x < count) {
    room->above[threadIdx.x] = CountAbove(diag, off2, p, room->shifts[threadIdx.x]);
  }
  __syncthreads();
}

// The leading eigenvalues, and the others where the shrinker wants them, to lambda.
__device__ void FindEigenvalues(const EncodeBatch& b, const float* diag, const float* off2,
                                float top, Room* room, double* lambda) {
  const uint32_t p = b.p, leading = b.leading, tid = threadIdx.x;
  if (!(top > 0)) {
    for (uint32_t i = tid; i < p; i += kThreads) lambda[i] = 0;
    __syncthreads();
    return;
  }
  top *= 1.00001f;
  room->shifts[tid] = top * exp2f(-kOctaves * static_cast<float>(tid) / (kThreads - 1));
  CountAll(diag, off2, p, room, kThreads);
  if (tid < leading) {
    const auto j = static_cast<int32_t>(tid);
    uint32_t g = 0;
    for (uint32_t step = kThreads / 2; step > 0; step /= 2) {
      if (room->above[g + step - 1] <= j) g += step;
    }
    if (g < kThreads && room->above[g] <= j) ++g;
    room->low[tid] = g < kThreads ? room->shifts[g] : 0;
    room->high[tid] = g > 0 ? room->shifts[g - 1] : top;
  }
  // Interior points of each bracket, evenly spaced.
  const uint32_t points = kThreads / leading;
  for (uint32_t width = kRefinement; width > 0; width /= points + 1) {
    __syncthreads();
    const uint32_t j = tid / points, at = tid % points;
    if (j < leading) {
      const float low = room->low[j];
      room->shifts[tid] = low + (room->high[j] - low) *
                                    (static_cast<float>(at + 1) / static_cast<float>(points + 1));
    }
    CountAll(diag, off2, p, room, leading * points);
    if (tid < leading) {
      for (uint32_t i = 0; i < points; ++i) {
        const float shift = room->shifts[tid * points + i];
        if (room->above[tid * points + i] > static_cast<int32_t>(tid)) {
          room->low[tid] = shift;
        } else {
          room->high[tid] = fminf(room->high[tid], shift);
        }
      }
    }
  }
  __syncthreads();
  if (tid == 0) {
    double before = DBL_MAX;
    for (uint32_t j = 0; j < leading; ++j) {
      const double value = 0.5 * (static_cast<double>(room->low[j]) + room->high[j]);
      before = fmin(before, value);
      lambda[j] = before;
    }
  }
  __syncthreads();
  if (b.optimal == 0) {
    // Only means over the bulk look further.
    for (uint32_t i = leading + tid; i < p; i += kThreads) lambda[i] = 0;
    __syncthreads();
    return;
  }
  const double last = lambda[leading - 1];
  const double width = last / kBulkShifts;
  if (tid < kBulkShifts) {
    room->shifts[tid] =
        tid + 1 == kBulkShifts ? 0.0f : static_cast<float>(last - width * (tid + 1));
  }
  CountAll(diag, off2, p, room, kBulkShifts);
  if (tid == 0) {
    uint32_t at = leading;
    for (uint32_t g = 0; g < kBulkShifts && at < p; ++g) {
      const uint32_t end = min(p, static_cast<uint32_t>(max(room->above[g], 0)));
      if (end <= at) continue;
      const double high = last - width * g;
      const double members = end - at;
      for (uint32_t j = at; j < end; ++j) lambda[j] = high - width * ((j - at) + 0.5) / members;
      at = end;
    }
    for (; at < p; ++at) lambda[at] = 0;
  }
  __syncthreads();
}

// Eigenvalues of all rounds, the edge, the rank, and how many directions dominate. One thread;
// `all` holds those of this round already.
__device__ void Decide(const EncodeBatch& b, const double* round, double* all, Slot* slot,
                       uint32_t round_number) {
  const uint32_t p = b.p, deflated = slot->deflated;
  // Each direction taken out left a zero behind, the smallest of this round. Descending, by
  // insertion: the directions come first already, in nearly all cases.
  if (deflated > 0) {
    uint32_t count = 0;
    const auto insert = [&](double value) {
      uint32_t at = count++;
      for (; at > 0 && all[at - 1] < value; --at) all[at] = all[at - 1];
      all[at] = value;
    };
    for (uint32_t i = 0; i < deflated; ++i) insert(slot->direction_lambda[i]);
    for (uint32_t i = 0; i < p - deflated; ++i) insert(round[i]);
  }
  const uint32_t k = b.k;
  const double upper = all[k], lower = all[2 * k];
  slot->edge = upper + (upper - lower) / b.edge_law;
  slot->rank = 0;
  slot->deficient = upper <= kDeficiency * all[0];
  if (slot->deficient != 0) {
    while (slot->rank < k && all[slot->rank] > kDeficiency * all[0]) ++slot->rank;
  } else {
    for (uint32_t j = 0; j < k; ++j) {
      if (all[j] / slot->edge - 1 - b.rank_threshold > 0) slot->rank = j + 1;
    }
  }
  const double floor = fmax(kDominance * all[2 * k], kRounding * all[0]);
  uint32_t dominant = 0;
  while (dominant + deflated < k && round[dominant] > floor) ++dominant;
  if (round_number + 1 == kMaxDeflationRounds) dominant = 0;
  slot->dominant = dominant;
  slot->solved = dominant == 0;
}

__device__ inline float AwayFromZero(float q, float tiny) { return fabsf(q) < tiny ? tiny : q; }

// Twisted factorisation at shifts[i], i < count: L D L^T from the top and U D U^T from the bottom
// meet where the vector is largest; solving outwards needs no pivoting. Leaves unit vectors in z,
// and corrects the shifts by the Rayleigh quotient. pivots: [2 * kBatch][p + 1].
__device__ void TwistedVectors(const float* diag, const float* off, uint32_t p, float tiny,
                               uint32_t count, float* shifts, float* pivots, float* z) {
  const uint32_t stride = p + 1;
  __syncthreads();
  if (threadIdx.x < 2 * kBatch && threadIdx.x / 2 < count) {
    const float shift = shifts[threadIdx.x / 2];
    const bool up = threadIdx.x % 2 != 0;
    float* out = pivots + threadIdx.x * stride;
    uint32_t at = up ? p - 1 : 0;
    float q = AwayFromZero(diag[at] - shift, tiny);
    out[at] = q;
    for (uint32_t i = 1; i < p; ++i) {
      const uint32_t next = up ? at - 1 : at + 1;
      const float e = off[up ? next : at];
      q = AwayFromZero((diag[next] - shift) - __fdividef(e * e, q), tiny);
      out[next] = q;
      at = next;
    }
  }
  __syncthreads();
  const uint32_t vector = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (vector >= count) return;
  const float shift = shifts[vector];
  float* down = pivots + 2 * vector * stride;
  float* up = down + stride;
  float* out = z + vector * p;
  float least = INFINITY, gamma = 0;
  uint32_t twist = 0;
  for (uint32_t i = lane; i < p; i += kWarp) {
    const float g = down[i] + up[i] - (diag[i] - shift);
    if (fabsf(g) < least) {
      least = fabsf(g);
      gamma = g;
      twist = i;
    }
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, least, step);
    const float other_gamma = __shfl_xor_sync(kAllLanes, gamma, step);
    const uint32_t other_twist = __shfl_xor_sync(kAllLanes, twist, step);
    if (other < least || (other == least && other_twist < twist)) {
      least = other;
      gamma = other_gamma;
      twist = other_twist;
    }
  }
  // Ratios of neighbours, then their running products outwards from the twist.
  for (uint32_t i = lane; i < p; i += kWarp) {
    float ratio = 1;
    if (i < twist) ratio = -off[i] / down[i];
    if (i > twist) ratio = -off[i - 1] / up[i];
    out[i] = ratio;
  }
  __syncwarp();
  // Running products outwards: a lane multiplies its stretch, then what lies between it and the
  // twist. Elements at the twist and beyond count as one for the other side.
  const uint32_t stretch = (p + kWarp - 1) / kWarp;
  const uint32_t begin = min(lane * stretch, p), end = min(begin + stretch, p);
  float below = 1, above = 1;
  for (uint32_t i = begin; i < end; ++i) {
    if (i < twist) below *= out[i];
    if (i > twist) above *= out[i];
  }
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const float lower = __shfl_up_sync(kAllLanes, above, step);
    const float upper = __shfl_down_sync(kAllLanes, below, step);
    if (lane >= step) above *= lower;
    if (lane + step < 32) below *= upper;
  }
  above = __shfl_up_sync(kAllLanes, above, 1);
  below = __shfl_down_sync(kAllLanes, below, 1);
  if (lane == 0) above = 1;
  if (lane == 31) below = 1;
  for (uint32_t i = begin; i < end; ++i) {
    if (i > twist) out[i] = above *= out[i];
  }
  for (uint32_t i = end; i-- > begin;) {
    if (i < twist) out[i] = below *= out[i];
  }
  __syncwarp();
  float norm = 0;
  for (uint32_t i = lane; i < p; i += kWarp) norm = fmaf(out[i], out[i], norm);
  norm = WarpSum(norm);
  const float scale = 1.0f / sqrtf(norm);
  for (uint32_t i = lane; i < p; i += kWarp) out[i] *= scale;
  __syncwarp();
  if (lane == 0) shifts[vector] = shift + gamma / norm;
}

// z[vector] = Q z[vector] for the calling warp. A lane holds kPieces elements.
template <uint32_t kPieces>
__device__ void BackTransform(const float* g, const float* beta, uint32_t p, float* z) {
  const uint32_t lane = threadIdx.x % kWarp;
  float x[kPieces], v[kPieces], next[kPieces];
#pragma unroll
  for (uint32_t i = 0; i < kPieces; ++i) {
    const uint32_t c = lane + kWarp * i;
    x[i] = c < p ? z[c] : 0.0f;
    next[i] = c < 1 ? g[p + c] : 0.0f;
  }
  for (uint32_t s = 1; s < p; ++s) {
    float sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i) {
      const uint32_t c = lane + kWarp * i;
      v[i] = next[i];
      next[i] = s + 1 < p && c <= s ? g[size_t{s + 1} * p + c] : 0.0f;
      sum = fmaf(v[i], x[i], sum);
    }
    sum = WarpSum(sum) * beta[s];
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i) x[i] = fmaf(-sum, v[i], x[i]);
  }
#pragma unroll
  for (uint32_t i = 0; i < kPieces; ++i) {
    const uint32_t c = lane + kWarp * i;
    if (c < p) z[c] = x[i];
  }
}

// Makes z orthonormal to the vectors so far and appends it to them, unless little is left of it.
// The whole block; classical Gram-Schmidt twice.
__device__ bool AppendOrthonormalised(const float* z, float* shorts, uint32_t have, uint32_t p,
                                      Room* room) {
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  float* out = shorts + size_t{have} * p;
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < p; i += kThreads) out[i] = z[i];
  for (int pass = 0; pass < 2; ++pass) {
    __syncthreads();
    for (uint32_t j = warp; j < have; j += kThreads / kWarp) {
      float sum = 0;
      for (uint32_t i = lane; i < p; i += kWarp) {
        sum = fmaf(out[i], shorts[size_t{j} * p + i], sum);
      }
      sum = WarpSum(sum);
      if (lane == 0) room->overlaps[j] = sum;
    }
    __syncthreads();
    float squares = 0;
    for (uint32_t i = threadIdx.x; i < p; i += kThreads) {
      float e = out[i];
      for (uint32_t j = 0; j < have; ++j) {
        e = fmaf(-room->overlaps[j], shorts[size_t{j} * p + i], e);
      }
      out[i] = e;
      squares = fmaf(e, e, squares);
    }
    const float norm = BlockSum(squares, room->norms);
    if (!(norm > 0.01f) || !isfinite(norm)) return false;
    const float scale = 1.0f / sqrtf(norm);
    for (uint32_t i = threadIdx.x; i < p; i += kThreads) out[i] *= scale;
  }
  __syncthreads();
  return true;
}

__device__ inline uint64_t NextRandom(uint64_t* state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return *state >> 33;
}

// One step of inverse iteration by Gaussian elimination with row exchanges, in double. One thread;
// a, c, s are work. b(i) is the superdiagonal.
__device__ void SolveShifted(const float* diag, const float* off, uint32_t p, double shift,
                             double* x, double* a, double* u, double* c) {
  const double tiny = fmax(fabs(shift), 1e-30) * 1e-16;
  for (uint32_t i = 0; i < p; ++i) {
    a[i] = diag[i] - shift;
    u[i] = i + 1 < p ? off[i] : 0;
    c[i] = 0;
  }
  for (uint32_t i = 0; i + 1 < p; ++i) {
    double below = off[i], next_diag = a[i + 1], next_up = u[i + 1];
    if (fabs(below) > fabs(a[i])) {
      double t = a[i];
      a[i] = below, below = t;
      t = u[i], u[i] = next_diag, next_diag = t;
      t = c[i], c[i] = next_up, next_up = t;
      t = x[i], x[i] = x[i + 1], x[i + 1] = t;
    }
    if (fabs(a[i]) < tiny) a[i] = tiny;
    const double factor = below / a[i];
    a[i + 1] = next_diag - factor * u[i];
    u[i + 1] = next_up - factor * c[i];
    x[i + 1] -= factor * x[i];
  }
  if (fabs(a[p - 1]) < tiny) a[p - 1] = tiny;
  for (uint32_t i = p; i-- > 0;) {
    double rest = x[i];
    if (i + 1 < p) rest -= u[i] * x[i + 1];
    if (i + 2 < p) rest -= c[i] * x[i + 2];
    x[i] = rest / a[i];
  }
}

__device__ void Normalise(double* x, uint32_t p) {
  double largest = 0;
  for (uint32_t i = 0; i < p; ++i) largest = fmax(largest, fabs(x[i]));
  if (!(largest > 0)) return;
  double squares = 0;
  for (uint32_t i = 0; i < p; ++i) {
    x[i] /= largest;
    squares += x[i] * x[i];
  }
  for (uint32_t i = 0; i < p; ++i) x[i] /= sqrt(squares);
}

// Inverse iteration from a random start, for clusters that the twisted factorisation cannot tell
// apart. Off the fast path.
template <uint32_t kPieces>
__device__ bool AppendFallback(const float* diag, const float* off, const float* g,
                               const float* beta, uint32_t p, double lambda, double* solve,
                               float* z, float* shorts, uint32_t have, Room* room) {
  uint64_t state = 1 + have;
  for (int attempt = 0; attempt < 8; ++attempt) {
    __syncthreads();
    if (threadIdx.x == 0) {
      double* x = solve;
      for (uint32_t i = 0; i < p; ++i) {
        x[i] = static_cast<double>(NextRandom(&state)) * 0x1p-30 - 1;
      }
      // Later attempts settle for any direction not yet taken.
      for (int step = 0; step < 3 && attempt < 4; ++step) {
        SolveShifted(diag, off, p, lambda, x, solve + p, solve + 2 * p, solve + 3 * p);
        Normalise(x, p);
      }
      Normalise(x, p);
      for (uint32_t i = 0; i < p; ++i) z[i] = static_cast<float>(x[i]);
    }
    __syncthreads();
    if (threadIdx.x < kWarp) BackTransform<kPieces>(g, beta, p, z);
    if (AppendOrthonormalised(z, shorts, have, p, room)) return true;
  }
  return false;
}

template <uint32_t kPieces>
__device__ void AppendVectors(const EncodeBatch& b, uint32_t slot_index, uint32_t count,
                              const double* lambda, const float* diag, const float* off,
                              float* pivots, float* z, Room* room) {
  Slot* slot = &b.slots[slot_index];
  const uint32_t p = b.p;
  const float* g = b.gram + size_t{slot_index} * p * p;
  const float* beta = b.tri + (size_t{slot_index} * 3 + 2) * p;
  float* shorts = b.shorts + size_t{slot_index} * kMaxVectors * p;
  const float tiny = fmaxf(static_cast<float>(lambda[0]) * 1e-14f, FLT_MIN);
  float* shifts = room->shifts;
  float* sharp = room->shifts + kBatch;
  uint32_t have = slot->vectors;
  for (uint32_t first = 0; first < count; first += kBatch) {
    const uint32_t batch = min(kBatch, count - first);
    __syncthreads();
    if (threadIdx.x < batch) {
      shifts[threadIdx.x] = sharp[threadIdx.x] = static_cast<float>(lambda[first + threadIdx.x]);
    }
    TwistedVectors(diag, off, p, tiny, batch, sharp, pivots, z);
    __syncthreads();
    // A Rayleigh correction larger than the bisection's error belongs to a neighbour.
    if (threadIdx.x < batch) {
      const float shift = shifts[threadIdx.x], corrected = sharp[threadIdx.x];
      if (!(fabsf(corrected - shift) <= 2e-4f * shift)) sharp[threadIdx.x] = shift;
    }
    TwistedVectors(diag, off, p, tiny, batch, sharp, pivots, z);
    const uint32_t warp = threadIdx.x / kWarp;
    __syncwarp();
    if (warp < batch) BackTransform<kPieces>(g, beta, p, z + warp * p);
    for (uint32_t i = 0; i < batch; ++i) {
      const double value = lambda[first + i];
      bool appended = AppendOrthonormalised(z + i * p, shorts, have, p, room);
      if (!appended) {
        appended = AppendFallback<kPieces>(diag, off, g, beta, p, value,
                                           b.solve + size_t{slot_index} * 4 * p, pivots, shorts,
                                           have, room);
      }
      if (!appended) continue;
      if (threadIdx.x == 0) slot->direction_lambda[have] = value;
      ++have;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) slot->vectors = have;
}

template <uint32_t kPieces>
__global__ void __launch_bounds__(kThreads, kPieces <= 4 ? 4 : 2)
    EigenKernel(const __grid_constant__ EncodeBatch b, uint32_t round) {
  extern __shared__ __align__(16) float arrays[];
  __shared__ Room room;
  const uint32_t p = b.p;
  float* diag = arrays;
  float* off = diag + p;
  float* off2 = off + p;
  float* pivots = off2 + p;                  // [2 * kBatch, p + 1]
  float* z = pivots + 2 * kBatch * (p + 1);  // [kBatch, p]
  const uint32_t slots = round == 0 ? b.counters[0] : b.counters[round];
  for (uint32_t at = blockIdx.x; at < slots; at += gridDim.x) {
    const uint32_t index = round == 0 ? at : b.pending[size_t{round - 1} * b.max_slots + at];
    Slot* slot = &b.slots[index];
    if (slot->finite == 0) continue;
    const float* tri = b.tri + size_t{index} * 3 * p;
    double* lambda = b.lambda + size_t{index} * 2 * p;
    __syncthreads();
    float bound = 0;
    for (uint32_t i = threadIdx.x; i < p; i += kThreads) {
      const float before = i > 0 ? fabsf(tri[p + i - 1]) : 0.0f;
      const float after = i + 1 < p ? fabsf(tri[p + i]) : 0.0f;
      diag[i] = tri[i];
      off[i] = i + 1 < p ? tri[p + i] : 0.0f;
      // Never zero: a zero pivot must give an infinity, not 0/0.
      off2[i] = fmaxf(after * after, FLT_MIN);
      bound = fmaxf(bound, tri[i] + before + after);
    }
    const float top =
        __uint_as_float(BlockMax(__float_as_uint(bound), reinterpret_cast<uint32_t*>(room.norms)));
    FindEigenvalues(b, diag, off2, top, &room, lambda);
    for (uint32_t i = threadIdx.x; i < p; i += kThreads) lambda[p + i] = lambda[i];
    __syncthreads();
    if (threadIdx.x == 0) {
      Decide(b, lambda, lambda + p, slot, round);
      room.count =
          slot->solved != 0 ? slot->rank - min(slot->rank, slot->deflated) : slot->dominant;
    }
    __syncthreads();
    const uint32_t count = room.count;
    if (count > 0) AppendVectors<kPieces>(b, index, count, lambda, diag, off, pivots, z, &room);
    if (threadIdx.x == 0) {
      if (slot->solved != 0) {
        slot->rank = min(slot->rank, slot->vectors);
      } else {
        const uint32_t place = atomicAdd(&b.counters[1 + round], 1);
        b.pending[size_t{round} * b.max_slots + place] = index;
      }
    }
  }
}

template <uint32_t kPieces>
cudaError_t LaunchEigenOf(const EncodeBatch& b, uint32_t round, cudaStream_t stream) {
  const uint32_t floats = 3 * b.p + 2 * kBatch * (b.p + 1) + kBatch * b.p;
  const cudaError_t error = cudaFuncSetAttribute(
      EigenKernel<kPieces>, cudaFuncAttributeMaxDynamicSharedMemorySize, 27 * 513 * 4);
  if (error != cudaSuccess) return error;
  const uint32_t grid = round == 0 || b.max_slots < 264 ? b.max_slots : 264;
  EigenKernel<kPieces><<<grid, kThreads, floats * sizeof(float), stream>>>(b, round);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchEigen(const EncodeBatch& b, uint32_t round, cudaStream_t stream) {
  return b.p <= 128 ? LaunchEigenOf<4>(b, round, stream) : LaunchEigenOf<16>(b, round, stream);
}

}  // namespace kvstow::gpu
