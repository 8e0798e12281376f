// From the tridiagonal form to the rank and the leading vectors of the short side: eigenvalues by
// Sturm counts (128 shifts at a time, several an eigenvalue), the bulk edge and the rank it gives
// (codec/shrinkage.h), vectors by twisted factorisation, back-transformed and orthonormalised.
// Dominant directions ask for another round on the deflated tile, as in codec/cpu/spectrum.h.
//
// A warp a tile: the work is chains of dependent steps, so what counts is how many tiles a
// processor has in flight. Decisions are made in double.
#include <cfloat>

#include "gpu/elements.cuh"
#include "gpu/kernels.h"
#include "gpu/round_slots.cuh"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kBatch = 8;  // vectors at a time
// Shifts at a time, four a lane.
constexpr uint32_t kEach = 4;
constexpr uint32_t kShifts = kEach * kWarp;
constexpr uint32_t kMaxWanted = 72;
// Below 2^-24 of the largest eigenvalue a float matrix holds rounding errors only.
constexpr float kOctaves = 24;
// From the brackets of the first shifts (14 %) to 4e-5 of the eigenvalue.
constexpr uint32_t kRefinement = 3500;
// Squares of off-diagonals, relative to that of the norm, are no smaller: what it moves
// eigenvalues by is rounding, and no sequence of four steps underflows.
constexpr float kLeastSquare = 0x1p-50f;
constexpr double kDominance = 1e3;
constexpr double kRounding = 0x1p-20;
constexpr double kDeficiency = 0x1p-18;

// Shared, besides the arrays of p.
struct Room {
  float shifts[kShifts];
  int32_t above[kShifts];
  float low[kMaxWanted], high[kMaxWanted];
  float at[kBatch];
};

// Those of p. `steps` holds a row's diagonal and the square of the off-diagonal before it, both
// over the norm; the others are for vectors, after the eigenvalues.
struct Arrays {
  float* diag;
  float* off;
  float* pivots;  // [2 * kBatch, p + 1], then the ring of reflectors
  float* beta;    // [p]
  float* z;       // [kBatch, p]
  float2* steps;  // [p], in the place of z
};

__host__ __device__ inline uint32_t ArrayFloats(uint32_t p) {
  return 3 * p + 2 * kBatch * (p + 1) + kBatch * p;
}

// above[i] = eigenvalues above shifts[i]. The Sturm sequence itself, p_i = (d_i - s) p_{i-1} -
// e_i^2 p_{i-2}, needs no division; every four steps it is scaled back. Its sign changes are the
// eigenvalues below, and signs gather in a word.
__device__ __forceinline__ void CountAbove(const float2* steps, uint32_t p, Room* room) {
  const uint32_t lane = threadIdx.x;
  float s[kEach], before[kEach], here[kEach];
  uint32_t signs[kEach], below[kEach];
  __syncwarp();
#pragma unroll
  for (uint32_t k = 0; k < kEach; ++k) {
    s[k] = room->shifts[lane + kWarp * k];
    before[k] = 0;
    here[k] = 1;
    signs[k] = below[k] = 0;
  }
  for (uint32_t first = 0; first < p; first += 16) {
#pragma unroll
    for (uint32_t i = 0; i < 16; i += 2) {
      const float4 two = *reinterpret_cast<const float4*>(steps + first + i);
#pragma unroll
      for (uint32_t k = 0; k < kEach; ++k) {
        before[k] = fmaf(two.x - s[k], here[k], -(two.y * before[k]));
        signs[k] = __funnelshift_l(__float_as_uint(before[k]), signs[k], 1);
        here[k] = fmaf(two.z - s[k], before[k], -(two.w * here[k]));
        signs[k] = __funnelshift_l(__float_as_uint(here[k]), signs[k], 1);
        if (i % 4 == 2) {
          const uint32_t exponent =
              __float_as_uint(fmaxf(fabsf(before[k]), fabsf(here[k]))) & 0x7f800000u;
          const float scale = __uint_as_float(0x7f000000u - exponent);
          before[k] *= scale;
          here[k] *= scale;
        }
      }
    }
#pragma unroll
    for (uint32_t k = 0; k < kEach; ++k) below[k] += __popc((signs[k] ^ signs[k] >> 1) & 0xffffu);
  }
#pragma unroll
  for (uint32_t k = 0; k < kEach; ++k) {
    room->above[lane + kWarp * k] = static_cast<int32_t>(p - below[k]);
  }
  __syncwarp();
}

