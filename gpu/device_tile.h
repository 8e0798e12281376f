// Tiles as the device API takes them: plain structs in device memory that point to device memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvstow::gpu {

struct RotaryShape {
  uint32_t pairs = 0;
  uint32_t offset = 0;
  uint32_t interleaved = 0;
};

// Pages that rows lie in: row t is row t % tokens of page table[t / tokens]. Without a table all
// rows lie in one.
struct PageMap {
  const uint32_t* table = nullptr;
  uint64_t stride = 0;  // bytes from a page to the next
  uint32_t tokens = 0;
  uint32_t reserved = 0;
};

// One tile to decode. `head` is its entry of the tile table, as it lies in the plane.
struct DecodeTile {
  const uint8_t* body = nullptr;  // aligned to 16
  uint8_t* values = nullptr;      // [n, d], rows row_stride bytes apart, or so within each page
  size_t row_stride = 0;
  PageMap pages;
  // [n, pairs], where the head says the rotary embedding was undone; aligned to 16.
  const float* cos = nullptr;
  const float* sin = nullptr;
  uint32_t head = 0;
  uint32_t skip = 0;  // 1: leave the tile alone
};

// One tile to encode.
struct EncodeTile {
  const uint8_t* values = nullptr;
  size_t row_stride = 0;
  // [n, pairs], not null: undo this rotation before coding; aligned to 16.
  const float* cos = nullptr;
  const float* sin = nullptr;
  uint8_t* body = nullptr;  // room for MaxTileBodyBytes, aligned to 16
};

// What became of it.
struct EncodeResult {
  double energy, error, centred_energy, centred_error, inner_product;
  uint32_t head;        // as in the tile table
  uint32_t body_bytes;  // rounded up to 16
  uint32_t raw;         // kept raw though a coded form was asked for
  uint32_t reserved;
};

struct ChecksumRange {
  const uint8_t* bytes = nullptr;  // aligned to 16
  uint64_t size = 0;
};

}  // namespace kvstow::gpu
