// Whole planes as the device API takes them: plain structs that kernels read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpu/device_tile.h"

namespace kvstow::gpu {

// What planes of one kind have in common. An opaque plane is one row of bytes without a table.
struct PlaneShape {
  uint32_t heads = 0, tokens = 0, dim = 0, element_bytes = 0;
  uint32_t dtype = 0;        // as in the directory; 0 for opaque
  uint32_t table_bytes = 0;  // padded
  uint32_t may_be_coded = 0;
  uint32_t may_be_rotated = 0;
  RotaryShape rotary;
};

// Where a decoded plane goes, and what has to hold of it. Element [h, t, c] lies c elements after
// values + h head_stride + t row_stride, or in pages: c after values + pages.table[t /
// pages.tokens] pages.stride + h head_stride + (t % pages.tokens) row_stride.
struct StoredPlane {
  uint8_t* values = nullptr;
  size_t head_stride = 0;
  size_t row_stride = 0;
  PageMap pages;
  const float* cos = nullptr;  // [tokens, pairs] of its block, where the shape may be rotated
  const float* sin = nullptr;
  uint32_t crc32c = 0;  // as the directory says
  uint32_t reserved = 0;
};

// One plane to put into a record: tiles that an encoder made, or rows to be kept as they are.
struct PackPlane {
  const EncodeTile* tiles = nullptr;  // [heads]; null for rows
  const EncodeResult* results = nullptr;
  const uint8_t* values = nullptr;
  size_t head_stride = 0;
  size_t row_stride = 0;
  uint32_t heads = 0;
  uint32_t rows = 0;
  uint32_t row_bytes = 0;
  uint32_t table_bytes = 0;
};

}  // namespace kvstow::gpu