// Which eigenvalues are wanted sharp: the first `count`, except that the last may be further down.
struct Wanted {
  uint32_t count, last;
  __device__ uint32_t At(uint32_t i) const { return i + 1 == count ? last : i; }
};

// The bracket of eigenvalue j out of the first shifts, the i-th of those wanted.
__device__ inline void TakeBracket(int32_t j, uint32_t i, Room* room) {
  uint32_t g = 0;
  for (uint32_t step = kShifts / 2; step > 0; step /= 2) {
    if (room->above[g + step - 1] <= j) g += step;
  }
  if (room->above[g] <= j) ++g;
  room->low[i] = g < kShifts ? room->shifts[g] : 0;
  room->high[i] = g > 0 ? room->shifts[g - 1] : 1;
}

__device__ inline void NarrowBracket(int32_t j, uint32_t i, uint32_t points, Room* room) {
  float low = room->low[i], high = room->high[i];
  for (uint32_t k = i * points; k < (i + 1) * points; ++k) {
    const float shift = room->shifts[k];
    if (room->above[k] > j) {
      low = shift;
    } else {
      high = fminf(high, shift);
    }
  }
  room->low[i] = low;
  room->high[i] = high;
}

// Brackets of the wanted eigenvalues, relative to the norm: shifts evenly spaced on a logarithmic
// scale first, then interior points of each bracket.
__device__ __forceinline__ void FindBrackets(const float2* steps, uint32_t p, const Wanted& wanted,
                                             Room* room) {
  const uint32_t lane = threadIdx.x;
  const uint32_t points = kShifts / wanted.count;
  uint32_t bracket[kEach];
  float share[kEach];
#pragma unroll
  for (uint32_t k = 0; k < kEach; ++k) {
    const uint32_t i = lane + kWarp * k;
    bracket[k] = min(i / points, wanted.count - 1);
    share[k] = static_cast<float>(i % points + 1) / static_cast<float>(points + 1);
    room->shifts[i] = exp2f(-kOctaves * static_cast<float>(i) / (kShifts - 1));
  }
  bool first = true;
  for (uint32_t width = kRefinement * (points + 1); width > 0; width /= points + 1) {
    CountAbove(steps, p, room);
    for (uint32_t i = lane; i < wanted.count; i += kWarp) {
      const auto j = static_cast<int32_t>(wanted.At(i));
      if (first) {
        TakeBracket(j, i, room);
      } else {
        NarrowBracket(j, i, points, room);
      }
    }
    first = false;
    __syncwarp();
#pragma unroll
    for (uint32_t k = 0; k < kEach; ++k) {
      const float low = room->low[bracket[k]];
      room->shifts[lane + kWarp * k] = low + (room->high[bracket[k]] - low) * share[k];
    }
  }
}

// Eigenvalues past the sharp ones lie between 0 and the last of these; within a bin they are spread
// evenly. Only means over the bulk look that far.
__device__ __noinline__ void SpreadBulk(const float2* steps, uint32_t p, uint32_t leading,
                                        float norm, Room* room, double* lambda) {
  const double last = lambda[leading - 1], width = last / kShifts;
  for (uint32_t i = threadIdx.x; i < kShifts; i += kWarp) {
    const double shift = i + 1 == kShifts ? 0 : (last - width * (i + 1)) / norm;
    room->shifts[i] = static_cast<float>(shift);
  }
  CountAbove(steps, p, room);
  if (threadIdx.x == 0) {
    uint32_t at = leading;
    for (uint32_t g = 0; g < kShifts && at < p; ++g) {
      const uint32_t end = min(p, static_cast<uint32_t>(room->above[g]));
      if (end <= at) continue;
      const double high = last - width * g;
      const double members = end - at;
      for (uint32_t j = at; j < end; ++j) lambda[j] = high - width * ((j - at) + 0.5) / members;
      at = end;
    }
    for (; at < p; ++at) lambda[at] = 0;
  }
  __syncwarp();
}

