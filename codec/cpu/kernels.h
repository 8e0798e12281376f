// The inner loops of the CPU codec, compiled once for each instruction set from the same sources
// (kernels/*.inc) and picked at run time.
//
// This header and those sources include nothing but <cstdint> and <cstddef>: an inline function of
// the standard library instantiated in the AVX2 build could be the copy the linker keeps for
// everybody, and the portable build would then die on a machine without AVX2.
//
// Shapes: n rows (tokens) by d columns (channels); matrices of floats are row-major and dense. n
// and d are multiples of 8, p a multiple of 16. "Lanes" are groups of eight vectors side by side,
// [length][8]. Thread-safe: no kernel has state.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvstow::cpu {

// Elements of a tile as they lie in the caller's memory; dtype has the values of kvstow::DType.
struct ElementRows {
  const void* data;
  size_t stride;  // bytes
  uint32_t rows;
  uint32_t dim;
  uint32_t dtype;
};

struct Rotary {
  const float* cos;  // [rows, pairs]
  const float* sin;
  uint32_t pairs;
  uint32_t offset;
  uint32_t interleaved;  // 0 or 1
};

// Fixed orthogonal transform of residual rows: signs, then Hadamard of size `outer` (x) DCT-II of
// size `inner`; dim = outer * inner.
struct Rotation {
  uint32_t dim;
  uint32_t outer;
  uint32_t inner;
  const float* signs;  // [dim], each +-outer^(-1/2)
  const float* dct;    // [inner, inner], orthonormal; row k is the k-th basis function
};

// Levels and thresholds of a residual codebook for unit rows.
struct Codebook {
  uint32_t bits;
  const float* levels;      // [2^bits] ascending
  const float* thresholds;  // [2^bits - 1] midpoints
};

struct DecodeArgs {
  uint32_t rows;
  uint32_t dim;
  uint32_t dtype;
  Codebook codebook;
  Rotation rotation;
  const uint8_t* codes;  // packed
  const float* lengths;  // [rows]
  uint32_t rank;
  const float* u;        // [rank, rows]
  const float* v;        // [rank, dim], times phi
  const float* means;    // [dim] or null
  const Rotary* rotary;  // rotate forward, or null
  float scale;           // last factor
  void* out;
  size_t out_stride;     // bytes
  uint32_t past_caches;  // stores go there; both of the above are multiples of eight elements
};

// Error sums in units of `scale`.
struct MeasuredSums {
  double energy, error, centred_energy, centred_error, inner_product;
};

struct Kernels {
  const char* name;

  // Largest magnitude, or +inf where any element is not finite.
  float (*max_abs)(const ElementRows& rows);
  // out = x * scale_a * scale_b, powers of two.
  void (*load)(const ElementRows& rows, float scale_a, float scale_b, float* out);
  // Rotates every row back by its angle, in place.
  void (*unrotate)(const Rotary& rotary, uint32_t n, uint32_t d, float* x);
  void (*column_means)(const float* x, uint32_t n, uint32_t d, float* means);
  void (*subtract_means)(const float* means, uint32_t n, uint32_t d, float* x);
  double (*energy)(const float* x, size_t count);
  void (*transpose)(const float* x, uint32_t n, uint32_t d, float* out);

  // Lower triangle and whole 16 x 16 diagonal blocks of Y^T Y; y is [q, p]. Rows of g are `stride`
  // floats apart, here and below: not a power of two, or they compete for the same lines of the
  // cache.
  void (*gram)(const float* y, uint32_t q, uint32_t p, float* g, size_t stride);
  // Householder: g = Q T Q^T. Takes what gram() made. Leaves the reflector that eliminated row i in
  // g[i][0..i-1] with its factor in beta[i]; off[i] couples i and i + 1. work: 4 (p + 16) floats.
  void (*tridiagonalise)(float* g, uint32_t p, size_t stride, float* diag, float* off, float* beta,
                         float* work);
  // Number of eigenvalues of the tridiagonal matrix below each shift; count is a multiple of 8.
  // off2[i] are squares of the off-diagonal, none of them zero.
  void (*count_below)(const float* diag, const float* off2, uint32_t p, const float* shifts,
                      uint32_t count, int32_t* counts);
  // Unit eigenvectors near eight shifts by twisted factorisation, to lanes; moves the shifts by the
  // Rayleigh correction. work: 16 p floats. Lanes that broke down hold non-finite numbers.
  void (*twisted_vectors)(const float* diag, const float* off, uint32_t p, float tiny,
                          float* shifts, float* lanes, float* work);
  // lanes = Q lanes.
  void (*back_transform)(const float* g, size_t stride, const float* beta, uint32_t p,
                         float* lanes);
  // out[q][8] = Y lanes, rows of `out` out_stride floats apart.
  void (*project)(const float* y, uint32_t q, uint32_t p, const float* lanes, float* out,
                  size_t out_stride);
  // x[t] -= sum_i u[t * row_stride + i * component_stride] v[i]; v is [rank, d].
  void (*subtract_low_rank)(const float* u, size_t row_stride, size_t component_stride,
                            const float* v, uint32_t rank, uint32_t n, uint32_t d, float* x);
  float (*dot)(const float* a, const float* b, size_t count);
  // out[i] = levels[code i] * scale, codes being nibbles, the low one first; count a multiple
  // of 16.
  void (*expand_nibbles)(const uint8_t* codes, size_t count, const int8_t* levels, float scale,
                         float* out);

  // z = rotated rows of x.
  void (*rotate)(const Rotation& rotation, const float* x, uint32_t n, float* z);
  // Codes of unit rows, packed LSB first, and the least-squares length <z,y>/|y|^2 of each row.
  void (*quantise)(const Codebook& codebook, const float* z, uint32_t n, uint32_t d, uint8_t* codes,
                   float* lengths);
  void (*decode)(const DecodeArgs& args);

  // Both sides times scale_a * scale_b before they are compared.
  MeasuredSums (*measure)(const ElementRows& x, const ElementRows& decoded, float scale_a,
                          float scale_b);
};

const Kernels& PortableKernels();
// Needs AVX2, FMA and F16C; ask IsaSupported first.
const Kernels& Avx2Kernels();

}  // namespace kvstow::cpu
