#include "codec/testing/tiles.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "codec/half.h"

namespace kvstow::testing {
namespace {

double Largest(DType dtype) {
  switch (dtype) {
    case DType::kFp16:
      return 65504;
    case DType::kBf16:
      return 0x1.fep127;
    case DType::kFp32:
      return 0x1.fffffep127;
  }
  return 0;
}

uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

uint16_t ToFp16(double value) {
  if (std::isnan(value)) return 0x7e00;
  if (std::isinf(value)) return value > 0 ? 0x7c00 : 0xfc00;
  return FloatToHalf(static_cast<float>(value));
}

double FromFp16(uint16_t bits) {
  if ((bits & 0x7c00) == 0x7c00) return (bits & 0x3ff) != 0 ? std::nan("") : INFINITY;
  return HalfToFloat(bits);
}

void OrDie(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::abort();
}

}  // namespace

std::vector<std::byte> ToElements(const std::vector<double>& values, DType dtype) {
  std::vector<std::byte> out(values.size() * SizeOf(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    std::byte* at = out.data() + i * SizeOf(dtype);
    const auto narrow = static_cast<float>(values[i]);
    if (dtype == DType::kFp32) {
      std::memcpy(at, &narrow, 4);
    } else {
      const uint16_t h = dtype == DType::kFp16 ? ToFp16(values[i]) : ToBf16(narrow);
      std::memcpy(at, &h, 2);
    }
  }
  return out;
}

std::vector<double> FromElements(std::span<const std::byte> bytes, DType dtype) {
  std::vector<double> out(bytes.size() / SizeOf(dtype));
  for (size_t i = 0; i < out.size(); ++i) {
    const std::byte* at = bytes.data() + i * SizeOf(dtype);
    if (dtype == DType::kFp32) {
      float value;
      std::memcpy(&value, at, 4);
      out[i] = value;
    } else {
      uint16_t h;
      std::memcpy(&h, at, 2);
      out[i] = dtype == DType::kFp16 ? FromFp16(h)
                                     : std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
    }
  }
  return out;
}

double UlpAt(double value, DType dtype) {
  const int fraction = dtype == DType::kFp16 ? 10 : dtype == DType::kBf16 ? 7 : 23;
  const int lowest = dtype == DType::kFp16 ? -14 : -126;
  const int exponent = value == 0 ? lowest : std::max(std::ilogb(value), lowest);
  return std::ldexp(1.0, exponent - fraction);
}

Tile MakeTile(const TileShape& shape, std::vector<double> values) {
  Tile tile;
  tile.shape = shape;
  for (double& v : values) v = std::clamp(v, -Largest(shape.dtype), Largest(shape.dtype));
  tile.bytes = ToElements(values, shape.dtype);
  tile.values = FromElements(tile.bytes, shape.dtype);
  return tile;
}

Tile ContextTile(const TileShape& shape, uint32_t rank, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> values(shape.entries());
  for (double& v : values) v = normal(random);
  for (uint32_t i = 0; i < rank; ++i) {
    std::vector<double> u(shape.tokens), v(shape.dim);
    for (double& x : u) x = normal(random);
    for (double& x : v) x = normal(random);
    const double strength = 2.0 / (1 + 0.3 * i);
    for (size_t t = 0; t < shape.tokens; ++t) {
      for (size_t c = 0; c < shape.dim; ++c) values[t * shape.dim + c] += strength * u[t] * v[c];
    }
  }
  return MakeTile(shape, std::move(values));
}

std::vector<NamedTile> AdversarialTiles(const TileShape& shape) {
  const size_t n = shape.tokens;
  const size_t d = shape.dim;
  const Tile base = ContextTile(shape, 3, 7);
  std::vector<NamedTile> out;
  const auto add = [&](const char* name, const std::function<double(size_t, size_t)>& value) {
    std::vector<double> values(n * d);
    for (size_t i = 0; i < values.size(); ++i) values[i] = value(i / d, i % d);
    out.push_back({name, MakeTile(shape, std::move(values))});
  };
  const auto at = [&](size_t t, size_t c) { return base.values[t * d + c]; };
  add("zeros", [](size_t, size_t) { return 0.0; });
  add("constant", [](size_t, size_t) { return 0.7; });
  add("equal rows", [&](size_t, size_t c) { return at(0, c); });
  add("duplicated tokens", [&](size_t t, size_t c) { return at(t % 4, c); });
  add("rank one", [&](size_t t, size_t c) { return at(t, 0) * at(0, c); });
  add("one element", [&](size_t t, size_t c) { return t == 5 && c == 3 ? 1.0 : 0.0; });
  add("identity", [](size_t t, size_t c) { return t == c ? 1.0 : 0.0; });
  add("padding rows", [&](size_t t, size_t c) { return t < n / 3 ? at(t, c) : 0.0; });
  add("outlier channel", [&](size_t t, size_t c) { return at(t, c) + (c == 9 ? 180.0 : 0.0); });
  add("sink token", [&](size_t t, size_t c) { return at(t, c) * (t == 0 ? 1000 : 1); });
  add("large mean", [&](size_t t, size_t c) { return at(t, c) + 60 * at(0, c); });
  add("tiny", [&](size_t t, size_t c) { return at(t, c) * UlpAt(0, shape.dtype) * 4; });
  add("least subnormal",
      [&](size_t t, size_t c) { return at(t, c) > 0 ? UlpAt(0, shape.dtype) : 0.0; });
  add("largest", [&](size_t t, size_t c) { return std::copysign(Largest(shape.dtype), at(t, c)); });
  add("near the limit", [&](size_t t, size_t c) { return at(t, c) * Largest(shape.dtype) / 30; });
  return out;
}

EncodedTile EncodeOne(Codec& codec, const TileShape& shape, std::span<const std::byte> bytes,
                      const TileEncodeOptions& options, const RotaryTable* rotary) {
  EncodedTile out;
  out.body.assign(MaxTileBodyBytes(shape), std::byte{0xa5});
  TileEncodeJob job;
  job.shape = shape;
  job.values = bytes.data();
  job.row_stride = shape.dim * SizeOf(shape.dtype);
  job.rotary = rotary;
  job.options = options;
  job.body = out.body.data();
  OrDie(codec.Encode({&job, 1}));
  out.head = job.head;
  out.report = job.report;
  out.body.resize(TileBodyBytes(shape, job.head));
  return out;
}

std::vector<std::byte> DecodeOne(Codec& codec, const TileShape& shape, const EncodedTile& tile,
                                 const RotaryTable* rotary) {
  std::vector<std::byte> out(shape.bytes(), std::byte{0xa5});
  TileDecodeJob job;
  job.shape = shape;
  job.head = tile.head;
  job.body = tile.body.data();
  job.rotary = rotary;
  job.values = out.data();
  job.row_stride = shape.dim * SizeOf(shape.dtype);
  OrDie(codec.Decode({&job, 1}));
  return out;
}

ErrorSums MeasureInDouble(const Tile& tile, std::span<const std::byte> decoded) {
  const std::vector<double> y = FromElements(decoded, tile.shape.dtype);
  const size_t n = tile.shape.tokens;
  const size_t d = tile.shape.dim;
  ErrorSums sums;
  for (size_t c = 0; c < d; ++c) {
    double mean_x = 0, mean_e = 0;
    for (size_t t = 0; t < n; ++t) {
      mean_x += tile.values[t * d + c] / static_cast<double>(n);
      mean_e += (y[t * d + c] - tile.values[t * d + c]) / static_cast<double>(n);
    }
    for (size_t t = 0; t < n; ++t) {
      const double x = tile.values[t * d + c];
      const double e = y[t * d + c] - x;
      sums.energy += x * x;
      sums.error += e * e;
      sums.centred_energy += (x - mean_x) * (x - mean_x);
      sums.centred_error += (e - mean_e) * (e - mean_e);
      sums.inner_product += x * y[t * d + c];
    }
  }
  return sums;
}

}  // namespace kvstow::testing
