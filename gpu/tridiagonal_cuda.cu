// Gram matrix of a tile's short side and its Householder tridiagonal form, G = Q T Q^T, for p up to
// 128 (gpu/large_tridiagonal_cuda.cu takes the rest). Two kernels:
//
// - Four warps a tile form G on the tensor cores and keep it where the products leave it, in
//   registers, and eliminate rows down to 64. Rows and columns are dealt to threads cyclically, so
//   that work stays even while the active matrix shrinks. A step is one pass over the matrix (the
//   rank-two update of the step before, and the product with the next row), a barrier, a short turn
//   in which every thread makes one entry of the next vectors, and a barrier.
// - One warp a tile holds the last 64 x 64 and finishes alone, with no barriers but its own; ten
//   tiles share a processor, which hides the chain of reductions.
//
// The Gram product splits floats into two halves, x = hi + lo, and sums hi hi + hi lo + lo hi in
// FP32. FP16 tiles that nothing was done to have no lo, and chunks without one skip its products.
#include "gpu/elements.cuh"
#include "gpu/householder.cuh"
#include "gpu/kernels.h"
#include "gpu/large_tridiagonal.h"
#include "gpu/round_slots.cuh"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kWarps = kThreads / kWarp;
constexpr uint32_t kTail = 64;  // side of the matrix that one warp finishes
// Entries lie below 2 in magnitude; twice that where means are gone, and a deflated one is no
// longer than its row was. With this factor none overflows a half, and lo keeps its digits.
constexpr float kSplitScale = 256;

// ---- The Gram product. ----

constexpr uint32_t kChunk = 16;  // long-side entries at a time, one step of the tensor cores
// Rows of kChunk halves, one entry of the short side each: 48 bytes apart, and 96 more after every
// 32 rows, so that the eight rows of any fragment lie in different banks.
constexpr uint32_t kHalfRowBytes = 48, kHalfPadBytes = 96;
constexpr uint32_t kHalfBytes = 128 * kHalfRowBytes + 4 * kHalfPadBytes;

struct Halves {
  uint8_t hi[kHalfBytes], lo[kHalfBytes];
};

// Where entry i lies: rows of a warp together, as the fragments take them.
__device__ inline uint32_t HalfRow(uint32_t i) {
  return i % 4 * (32 * kHalfRowBytes + kHalfPadBytes) + (i / 32 * 8 + i / 4 % 8) * kHalfRowBytes;
}

__device__ inline void LoadMatrices(uint32_t (&out)[4], const uint8_t* row) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(at)
               : "memory");
}

__device__ inline void MultiplyAdd(float& c0, float& c1, float& c2, float& c3,
                                   const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Copies a chunk as it is, ahead of its turn: the thread's entry of the short side, kChunk values
// along the long one. A thread waits for its own copies only.
using Raw = float4[kChunk / 4][kThreads];

template <uint32_t kBytes>
__device__ inline void CopyAsync(float* to, const float* from) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(kBytes)
               : "memory");
}

template <uint32_t kP>
__device__ inline void CopyChunk(const EncodeBatch& b, const float* y, uint32_t first, Raw* raw) {
  const uint32_t i = threadIdx.x;
  if (i < kP && first < b.q) {
    float* to = reinterpret_cast<float*>(&(*raw)[0][i]);
    if (b.tokens_short != 0) {
#pragma unroll
      for (uint32_t k = 0; k < kChunk; ++k) {
        CopyAsync<4>(to + k / 4 * 4 * kThreads + k % 4, y + (first + k) * kP + i);
      }
    } else {
#pragma unroll
      for (uint32_t k = 0; k < kChunk; k += 4) {
        CopyAsync<16>(to + k * kThreads, y + i * b.n + first + k);
      }
    }
  }
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Returns whether the thread's values have a lo.
__device__ inline bool StoreHalves(const Raw& raw, Halves* halves) {
  float x[kChunk];
#pragma unroll
  for (uint32_t k = 0; k < kChunk; k += 4) {
    const float4 four = raw[k / 4][threadIdx.x];
    x[k] = four.x, x[k + 1] = four.y, x[k + 2] = four.z, x[k + 3] = four.w;
  }
  uint32_t hi[kChunk / 2], lo[kChunk / 2], any = 0;
#pragma unroll
  for (uint32_t k = 0; k < kChunk; k += 2) {
    const float2 scaled = make_float2(x[k] * kSplitScale, x[k + 1] * kSplitScale);
    const __half2 h = __float22half2_rn(scaled);
    const float2 back = __half22float2(h);
    const __half2 rest = __floats2half2_rn(scaled.x - back.x, scaled.y - back.y);
    hi[k / 2] = *reinterpret_cast<const uint32_t*>(&h);
    lo[k / 2] = *reinterpret_cast<const uint32_t*>(&rest);
    any |= lo[k / 2] & 0x7fff7fffu;
  }
  const uint32_t row = HalfRow(threadIdx.x);
  uint4* to_hi = reinterpret_cast<uint4*>(halves->hi + row);
  uint4* to_lo = reinterpret_cast<uint4*>(halves->lo + row);
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    to_hi[i] = make_uint4(hi[4 * i], hi[4 * i + 1], hi[4 * i + 2], hi[4 * i + 3]);
    to_lo[i] = make_uint4(lo[4 * i], lo[4 * i + 1], lo[4 * i + 2], lo[4 * i + 3]);
  }
  return any != 0;
}

