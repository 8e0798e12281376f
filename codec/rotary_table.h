// Cosines and sines of a block's rotary embedding, made once a block and shared by its tiles.
//
// Angles are formed in double before narrowing: positions reach 10^6, where a float angle has lost
// the fraction. cos and sin of (first_position + t) * f come from those of first_position * f and t
// * f by the addition theorem, in double, so that a block costs m/2 evaluations, not n*m/2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "space/space_spec.h"

namespace kvstow {

// Of offsets t = 0..tokens-1, for all blocks of a space. Immutable, thread-safe.
class RotaryOffsets {
 public:
  RotaryOffsets(const RotaryEmbedding& rotary, uint32_t tokens);

  const RotaryEmbedding& rotary() const { return rotary_; }
  uint32_t tokens() const { return tokens_; }
  uint32_t pairs() const { return pairs_; }

 private:
  friend class RotaryTable;
  RotaryEmbedding rotary_;
  uint32_t tokens_;
  uint32_t pairs_;
  std::vector<double> cos_, sin_;  // [tokens, pairs]
};

// Of one block's positions. Immutable, thread-safe.
class RotaryTable {
 public:
  RotaryTable(const RotaryOffsets& offsets, uint64_t first_position);

  RotaryEmbedding::Pairing pairing() const { return pairing_; }
  uint32_t offset() const { return offset_; }  // first rotary coordinate
  uint32_t pairs() const { return pairs_; }    // m/2
  // [tokens, pairs]
  const float* cos() const { return cos_.data(); }
  const float* sin() const { return sin_.data(); }

 private:
  RotaryEmbedding::Pairing pairing_;
  uint32_t offset_;
  uint32_t pairs_;
  std::vector<float> cos_, sin_;
};

}  // namespace kvstow
