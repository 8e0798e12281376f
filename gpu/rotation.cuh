// Which channels a rotary embedding turns together.
#pragma once

#include <cstdint>

#include "gpu/device_tile.h"

namespace kvstow::gpu {

// Channels i and i + d / 2, all of them. d / 2 is a multiple of eight.
__host__ __device__ inline bool RotatesHalves(const RotaryShape& rotary, uint32_t d) {
  return rotary.interleaved == 0 && rotary.offset == 0 && 2 * rotary.pairs == d;
}

// Channels 2 i and 2 i + 1 of some runs of eight.
__host__ __device__ inline bool RotatesNeighbours(const RotaryShape& rotary) {
  return rotary.interleaved != 0 && rotary.offset % 8 == 0 && rotary.pairs % 4 == 0;
}

}  // namespace kvstow::gpu