// Adds a chunk's products.
template <uint32_t kP, bool kWithLo>
__device__ __forceinline__ void MultiplyChunk(const Halves& halves, float (&a)[4][32]) {
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const uint32_t half_row = lane % 8, half_block = lane / 8;
  // Rows: fragments 16 i.. of the warp's 32, entries 0..7 and 8..15 of the chunk.
  uint32_t rows_hi[2][4], rows_lo[2][4];
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t at = warp * (32 * kHalfRowBytes + kHalfPadBytes) +
                        (16 * i + half_block % 2 * 8 + half_row) * kHalfRowBytes +
                        half_block / 2 * 16;
    LoadMatrices(rows_hi[i], halves.hi + at);
    if (kWithLo) LoadMatrices(rows_lo[i], halves.lo + at);
  }
#pragma unroll
  for (uint32_t c = 0; c < (kP + 7) / 8; ++c) {
    // Column 2 t + e of a fragment is entry 8 c + 4 e + t.
    const uint32_t entry = 8 * c + 4 * (half_row % 2) + half_row / 2;
    const uint32_t at = HalfRow(entry) + half_block % 2 * 16;
    uint32_t columns[4];  // hi of both halves of the chunk, lo of both
    LoadMatrices(columns, (half_block < 2 ? halves.hi : halves.lo) + at);
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      float& c0 = a[2 * i][2 * c];
      float& c1 = a[2 * i][2 * c + 1];
      float& c2 = a[2 * i + 1][2 * c];
      float& c3 = a[2 * i + 1][2 * c + 1];
      MultiplyAdd(c0, c1, c2, c3, rows_hi[i], columns[0], columns[1]);
      if (kWithLo) {
        MultiplyAdd(c0, c1, c2, c3, rows_hi[i], columns[2], columns[3]);
        MultiplyAdd(c0, c1, c2, c3, rows_lo[i], columns[0], columns[1]);
      }
    }
  }
}

// Thread (warp w, g = lane / 4, t = lane % 4) holds rows w + 4 g + 32 r and columns t + 4 c as
// a[r][c]: which entry of the short side a row of a fragment stands for is ours to choose.
template <uint32_t kP>
__device__ __forceinline__ void FormGram(const EncodeBatch& b, const float* y, Raw (&raw)[2],
                                         Halves* halves, float (&a)[4][32]) {
  if (threadIdx.x >= kP) {
#pragma unroll
    for (uint32_t k = 0; k < kChunk / 4; ++k) {
      raw[0][k][threadIdx.x] = raw[1][k][threadIdx.x] = make_float4(0, 0, 0, 0);
    }
  }
  CopyChunk<kP>(b, y, 0, &raw[0]);
  uint32_t turn = 0;
  for (uint32_t first = 0; first < b.q; first += kChunk, turn ^= 1) {
    CopyChunk<kP>(b, y, first + kChunk, &raw[turn ^ 1]);
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    const bool any = StoreHalves(raw[turn], halves);
    const bool with_lo = __syncthreads_or(any) != 0;
    if (with_lo) {
      MultiplyChunk<kP, true>(*halves, a);
    } else {
      MultiplyChunk<kP, false>(*halves, a);
    }
  }
  constexpr float kUnscale = 1 / (kSplitScale * kSplitScale);
#pragma unroll
  for (uint32_t r = 0; r < 4; ++r) {
#pragma unroll
    for (uint32_t c = 0; c < 32; ++c) a[r][c] *= kUnscale;
  }
}