// The wanted eigenvalues to lambda, the others zero or, where the shrinker wants them, spread.
__device__ void FindEigenvalues(const EncodeBatch& b, const Arrays& arrays, uint32_t deflated,
                                Room* room, double* lambda) {
  const uint32_t p = b.p, lane = threadIdx.x;
  float bound = 0;
  for (uint32_t i = lane; i < p; i += kWarp) {
    const float before = i > 0 ? fabsf(arrays.off[i - 1]) : 0.0f;
    bound = fmaxf(bound, arrays.diag[i] + before + fabsf(arrays.off[i]));
  }
  const float top = __uint_as_float(WarpMax(__float_as_uint(bound)));
  for (uint32_t i = lane; i < p; i += kWarp) lambda[i] = 0;
  __syncwarp();
  if (!(top > 0)) return;
  const float norm = top * 1.00001f;
  for (uint32_t i = lane; i < p; i += kWarp) {
    const float e = i > 0 ? arrays.off[i - 1] / norm : 0.0f;
    arrays.steps[i] = make_float2(arrays.diag[i] / norm, i > 0 ? fmaxf(e * e, kLeastSquare) : 0.0f);
  }
  // Without directions from earlier rounds only lambda_{k+1} and lambda_{2k+1} count behind the k
  // that may be outliers.
  const bool few = b.optimal == 0 && deflated == 0;
  const Wanted wanted = {few ? b.k + 2 : b.leading, few ? 2 * b.k : b.leading - 1};
  FindBrackets(arrays.steps, p, wanted, room);
  if (lane == 0) {
    double before = DBL_MAX;
    for (uint32_t i = 0; i < wanted.count; ++i) {
      const double value = 0.5 * (static_cast<double>(room->low[i]) + room->high[i]) * norm;
      before = fmin(before, value);
      lambda[wanted.At(i)] = before;
    }
  }
  __syncwarp();
  if (b.optimal != 0) SpreadBulk(arrays.steps, p, b.leading, norm, room, lambda);
}

// Bits 0.. up to the first one that is not set.
__device__ inline uint32_t LeadingOnes(uint32_t bits) {
  return bits == kAllLanes ? 32 : __ffs(~bits) - 1;
}

// Eigenvalues of all rounds, the edge, the rank, and how many directions dominate. `all` holds
// those of this round already.
__device__ void Decide(const EncodeBatch& b, const double* round, double* all, Slot* slot,
                       uint32_t round_number) {
  const uint32_t p = b.p, k = b.k, deflated = slot->deflated, lane = threadIdx.x;
  // Each direction taken out left a zero behind, the smallest of this round. Descending, by
  // insertion: the directions come first already, in nearly all cases.
  if (deflated > 0 && lane == 0) {
    uint32_t count = 0;
    const auto insert = [&](double value) {
      uint32_t at = count++;
      for (; at > 0 && all[at - 1] < value; --at) all[at] = all[at - 1];
      all[at] = value;
    };
    for (uint32_t i = 0; i < deflated; ++i) insert(slot->direction_lambda[i]);
    for (uint32_t i = 0; i < p - deflated; ++i) insert(round[i]);
  }
  __syncwarp();
  const double largest = all[0], upper = all[k], lower = all[2 * k];
  const double edge = upper + (upper - lower) / b.edge_law;
  const double mine = lane < k ? all[lane] : 0;
  const bool deficient = upper <= kDeficiency * largest;
  uint32_t rank;
  if (deficient) {
    rank = LeadingOnes(__ballot_sync(kAllLanes, lane < k && mine > kDeficiency * largest));
  } else {
    rank = 32 - __clz(__ballot_sync(kAllLanes, lane < k && mine / edge - 1 - b.rank_threshold > 0));
  }
  const double floor = fmax(kDominance * lower, kRounding * largest);
  uint32_t dominant =
      LeadingOnes(__ballot_sync(kAllLanes, lane + deflated < k && round[lane] > floor));
  if (round_number + 1 == kMaxDeflationRounds) dominant = 0;
  __syncwarp();
  if (lane == 0) {
    slot->edge = edge;
    slot->deficient = deficient;
    slot->rank = rank;
    slot->dominant = dominant;
    slot->solved = dominant == 0;
  }
  __syncwarp();
}

__device__ inline float AwayFromZero(float q, float tiny) { return fabsf(q) < tiny ? tiny : q; }

// Twisted factorisation at shifts[i], i < count: L D L^T from the top and U D U^T from the bottom
// meet where the vector is largest; solving outwards needs no pivoting. A lane runs one half of
// one.
__device__ void Factorise(const Arrays& arrays, uint32_t p, float tiny, uint32_t count,
                          const float* shifts) {
  if (threadIdx.x >= 2 * count) return;
  const float shift = shifts[threadIdx.x / 2];
  const bool up = threadIdx.x % 2 != 0;
  float* out = arrays.pivots + threadIdx.x * (p + 1);
  uint32_t at = up ? p - 1 : 0;
  float q = AwayFromZero(arrays.diag[at] - shift, tiny);
  out[at] = q;
#pragma unroll 4
  for (uint32_t i = 1; i < p; ++i) {
    const uint32_t next = up ? at - 1 : at + 1;
    const float e = arrays.off[up ? next : at];
    q = AwayFromZero((arrays.diag[next] - shift) - __fdividef(e * e, q), tiny);
    out[next] = q;
    at = next;
  }
}

