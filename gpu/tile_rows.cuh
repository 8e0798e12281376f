// Where the rows of a decoded tile go: side by side, or into pages.
#pragma once

#include <cstdint>

#include "gpu/device_tile.h"

namespace kvstow::gpu {

__device__ inline uint8_t* RowOf(const DecodeTile& tile, uint32_t row) {
  if (tile.pages.table == nullptr) return tile.values + row * tile.row_stride;
  const uint32_t page = tile.pages.table[row / tile.pages.tokens];
  return tile.values + page * tile.pages.stride + row % tile.pages.tokens * tile.row_stride;
}

// Whether all rows begin at a multiple of `bytes`, a power of two.
__device__ inline bool RowsAreAligned(const DecodeTile& tile, uint32_t bytes) {
  const uint64_t bits =
      reinterpret_cast<uintptr_t>(tile.values) | tile.row_stride | tile.pages.stride;
  return (bits & (bytes - 1)) == 0;
}

}  // namespace kvstow::gpu
