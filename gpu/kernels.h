// What the CUDA files of the twin share: the plain structs that kernels take by value, and their
// launchers. Launchers enqueue on a stream and return the launch error; none allocates or waits.
//
// Shapes as in codec/cpu/kernels.h: n rows (tokens) by d columns (channels), p the short side and q
// the long one. All pointers in these structs are to device memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "gpu/device_tile.h"

namespace kvstow::gpu {

inline constexpr uint32_t kMaxVectors = 24;  // rank <= 22, rounded up
inline constexpr uint32_t kMaxDeflationRounds = 4;

// Constants of one dimension.
struct TileTables {
  float levels[4][16];      // [bits - 1]
  float thresholds[4][16];  // [bits - 1], the last one unused
  float dct[81];            // [inner, inner]
};

// A way to code a tile that is being tried: every tile has one, tiles whose channel means may pay
// have a second with the means taken off.
struct Slot {
  double direction_lambda[kMaxVectors];
  double singular[kMaxVectors];
  double edge;
  double sums[5];
  float scale_a, scale_b;
  int32_t exponent;
  uint32_t tile;
  uint32_t with_means;
  uint32_t finite;
  uint32_t vectors, deflated, dominant, rank;
  uint32_t deficient;
  uint32_t solved;  // spectrum final
  uint32_t bits;
  uint32_t done;  // coded within the bound, or not codable
  uint32_t met;
  uint32_t second;  // slot with the means taken off, 0 for none
  uint32_t body_bytes;
  uint32_t head;
  uint32_t reserved;
};

struct EncodeBatch {
  uint32_t n, d, dtype, element_bytes;
  uint32_t p, q;
  uint32_t tokens_short;  // n <= d: tokens are the short side
  uint32_t k, leading;    // bulk index, eigenvalues wanted sharp
  uint32_t tiles, max_slots;
  uint32_t max_body;
  uint32_t bits, optimal, closed_loop, key_like, eoptshrinkq, raw;
  double bound;
  double edge_law, rank_threshold, law[kMaxVectors];
  RotaryShape rotary;
  TileTables tables;

  const EncodeTile* jobs;
  EncodeResult* results;
  ChecksumRange* ranges;  // of the bodies, or null

  // Scratch; of a slot unless said otherwise.
  Slot* slots;
  uint32_t* counters;  // [0] slots in use, [1 + round] slots that need another round
  uint32_t* pending;   // [kMaxDeflationRounds, max_slots]
  float* x;            // [d, n]: the tile, scaled and transposed
  float* deflated;     // [d, n]
  float* gram;         // [p, p]: reflectors afterwards
  float* tri;          // [3, p]: diagonal, off-diagonal, reflector factors
  double* lambda;      // [2, p]: this round's, all rounds'
  double* solve;       // [4, p]: inverse iteration off the fast path
  float* shorts;       // [kMaxVectors, p]
  float* longs;        // [kMaxVectors, q]
  float* u;            // [kMaxVectors, n], as the residual takes it
  float* v;            // [kMaxVectors, d], times phi
  uint8_t* factors;    // u codes, v codes, u levels, v levels, phi: as they lie in a body
  uint32_t factor_bytes;
  uint16_t* means;    // [d]
  uint8_t* body;      // [max_body]
  uint8_t* decoded;   // [n, d] elements, unless ChecksWhole
  DecodeTile* check;  // how to decode the slot's body
};

// Decoding; all tiles of one shape.
cudaError_t LaunchDecode(const DecodeTile* tiles, uint32_t count, uint32_t n, uint32_t d,
                         uint32_t dtype, const RotaryShape& rotary, const TileTables& tables,
                         cudaStream_t stream);

// crcs[i] = CRC32C of ranges[i]; no range longer than max_size.
cudaError_t LaunchChecksums(const ChecksumRange* ranges, uint32_t count, uint64_t max_size,
                            uint32_t* crcs, cudaStream_t stream);

// The steps of an encode, in order. `round` counts deflations.
cudaError_t LaunchPrepare(const EncodeBatch& batch, cudaStream_t stream);
cudaError_t LaunchTridiagonalise(const EncodeBatch& batch, uint32_t round, cudaStream_t stream);
cudaError_t LaunchEigen(const EncodeBatch& batch, uint32_t round, cudaStream_t stream);
cudaError_t LaunchDeflate(const EncodeBatch& batch, uint32_t round, cudaStream_t stream);
cudaError_t LaunchFactors(const EncodeBatch& batch, cudaStream_t stream);
cudaError_t LaunchResidual(const EncodeBatch& batch, uint32_t bits, cudaStream_t stream);
// Decodes and measures; without leaving `decoded` where ChecksWhole.
cudaError_t LaunchCheck(const EncodeBatch& batch, uint32_t bits, cudaStream_t stream);
bool ChecksWhole(const EncodeBatch& batch);
cudaError_t LaunchMeasure(const EncodeBatch& batch, uint32_t bits, cudaStream_t stream);
cudaError_t LaunchChoose(const EncodeBatch& batch, cudaStream_t stream);

}  // namespace kvstow::gpu
