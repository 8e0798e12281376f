// A rotary table as kernels take it.
#pragma once

#include "codec/cpu/kernels.h"
#include "codec/rotary_table.h"

namespace kvstow::cpu {

inline Rotary ViewOf(const RotaryTable& table) {
  return {table.cos(), table.sin(), table.pairs(), table.offset(),
          table.pairing() == RotaryEmbedding::Pairing::kInterleaved ? 1u : 0u};
}

}  // namespace kvstow::cpu
