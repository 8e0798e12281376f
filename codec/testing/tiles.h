// Made-up tiles, and one-tile calls of a codec, for tests.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "codec/codec.h"

namespace kvstow::testing {

// Elements as doubles, row-major.
std::vector<std::byte> ToElements(const std::vector<double>& values, DType dtype);
std::vector<double> FromElements(std::span<const std::byte> bytes, DType dtype);
// Distance from |value| to the next larger representable number.
double UlpAt(double value, DType dtype);

struct Tile {
  TileShape shape;
  std::vector<double> values;  // as rounded to the dtype
  std::vector<std::byte> bytes;
};
Tile MakeTile(const TileShape& shape, std::vector<double> values);
// `rank` directions of falling strength over unit white noise: what KV tiles look like.
Tile ContextTile(const TileShape& shape, uint32_t rank, uint64_t seed);

struct NamedTile {
  std::string name;
  Tile tile;
};
// Tiles that break careless codecs. All finite; FP16 values stay below 65504.
std::vector<NamedTile> AdversarialTiles(const TileShape& shape);

struct EncodedTile {
  TileHead head;
  TileReport report;
  std::vector<std::byte> body;  // of TileBodyBytes
};
EncodedTile EncodeOne(Codec& codec, const TileShape& shape, std::span<const std::byte> bytes,
                      const TileEncodeOptions& options, const RotaryTable* rotary = nullptr);
std::vector<std::byte> DecodeOne(Codec& codec, const TileShape& shape, const EncodedTile& tile,
                                 const RotaryTable* rotary = nullptr);

// The report of a reconstruction, in double from scratch.
ErrorSums MeasureInDouble(const Tile& tile, std::span<const std::byte> decoded);

}  // namespace kvstow::testing
