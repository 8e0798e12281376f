// One Householder step of a tridiagonalisation, as the kernels of gpu/tridiagonal_cuda.cu share it.
//
// Row m + 1 is eliminated with x, its active part (entries 0..m). The reflector v differs from x in
// one element, v = x + delta e_m, so A v = A x + delta A e_m needs no norm before the product, and
// row m + 1's successor, row m after the update A -= v w^T + w v^T, needs no pass of its own.
#pragma once

#include <cstdint>

namespace kvstow::gpu {

// Below this a row is taken as eliminated.
inline constexpr float kNegligible = 1e-30f;

struct Reflector {
  float head, delta, factor, off;
  float half, w_m;
};

// From sigma = |x|^2 without entry m, alpha = x[m], quadratic = x^T A x, (A x)[m] and A[m][m].
// Without a reflector head and factor are zero.
__device__ __forceinline__ Reflector MakeReflector(float sigma, float alpha, float quadratic,
                                                   float product_m, float row_m) {
  Reflector r;
  const bool eliminate = sigma >= kNegligible;
  const float squares = fmaf(alpha, alpha, sigma);
  const float length = squares * rsqrtf(squares);
  r.head = eliminate ? (alpha < 0 ? alpha - length : alpha + length) : 0.0f;
  r.factor = eliminate ? __fdividef(2.0f, fmaf(r.head, r.head, sigma)) : 0.0f;
  r.off = eliminate ? (alpha < 0 ? length : -length) : alpha;
  r.delta = r.head - alpha;
  const float whole = fmaf(r.delta, fmaf(r.delta, row_m, 2 * product_m), quadratic);
  r.half = 0.5f * r.factor * whole;
  r.w_m = r.factor * (fmaf(r.delta, row_m, product_m) - r.half * r.head);
  return r;
}

struct StepEntry {
  float v, w, next;
};

// Entry i of the update's vectors and of the row that follows.
__device__ __forceinline__ StepEntry MakeEntry(const Reflector& r, uint32_t i, uint32_t m, float x,
                                               float product, float row) {
  StepEntry e;
  e.v = r.factor == 0 || i > m ? 0.0f : i == m ? r.head : x;
  e.w = i > m ? 0.0f : r.factor * (fmaf(r.delta, row, product) - r.half * e.v);
  e.next = i < m ? row - r.head * e.w - r.w_m * e.v : 0.0f;
  return e;
}

// a and b summed over the warp: a in the lower lanes, b in the upper 16.
__device__ __forceinline__ float SumTwo(float a, float b, uint32_t lane) {
  const bool upper = lane >= 16;
  float sum = (upper ? b : a) + __shfl_xor_sync(0xffffffffu, upper ? a : b, 16);
#pragma unroll
  for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  return sum;
}

}  // namespace kvstow::gpu