// ---- Four warps: rows p - 1 down to 65. ----

// Vectors of a step. As columns, entry t + 4 c lies so that a thread's four next are one access
// and the four threads' side by side; as rows, at the thread that owns the entry.
struct StepVectors {
  float x_columns[144], v_columns[144], w_columns[144];
  float row[144];  // row m of A, as columns
  float v_rows[kThreads], w_rows[kThreads];
  float squares[kWarps], quadratics[kWarps];
  float2 at_m;  // x and A x
};

__device__ inline uint32_t ColumnPlace(uint32_t i) {
  const uint32_t t = i % 4, c = i / 4;
  return c / 4 * 16 + c / 8 * 4 + t * 4 + c % 4;
}

// Where results of a tile of side kP lie.
template <uint32_t kP>
struct Outputs {
  float* g;    // [p, p]: reflectors
  float* tri;  // [3, p]: diagonal, off-diagonal, factors of the reflectors

  __device__ void Write(const Reflector& r, uint32_t m, float row_m) const {
    tri[m] = row_m - 2 * r.head * r.w_m;
    tri[kP + m] = r.off;
    tri[2 * kP + m + 1] = r.factor;
  }
  // Of the last row, which no step writes.
  __device__ void Begin(float last) const {
    tri[kP - 1] = last;
    tri[2 * kP] = 0;
  }
};

// The update of the step before, on rows below 32 kRows and columns below 16 kGroups.
template <uint32_t kRows, uint32_t kGroups, bool kMultiply>
__device__ __forceinline__ void Pass(float (&a)[4][32], const StepVectors& step, float (&sums)[4]) {
  const uint32_t t = threadIdx.x % 4, own_rows = threadIdx.x / 4 * 4;
  const float4 v_rows = *reinterpret_cast<const float4*>(step.v_rows + own_rows);
  const float4 w_rows = *reinterpret_cast<const float4*>(step.w_rows + own_rows);
  const float v_r[4] = {v_rows.x, v_rows.y, v_rows.z, v_rows.w};
  const float w_r[4] = {w_rows.x, w_rows.y, w_rows.z, w_rows.w};
#pragma unroll
  for (uint32_t group = 0; group < kGroups; ++group) {
    const uint32_t at = group * 16 + group / 2 * 4 + 4 * t;
    const float4 v4 = *reinterpret_cast<const float4*>(step.v_columns + at);
    const float4 w4 = *reinterpret_cast<const float4*>(step.w_columns + at);
    const float4 x4 =
        kMultiply ? *reinterpret_cast<const float4*>(step.x_columns + at) : make_float4(0, 0, 0, 0);
    const float v_c[4] = {v4.x, v4.y, v4.z, v4.w};
    const float w_c[4] = {w4.x, w4.y, w4.z, w4.w};
    const float x_c[4] = {x4.x, x4.y, x4.z, x4.w};
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
#pragma unroll
      for (uint32_t r = 0; r < kRows; ++r) {
        float e = a[r][4 * group + j];
        e = fmaf(-v_r[r], w_c[j], e);
        e = fmaf(-w_r[r], v_c[j], e);
        a[r][4 * group + j] = e;
        if (kMultiply) sums[r] = fmaf(e, x_c[j], sums[r]);
      }
    }
  }
}

// sums[r] over the four lanes t; lane t gets that of r = t, its own entry.
__device__ __forceinline__ float SpreadSums(const float (&sums)[4], uint32_t t) {
  const bool high = (t & 2) != 0, odd = (t & 1) != 0;
  const float even =
      (high ? sums[2] : sums[0]) + __shfl_xor_sync(kAllLanes, high ? sums[0] : sums[2], 2);
  const float uneven =
      (high ? sums[3] : sums[1]) + __shfl_xor_sync(kAllLanes, high ? sums[1] : sums[3], 2);
  return (odd ? uneven : even) + __shfl_xor_sync(kAllLanes, odd ? even : uneven, 1);
}