// The unit vector of one factorisation to z, for the whole warp; returns the Rayleigh quotient's
// correction of the shift.
__device__ float SolveTwisted(const Arrays& arrays, uint32_t p, uint32_t vector, float shift) {
  const uint32_t lane = threadIdx.x;
  const float* down = arrays.pivots + 2 * vector * (p + 1);
  const float* up = down + p + 1;
  const float* off = arrays.off;
  float* out = arrays.z + vector * p;
  float least = INFINITY, gamma = 0;
  uint32_t twist = 0;
  for (uint32_t i = lane; i < p; i += kWarp) {
    const float g = down[i] + up[i] - (arrays.diag[i] - shift);
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
  // A lane multiplies its stretch, then what lies between it and the twist. Elements at the twist
  // and beyond count as one for the other side.
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
  return gamma / norm;
}

// Reflectors on their way to shared memory: a ring of kRing rows, copied kGroup rows at a time.
constexpr uint32_t kRing = 16, kGroup = 4;

// Row s of the reflectors, entries past the reflector's as zeros; nothing past the last row.
__device__ inline void CopyReflectors(const float* g, uint32_t p, uint32_t first, float* ring) {
  for (uint32_t s = first; s < first + kGroup; ++s) {
    for (uint32_t c = 4 * threadIdx.x; s < p && c < p; c += 4 * kWarp) {
      const uint32_t bytes = c < s ? min(s - c, 4u) * sizeof(float) : 0;
      const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(ring + s % kRing * p + c));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
                   "l"(g + size_t{s} * p + c), "r"(bytes)
                   : "memory");
    }
  }
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// z[i] = Q z[i] for kTogether vectors. A lane holds kPieces elements of each, four in a row.
template <uint32_t kPieces>
__device__ void BackTransform(const float* g, const float* beta, uint32_t p, float* ring,
                              float* z) {
  constexpr uint32_t kTogether = 4;
  const uint32_t lane = threadIdx.x;
  const auto place = [&](uint32_t i) { return i / 4 * 4 * kWarp + 4 * lane + i % 4; };
  float x[kTogether][kPieces];
#pragma unroll
  for (uint32_t j = 0; j < kTogether; ++j) {
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i) x[j][i] = place(i) < p ? z[j * p + place(i)] : 0.0f;
  }
  __syncwarp();
  for (uint32_t s = 0; s < kRing; s += kGroup) CopyReflectors(g, p, s, ring);
  const bool high16 = (lane & 16) != 0, high8 = (lane & 8) != 0;
  for (uint32_t first = 0; first < p; first += kGroup) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kRing / kGroup - 1) : "memory");
    __syncwarp();
    for (uint32_t s = max(first, 1u); s < first + kGroup; ++s) {
      const float beta_s = beta[s];
      float v[kPieces], sums[kTogether] = {};
#pragma unroll
      for (uint32_t i = 0; i < kPieces; i += 4) {
        float4 four = make_float4(0, 0, 0, 0);
        if (place(i) < p) four = *reinterpret_cast<const float4*>(ring + s % kRing * p + place(i));
        v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
      }
#pragma unroll
      for (uint32_t j = 0; j < kTogether; ++j) {
#pragma unroll
        for (uint32_t i = 0; i < kPieces; ++i) sums[j] = fmaf(v[i], x[j][i], sums[j]);
      }
      // The four sums over the warp: eight lanes end with one of them each.
      const float s0 =
          (high16 ? sums[2] : sums[0]) + __shfl_xor_sync(kAllLanes, high16 ? sums[0] : sums[2], 16);
      const float s1 =
          (high16 ? sums[3] : sums[1]) + __shfl_xor_sync(kAllLanes, high16 ? sums[1] : sums[3], 16);
      float sum = (high8 ? s1 : s0) + __shfl_xor_sync(kAllLanes, high8 ? s0 : s1, 8);
#pragma unroll
      for (int step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
      sum *= beta_s;
#pragma unroll
      for (uint32_t j = 0; j < kTogether; ++j) {
        const float minus = -__shfl_sync(kAllLanes, sum, 8 * j);
#pragma unroll
        for (uint32_t i = 0; i < kPieces; ++i) x[j][i] = fmaf(minus, v[i], x[j][i]);
      }
    }
    __syncwarp();
    CopyReflectors(g, p, first + kRing, ring);
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
#pragma unroll
  for (uint32_t j = 0; j < kTogether; ++j) {
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i) {
      if (place(i) < p) z[j * p + place(i)] = x[j][i];
    }
  }
  __syncwarp();
}

