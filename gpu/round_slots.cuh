// Slots that a round of deflation works on: all in use first, then those on the round's list.
#pragma once

#include "gpu/kernels.h"

namespace kvstow::gpu {

__device__ inline uint32_t SlotCount(const EncodeBatch& b, uint32_t round) {
  return round == 0 ? b.counters[0] : b.counters[round];
}

__device__ inline uint32_t SlotAt(const EncodeBatch& b, uint32_t round, uint32_t i) {
  return round == 0 ? i : b.pending[size_t{round - 1} * b.max_slots + i];
}

// Later rounds are rare: few blocks walk the list of tiles that need them.
inline uint32_t BlocksOfRound(const EncodeBatch& b, uint32_t round) {
  return round == 0 || b.max_slots < 264 ? b.max_slots : 264;
}

}  // namespace kvstow::gpu