// Eliminates rows m + 1 for m from `top` down to `bottom`. x_own is the thread's entry of row
// top + 1 and becomes that of row `bottom`.
template <uint32_t kP, uint32_t kRows, uint32_t kGroups>
__device__ __forceinline__ void Eliminate(float (&a)[4][32], StepVectors& step, uint32_t top,
                                          uint32_t bottom, const Outputs<kP>& out, float& x_own) {
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const uint32_t g = lane / 4, t = lane % 4;
  const uint32_t own = warp + 4 * g + 32 * t, own_place = ColumnPlace(own);
  for (uint32_t m = top; m >= bottom; --m) {
    float sums[4] = {};
    Pass<kRows, kGroups, true>(a, step, sums);
    if (warp == m % 4 && g == m / 4 % 8) {
#pragma unroll
      for (uint32_t c = 0; c < 4 * kGroups; c += 2) {
        *reinterpret_cast<float2*>(step.row + c / 4 * 16 + c / 8 * 4 + 4 * t + c % 4) =
            make_float2(a[kRows - 1][c], a[kRows - 1][c + 1]);
      }
    }
    const float product = SpreadSums(sums, t);
    const float both = SumTwo(own == m ? 0.0f : x_own * x_own, x_own * product, lane);
    if (lane == 0) step.squares[warp] = both;
    if (lane == 16) step.quadratics[warp] = both;
    if (own == m) step.at_m = make_float2(x_own, product);
    __syncthreads();
    const float4 squares = *reinterpret_cast<const float4*>(step.squares);
    const float4 quadratics = *reinterpret_cast<const float4*>(step.quadratics);
    const float2 at_m = step.at_m;
    const float row_m = step.row[ColumnPlace(m)];
    const Reflector r =
        MakeReflector((squares.x + squares.y) + (squares.z + squares.w), at_m.x,
                      (quadratics.x + quadratics.y) + (quadratics.z + quadratics.w), at_m.y, row_m);
    const StepEntry e = MakeEntry(r, own, m, x_own, product, step.row[own_place]);
    x_own = e.next;
    step.x_columns[own_place] = e.next;
    step.v_columns[own_place] = e.v;
    step.w_columns[own_place] = e.w;
    step.v_rows[threadIdx.x] = e.v;
    step.w_rows[threadIdx.x] = e.w;
    if (own <= m) out.g[(m + 1) * kP + own] = e.v;
    if (own == m) out.Write(r, m, row_m);
    __syncthreads();
  }
}

// Steps with the columns below 16 kGroups active, and all that follow.
template <uint32_t kP, uint32_t kGroups>
__device__ __forceinline__ void EliminateFrom(float (&a)[4][32], StepVectors& step,
                                              const Outputs<kP>& out, float& x_own) {
  constexpr uint32_t kTop = kGroups * 16 < kP ? kGroups * 16 - 1 : kP - 2;
  Eliminate<kP, (kGroups + 1) / 2, kGroups>(a, step, kTop, kGroups * 16 - 16, out, x_own);
  if constexpr (kGroups * 16 - 16 > kTail) EliminateFrom<kP, kGroups - 1>(a, step, out, x_own);
}

// The last row becomes x; nothing is pending.
template <uint32_t kP>
__device__ __forceinline__ float TakeLastRow(const float (&a)[4][32], StepVectors& step,
                                             const Outputs<kP>& out) {
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const uint32_t g = lane / 4, t = lane % 4;
  const uint32_t own = warp + 4 * g + 32 * t, own_place = ColumnPlace(own);
  if (warp == 3 && g == (kP - 1) / 4 % 8) {
#pragma unroll
    for (uint32_t c = 0; c < kP / 4; ++c) step.row[ColumnPlace(t + 4 * c)] = a[(kP - 1) / 32][c];
  }
  __syncthreads();
  const float x = own < kP - 1 ? step.row[own_place] : 0.0f;
  if (own == kP - 1) out.Begin(step.row[own_place]);
  step.x_columns[own_place] = x;
  step.v_columns[own_place] = step.w_columns[own_place] = 0;
  step.v_rows[threadIdx.x] = step.w_rows[threadIdx.x] = 0;
  __syncthreads();
  return x;
}