// Makes z orthonormal to the vectors so far and appends it to them, unless little is left of it.
// Gram-Schmidt twice.
template <uint32_t kPieces>
__device__ bool AppendOrthonormalised(const float* z, float* shorts, uint32_t have, uint32_t p) {
  const uint32_t lane = threadIdx.x;
  float x[kPieces];
#pragma unroll
  for (uint32_t i = 0; i < kPieces; ++i) {
    const uint32_t c = lane + kWarp * i;
    x[i] = c < p ? z[c] : 0.0f;
  }
  for (int pass = 0; pass < 2; ++pass) {
    for (uint32_t j = 0; j < have; ++j) {
      float other[kPieces], overlap = 0;
#pragma unroll
      for (uint32_t i = 0; i < kPieces; ++i) {
        const uint32_t c = lane + kWarp * i;
        other[i] = c < p ? shorts[size_t{j} * p + c] : 0.0f;
        overlap = fmaf(x[i], other[i], overlap);
      }
      overlap = WarpSum(overlap);
#pragma unroll
      for (uint32_t i = 0; i < kPieces; ++i) x[i] = fmaf(-overlap, other[i], x[i]);
    }
    float norm = 0;
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i) norm = fmaf(x[i], x[i], norm);
    norm = WarpSum(norm);
    if (!(norm > 0.01f) || !isfinite(norm)) return false;
    const float scale = 1.0f / sqrtf(norm);
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i) x[i] *= scale;
  }
#pragma unroll
  for (uint32_t i = 0; i < kPieces; ++i) {
    const uint32_t c = lane + kWarp * i;
    if (c < p) shorts[size_t{have} * p + c] = x[i];
  }
  __syncwarp();
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
// apart. Off the fast path. `solve` has room for 4 p doubles.
template <uint32_t kPieces>
__device__ __noinline__ bool AppendFallback(const Arrays& arrays, const float* g, uint32_t p,
                                            double lambda, double* solve, float* shorts,
                                            uint32_t have) {
  uint64_t state = 1 + have;
  float* z = reinterpret_cast<float*>(solve + p);
  for (int attempt = 0; attempt < 8; ++attempt) {
    if (threadIdx.x == 0) {
      double* x = solve;
      for (uint32_t i = 0; i < p; ++i) {
        x[i] = static_cast<double>(NextRandom(&state)) * 0x1p-30 - 1;
      }
      // Later attempts settle for any direction not yet taken.
      for (int step = 0; step < 3 && attempt < 4; ++step) {
        SolveShifted(arrays.diag, arrays.off, p, lambda, x, solve + p, solve + 2 * p,
                     solve + 3 * p);
        Normalise(x, p);
      }
      Normalise(x, p);
    }
    __syncwarp();
    // One vector and three of zeros, where the elimination had its work.
    for (uint32_t i = threadIdx.x; i < 4 * p; i += kWarp) {
      z[i] = i < p ? static_cast<float>(solve[i]) : 0.0f;
    }
    __syncwarp();
    BackTransform<kPieces>(g, arrays.beta, p, arrays.pivots, z);
    if (AppendOrthonormalised<kPieces>(z, shorts, have, p)) return true;
  }
  return false;
}

