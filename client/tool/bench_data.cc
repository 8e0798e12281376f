#include "client/tool/bench_data.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>

namespace kvstow::tool {
namespace {

constexpr uint32_t kRank = 8;

// Round to nearest; finite values within the range of binary16 only.
uint16_t ToFp16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const int exponent = static_cast<int>((bits >> 23) & 0xff) - 127 + 15;
  if (exponent <= 0) return sign;  // too small to matter here
  const uint32_t mantissa = bits & 0x7fffff;
  return static_cast<uint16_t>(sign + (exponent << 10) + ((mantissa + 0x1000) >> 13));
}

uint16_t ToBf16(float value) {
  return static_cast<uint16_t>((std::bit_cast<uint32_t>(value) + 0x8000) >> 16);
}

void Store(const std::vector<float>& values, DType dtype, std::byte* to) {
  if (dtype == DType::kFp32) {
    std::memcpy(to, values.data(), values.size() * sizeof(float));
    return;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = dtype == DType::kBf16 ? ToBf16(values[i]) : ToFp16(values[i]);
    std::memcpy(to + 2 * i, &half, 2);
  }
}

// One head: tokens x dim.
std::vector<float> Tile(uint32_t tokens, uint32_t dim, std::mt19937* random) {
  std::normal_distribution<float> normal;
  std::vector<float> left(size_t{tokens} * kRank), right(size_t{dim} * kRank);
  for (float& x : left) x = normal(*random);
  for (float& x : right) x = normal(*random);
  std::vector<float> tile(size_t{tokens} * dim);
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t c = 0; c < dim; ++c) {
      float sum = 0.5f * normal(*random) + (c % 61 == 7 ? 4.0f : 0.0f);
      for (uint32_t r = 0; r < kRank; ++r) {
        sum += left[t * kRank + r] * right[c * kRank + r] / static_cast<float>(1 + r);
      }
      tile[size_t{t} * dim + c] = sum;
    }
  }
  return tile;
}

std::vector<std::byte> Synthesize(const PlaneSpec& plane, std::mt19937* random) {
  std::vector<std::byte> bytes(plane.raw_bytes);
  if (plane.is_opaque()) {
    for (std::byte& b : bytes) b = static_cast<std::byte>((*random)());
    return bytes;
  }
  for (uint32_t h = 0; h < plane.heads; ++h) {
    Store(Tile(plane.tokens, plane.dim, random), plane.dtype,
          bytes.data() + h * plane.tile_bytes());
  }
  return bytes;
}

}  // namespace

BenchData BenchData::FromArrays(const PlaneLayout& layout, const KvArrays& arrays) {
  BenchData data;
  data.blocks_ = arrays.tokens() / layout.spec().block_tokens;
  data.planes_of_block_ = layout.planes().size();
  for (size_t b = 0; b < data.blocks_; ++b) {
    for (const PlaneSpec& plane : layout.planes()) {
      data.planes_.emplace_back(plane.raw_bytes);
      arrays.CopyOut(layout, plane, b, data.planes_.back());
    }
  }
  return data;
}

BenchData BenchData::Synthetic(const PlaneLayout& layout, size_t blocks) {
  std::mt19937 random(20260205);
  BenchData data;
  data.blocks_ = blocks;
  data.planes_of_block_ = layout.planes().size();
  for (size_t b = 0; b < blocks; ++b) {
    for (const PlaneSpec& plane : layout.planes()) {
      data.planes_.push_back(Synthesize(plane, &random));
    }
  }
  return data;
}

}  // namespace kvstow::tool