// Where the tail's matrix waits: float4s, [row block, column group] of the thread of the first
// kernel that held it. Reflectors take its place.
__device__ inline uint32_t TailPlace(uint32_t row_block, uint32_t group, uint32_t thread) {
  return (row_block * 4 + group) * kThreads + thread;
}

template <uint32_t kP>
__global__ void __launch_bounds__(kThreads, 3)
    FrontKernel(const __grid_constant__ EncodeBatch b, uint32_t round) {
  __shared__ Raw raw[2];
  __shared__ __align__(16) Halves halves;
  __shared__ __align__(16) StepVectors step;
  const uint32_t count = SlotCount(b, round);
  for (uint32_t at = blockIdx.x; at < count; at += gridDim.x) {
    const uint32_t slot = SlotAt(b, round, at);
    const Slot& state = b.slots[slot];
    if (state.finite == 0) continue;
    const float* y = (state.deflated > 0 ? b.deflated : b.x) + size_t{slot} * b.n * b.d;
    float* g = b.gram + size_t{slot} * kP * kP;
    const Outputs<kP> out = {g, b.tri + size_t{slot} * 3 * kP};
    float a[4][32] = {};
    FormGram<kP>(b, y, raw, &halves, a);
    if constexpr (kP > kTail) {
      float x = TakeLastRow<kP>(a, step, out);
      EliminateFrom<kP, (kP + 15) / 16>(a, step, out, x);
      float none[4];
      Pass<kTail / 32, kTail / 16, false>(a, step, none);
      const uint32_t own = threadIdx.x / kWarp + threadIdx.x % kWarp / 4 * 4 + threadIdx.x % 4 * 32;
      if (own < kTail) g[size_t{kTail} * kP + own] = x;
    }
#pragma unroll
    for (uint32_t r = 0; r < kTail / 32; ++r) {
#pragma unroll
      for (uint32_t group = 0; group < kTail / 16; ++group) {
        const float* four = &a[r][4 * group];
        reinterpret_cast<float4*>(g)[TailPlace(r, group, threadIdx.x)] =
            make_float4(four[0], four[1], four[2], four[3]);
      }
    }
  }
}

// ---- One warp: the last 64 x 64. ----

// As StepVectors; as rows, entry g + 8 r lies at r / 4 * 32 + 4 g + r % 4.
struct TailVectors {
  float x_columns[kTail], v_columns[kTail], w_columns[kTail];
  float row[kTail];
  float v_rows[kTail], w_rows[kTail];
};

__device__ inline uint32_t TailColumnPlace(uint32_t i) {
  const uint32_t t = i % 4, c = i / 4;
  return c / 4 * 16 + t * 4 + c % 4;
}

// sums[r] over the four lanes t; lane t gets those of r = 2 t and 2 t + 1, its own entries.
template <uint32_t kRows>
__device__ __forceinline__ float2 SpreadTailSums(const float (&sums)[kRows], uint32_t t) {
  const bool high = (t & 2) != 0, odd = (t & 1) != 0;
  float four[4];
#pragma unroll
  for (uint32_t r = 0; r < 4; ++r) {
    const float low = r < kRows ? sums[r < kRows ? r : 0] : 0.0f;
    const float top = r + 4 < kRows ? sums[r + 4 < kRows ? r + 4 : 0] : 0.0f;
    four[r] = (high ? top : low) + __shfl_xor_sync(kAllLanes, high ? low : top, 2);
  }
  return make_float2(
      (odd ? four[2] : four[0]) + __shfl_xor_sync(kAllLanes, odd ? four[0] : four[2], 1),
      (odd ? four[3] : four[1]) + __shfl_xor_sync(kAllLanes, odd ? four[1] : four[3], 1));
}