template <uint32_t kPieces>
__device__ void AppendVectors(const EncodeBatch& b, uint32_t slot_index, uint32_t count,
                              const double* lambda, const Arrays& arrays, Room* room) {
  Slot* slot = &b.slots[slot_index];
  const uint32_t p = b.p, lane = threadIdx.x;
  const float* g = b.gram + size_t{slot_index} * p * p;
  float* shorts = b.shorts + size_t{slot_index} * kMaxVectors * p;
  const float tiny = fmaxf(static_cast<float>(lambda[0]) * 1e-14f, FLT_MIN);
  uint32_t have = slot->vectors;
  for (uint32_t first = 0; first < count; first += kBatch) {
    const uint32_t batch = min(kBatch, count - first);
    __syncwarp();
    for (uint32_t i = lane; i < kBatch * p; i += kWarp) arrays.z[i] = 0;
    if (lane < batch) room->at[lane] = static_cast<float>(lambda[first + lane]);
    // Once for the Rayleigh quotient's shift, once with it.
    for (int pass = 0; pass < 2; ++pass) {
      __syncwarp();
      Factorise(arrays, p, tiny, batch, room->at);
      __syncwarp();
      for (uint32_t i = 0; i < batch; ++i) {
        const float shift = room->at[i];
        const float correction = SolveTwisted(arrays, p, i, shift);
        // One larger than the bisection's error belongs to a neighbour.
        if (lane == 0 && fabsf(correction) <= 2e-4f * shift) room->at[i] = shift + correction;
      }
    }
    __syncwarp();
    for (uint32_t i = 0; i < batch; i += 4) {
      BackTransform<kPieces>(g, arrays.beta, p, arrays.pivots, arrays.z + i * p);
    }
    for (uint32_t i = 0; i < batch; ++i) {
      const double value = lambda[first + i];
      bool appended = AppendOrthonormalised<kPieces>(arrays.z + i * p, shorts, have, p);
      if (!appended) {
        appended = AppendFallback<kPieces>(arrays, g, p, value,
                                           b.solve + size_t{slot_index} * 4 * p, shorts, have);
      }
      if (!appended) continue;
      if (lane == 0) slot->direction_lambda[have] = value;
      ++have;
    }
  }
  __syncwarp();
  if (lane == 0) slot->vectors = have;
}

template <uint32_t kPieces>
__global__ void __launch_bounds__(kWarp, kPieces <= 4   ? 14
                                         : kPieces <= 8 ? 8
                                                        : 4)
    EigenKernel(const __grid_constant__ EncodeBatch b, uint32_t round) {
  extern __shared__ __align__(16) float memory[];
  __shared__ Room room;
  const uint32_t p = b.p, lane = threadIdx.x;
  Arrays arrays;
  arrays.z = memory;
  arrays.steps = reinterpret_cast<float2*>(memory);
  arrays.diag = arrays.z + kBatch * p;
  arrays.off = arrays.diag + p;
  arrays.beta = arrays.off + p;
  arrays.pivots = arrays.beta + p;
  const uint32_t slots = SlotCount(b, round);
  for (uint32_t at = blockIdx.x; at < slots; at += gridDim.x) {
    const uint32_t index = SlotAt(b, round, at);
    Slot* slot = &b.slots[index];
    if (slot->finite == 0) continue;
    const float* tri = b.tri + size_t{index} * 3 * p;
    double* lambda = b.lambda + size_t{index} * 2 * p;
    __syncwarp();
    for (uint32_t i = lane; i < p; i += kWarp) {
      arrays.diag[i] = tri[i];
      arrays.off[i] = i + 1 < p ? tri[p + i] : 0.0f;
      arrays.beta[i] = tri[2 * p + i];
    }
    __syncwarp();
    FindEigenvalues(b, arrays, slot->deflated, &room, lambda);
    for (uint32_t i = lane; i < p; i += kWarp) lambda[p + i] = lambda[i];
    Decide(b, lambda, lambda + p, slot, round);
    const bool solved = slot->solved != 0;
    const uint32_t count = solved ? slot->rank - min(slot->rank, slot->deflated) : slot->dominant;
    if (count > 0) AppendVectors<kPieces>(b, index, count, lambda, arrays, &room);
    __syncwarp();
    if (lane != 0) continue;
    if (solved) {
      slot->rank = min(slot->rank, slot->vectors);
    } else {
      const uint32_t place = atomicAdd(&b.counters[1 + round], 1);
      b.pending[size_t{round} * b.max_slots + place] = index;
    }
  }
}

template <uint32_t kPieces>
cudaError_t LaunchEigenOf(const EncodeBatch& b, uint32_t round, cudaStream_t stream) {
  const cudaError_t error =
      cudaFuncSetAttribute(EigenKernel<kPieces>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(ArrayFloats(32 * kPieces) * sizeof(float)));
  if (error != cudaSuccess) return error;
  EigenKernel<kPieces>
      <<<BlocksOfRound(b, round), kWarp, ArrayFloats(b.p) * sizeof(float), stream>>>(b, round);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchEigen(const EncodeBatch& b, uint32_t round, cudaStream_t stream) {
  if (b.p <= 128) return LaunchEigenOf<4>(b, round, stream);
  if (b.p <= 256) return LaunchEigenOf<8>(b, round, stream);
  return LaunchEigenOf<16>(b, round, stream);
}

}  // namespace kvstow::gpu