// Eliminates rows m + 1 for m from `top` down to 8 kRows - 8; thread (g, t) holds rows g + 8 r and
// columns t + 4 c.
template <uint32_t kP, uint32_t kRows>
__device__ __forceinline__ void EliminateTail(float (&a)[8][16], TailVectors& step, uint32_t top,
                                              const Outputs<kP>& out, float (&x_own)[2]) {
  constexpr uint32_t kGroups = (kRows + 1) / 2, kBottom = 8 * kRows - 8;
  const uint32_t lane = threadIdx.x, g = lane / 4, t = lane % 4;
  const uint32_t own = g + 16 * t;  // and 8 more
  const uint32_t own_place = TailColumnPlace(own), next_place = TailColumnPlace(own + 8);
  const uint32_t own_row = t / 2 * 32 + 4 * g + t % 2 * 2;
  for (uint32_t m = top + 1; m-- > kBottom;) {
    float v_r[kRows], w_r[kRows], sums[kRows];
#pragma unroll
    for (uint32_t r = 0; r < kRows; ++r) {
      v_r[r] = step.v_rows[r / 4 * 32 + 4 * g + r % 4];
      w_r[r] = step.w_rows[r / 4 * 32 + 4 * g + r % 4];
      sums[r] = 0;
    }
#pragma unroll
    for (uint32_t group = 0; group < kGroups; ++group) {
      const uint32_t at = group * 16 + 4 * t;
      const float4 v4 = *reinterpret_cast<const float4*>(step.v_columns + at);
      const float4 w4 = *reinterpret_cast<const float4*>(step.w_columns + at);
      const float4 x4 = *reinterpret_cast<const float4*>(step.x_columns + at);
      const float v_c[4] = {v4.x, v4.y, v4.z, v4.w};
      const float w_c[4] = {w4.x, w4.y, w4.z, w4.w};
      const float x_c[4] = {x4.x, x4.y, x4.z, x4.w};
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) {
#pragma unroll
        for (uint32_t r = 0; r < kRows; ++r) {
          float e = a[r][4 * group + j];
          e = fmaf(-v_r[r], w_c[j], e);
          e = fmaf(-w_r[r], v_c[j], e);
          a[r][4 * group + j] = e;
          sums[r] = fmaf(e, x_c[j], sums[r]);
        }
      }
    }
    if (g == m % 8) {
#pragma unroll
      for (uint32_t group = 0; group < kGroups; ++group) {
        const float* four = &a[kRows - 1][4 * group];
        *reinterpret_cast<float4*>(step.row + group * 16 + 4 * t) =
            make_float4(four[0], four[1], four[2], four[3]);
      }
    }
    const float2 product = SpreadTailSums<kRows>(sums, t);
    const float first = own == m ? 0.0f : x_own[0], second = own + 8 == m ? 0.0f : x_own[1];
    const float both = SumTwo(fmaf(first, first, second * second),
                              fmaf(x_own[0], product.x, x_own[1] * product.y), lane);
    const float sigma = __shfl_sync(kAllLanes, both, 0);
    const float quadratic = __shfl_sync(kAllLanes, both, 16);
    // Row m = g + 8 r belongs to lane 4 g + r / 2, its first or its second.
    const uint32_t owner = m % 8 * 4 + m / 16;
    const bool is_second = (m & 8) != 0;
    const float alpha = __shfl_sync(kAllLanes, is_second ? x_own[1] : x_own[0], owner);
    const float product_m = __shfl_sync(kAllLanes, is_second ? product.y : product.x, owner);
    __syncwarp();
    const float row_m = step.row[TailColumnPlace(m)];
    const Reflector r = MakeReflector(sigma, alpha, quadratic, product_m, row_m);
    const StepEntry e0 = MakeEntry(r, own, m, x_own[0], product.x, step.row[own_place]);
    const StepEntry e1 = MakeEntry(r, own + 8, m, x_own[1], product.y, step.row[next_place]);
    x_own[0] = e0.next;
    x_own[1] = e1.next;
    step.x_columns[own_place] = e0.next;
    step.x_columns[next_place] = e1.next;
    step.v_columns[own_place] = e0.v;
    step.v_columns[next_place] = e1.v;
    step.w_columns[own_place] = e0.w;
    step.w_columns[next_place] = e1.w;
    *reinterpret_cast<float2*>(step.v_rows + own_row) = make_float2(e0.v, e1.v);
    *reinterpret_cast<float2*>(step.w_rows + own_row) = make_float2(e0.w, e1.w);
    float* reflector = out.g + (m + 1) * kP;
    if (own <= m) reflector[own] = e0.v;
    if (own + 8 <= m) reflector[own + 8] = e1.v;
    if (lane == 0) out.Write(r, m, row_m);
    __syncwarp();
  }
}

template <uint32_t kP, uint32_t kRows>
__device__ __forceinline__ void EliminateTailFrom(float (&a)[8][16], TailVectors& step,
                                                  uint32_t top, const Outputs<kP>& out,
                                                  float (&x_own)[2]) {
  EliminateTail<kP, kRows>(a, step, top, out, x_own);
  if constexpr (kRows > 1) {
    EliminateTailFrom<kP, kRows - 1>(a, step, 8 * kRows - 9, out, x_own);
  }
}

// What the first kernel left: the matrix, and row 64 of it where there is one.
__device__ __forceinline__ void LoadTail(const float* matrix, float (&a)[8][16]) {
  const uint32_t g = threadIdx.x / 4, t = threadIdx.x % 4;
#pragma unroll
  for (uint32_t r = 0; r < 8; ++r) {
    const uint32_t row = g + 8 * r;
    const uint32_t thread = row % 4 * kWarp + row / 4 % 8 * 4 + t;
#pragma unroll
    for (uint32_t group = 0; group < 4; ++group) {
      const float4 four = reinterpret_cast<const float4*>(matrix)[TailPlace(r / 4, group, thread)];
      a[r][4 * group] = four.x;
      a[r][4 * group + 1] = four.y;
      a[r][4 * group + 2] = four.z;
      a[r][4 * group + 3] = four.w;
    }
  }
}

template <uint32_t kP>
__global__ void __launch_bounds__(kWarp, 10)
    TailKernel(const __grid_constant__ EncodeBatch b, uint32_t round) {
  __shared__ __align__(16) TailVectors step;
  const uint32_t count = SlotCount(b, round);
  const uint32_t lane = threadIdx.x, g = lane / 4, t = lane % 4;
  for (uint32_t at = blockIdx.x; at < count; at += gridDim.x) {
    const uint32_t slot = SlotAt(b, round, at);
    if (b.slots[slot].finite == 0) continue;
    float* matrix = b.gram + size_t{slot} * kP * kP;
    const Outputs<kP> out = {matrix, b.tri + size_t{slot} * 3 * kP};
    float a[8][16];
    LoadTail(matrix, a);
    __syncwarp();
    uint32_t top = kTail - 1;
    float x_own[2];
    if (kP > kTail) {
      const float* x = matrix + kTail * kP;
      x_own[0] = x[g + 16 * t];
      x_own[1] = x[g + 16 * t + 8];
    } else {
      // The last row is the matrix's own.
      top = kTail - 2;
      if (g == 7) {
#pragma unroll
        for (uint32_t c = 0; c < 16; ++c) step.row[TailColumnPlace(t + 4 * c)] = a[7][c];
      }
      __syncwarp();
      x_own[0] = step.row[TailColumnPlace(g + 16 * t)];
      x_own[1] = step.row[TailColumnPlace(g + 16 * t + 8)];
      if (lane == kWarp - 1) {
        out.Begin(x_own[1]);
        x_own[1] = 0;
      }
    }
    step.x_columns[TailColumnPlace(g + 16 * t)] = x_own[0];
    step.x_columns[TailColumnPlace(g + 16 * t + 8)] = x_own[1];
#pragma unroll
    for (uint32_t i = lane; i < kTail; i += kWarp) {
      step.v_columns[i] = step.w_columns[i] = step.v_rows[i] = step.w_rows[i] = 0;
    }
    __syncwarp();
    EliminateTailFrom<kP, 8>(a, step, top, out, x_own);
  }
}

template <uint32_t kP>
cudaError_t LaunchOf(const EncodeBatch& b, uint32_t round, cudaStream_t stream) {
  const uint32_t grid = BlocksOfRound(b, round);
  FrontKernel<kP><<<grid, kThreads, 0, stream>>>(b, round);
  TailKernel<kP><<<grid, kWarp, 0, stream>>>(b, round);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchTridiagonalise(const EncodeBatch& b, uint32_t round, cudaStream_t stream) {
  switch (b.p) {
    case 64:
      return LaunchOf<64>(b, round, stream);
    case 80:
      return LaunchOf<80>(b, round, stream);
    case 96:
      return LaunchOf<96>(b, round, stream);
    case 112:
      return LaunchOf<112>(b, round, stream);
    case 128:
      return LaunchOf<128>(b, round, stream);
  }
  return LaunchLargeTridiagonalise(b, round, stream);
}

}  // namespace kvstow::gpu
