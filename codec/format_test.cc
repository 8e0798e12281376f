// The constants and small encodings that docs/format.md pins down.
#include <cmath>
#include <cstring>
#include <random>

#include "absl/strings/string_view.h"
#include "codec/codec.h"
#include "codec/cpu/kernels.h"
#include "codec/crc32c.h"
#include "codec/factor_codebook.h"
#include "codec/half.h"
#include "codec/length_code.h"
#include "codec/residual_codebook.h"
#include "codec/residual_rotation.h"
#include "codec/rotary_table.h"
#include "codec/tile.h"
#include "gtest/gtest.h"

namespace kvstow {
namespace {

constexpr uint32_t kDims[] = {64, 80, 96, 112, 128, 192, 256, 576};

std::span<const std::byte> BytesOf(absl::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(Crc32c, CheckValueAndPieces) {
  EXPECT_EQ(Crc32c(BytesOf("123456789")), 0xe3069283u);
  EXPECT_EQ(Crc32c({}), 0u);
  EXPECT_EQ(ExtendCrc32c(Crc32c(BytesOf("1234")), BytesOf("56789")), 0xe3069283u);
}

TEST(TileHead, RoundTripsAndRefusesReservedBits) {
  for (uint32_t value = 0; value < 1u << 16; ++value) {
    for (uint32_t flags : {0u, 1u, 3u, 4u, 0x80u}) {
      const std::byte bytes[4] = {static_cast<std::byte>(value), static_cast<std::byte>(value >> 8),
                                  static_cast<std::byte>(value >> 5),
                                  static_cast<std::byte>(flags)};
      TileHead head;
      if (!UnpackTileHead(bytes, &head).ok()) continue;
      EXPECT_LE(head.rank, kMaxRank);
      EXPECT_LT(flags, 4u);
      std::byte back[4];
      PackTileHead(head, back);
      ASSERT_EQ(std::memcmp(bytes, back, 4), 0) << value;
    }
  }
}

TEST(TileBody, PartsFollowEachOther) {
  TileHead head;
  head.mode = TileMode::kCoded;
  head.bits = 3;
  head.rank = 5;
  head.has_means = true;
  const TileBodyLayout at = LayoutOf({128, 80, DType::kFp16}, head);
  EXPECT_EQ(at.lengths, 128u * 30);
  EXPECT_EQ(at.u_codes, at.lengths + 128);
  EXPECT_EQ(at.v_codes, at.u_codes + 5 * 64);
  EXPECT_EQ(at.u_levels, at.v_codes + 5 * 40);
  EXPECT_EQ(at.v_levels, at.u_levels + 16);
  EXPECT_EQ(at.reference, at.v_levels + 16);
  EXPECT_EQ(at.phi, at.reference + 4);
  EXPECT_EQ(at.means, at.phi + 10);
  EXPECT_EQ(at.total, (at.means + 160 + 15) / 16 * 16);
  head.rank = 0;
  head.has_means = false;
  EXPECT_EQ(LayoutOf({128, 80, DType::kFp16}, head).reference, 128u * 31);
}

TEST(Half, RoundTripsEveryFiniteValue) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    if ((h & 0x7c00) == 0x7c00) {
      EXPECT_EQ(HalfToFloat(static_cast<uint16_t>(h)), 0);
      continue;
    }
    ASSERT_EQ(FloatToHalf(HalfToFloat(static_cast<uint16_t>(h))), h);
  }
  EXPECT_EQ(HalfToFloat(0x3c00), 1);
  EXPECT_EQ(FloatToHalf(1e9f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65519.9f), 0x7bff);
  EXPECT_EQ(FloatToHalf(1 + 0x1p-11f), 0x3c00);
  EXPECT_EQ(FloatToHalf(1 + 0x1.8p-10f), 0x3c02);
}

TEST(LengthCode, NearestOfTheGrid) {
  const auto& factors = LengthFactors();
  EXPECT_EQ(factors[0], 0);
  for (int c = 1; c < 256; ++c) {
    EXPECT_NEAR(factors[c] * std::exp2((c - 1) / 16.0), 1, 1e-7);
    EXPECT_EQ(LengthCodeFor(3 * factors[c], 3), c);
  }
  for (double x = 1; x > 1e-6; x *= 0.9973) {
    const uint8_t code = LengthCodeFor(static_cast<float>(x), 1);
    for (int c = 0; c < 256; ++c) {
      ASSERT_LE(std::abs(factors[code] - x), std::abs(factors[c] - x) + 1e-7 * x) << x;
    }
  }
  EXPECT_EQ(LengthCodeFor(0, 1), 0);
  EXPECT_EQ(LengthCodeFor(1, 0), 0);
  EXPECT_EQ(LengthCodeFor(2, 1), 1);
}

TEST(ResidualCodebook, OddAndAscending) {
  for (uint32_t d : kDims) {
    for (uint32_t bits = 1; bits <= 4; ++bits) {
      const ResidualCodebook& book = ResidualCodebookFor(d, bits);
      ASSERT_EQ(book.bits, bits);
      const uint32_t size = 1u << bits;
      for (uint32_t i = 0; i < size; ++i) EXPECT_EQ(book.levels[i], -book.levels[size - 1 - i]);
      for (uint32_t i = 0; i + 1 < size; ++i) {
        EXPECT_LT(book.levels[i], book.thresholds[i]);
        EXPECT_LT(book.thresholds[i], book.levels[i + 1]);
      }
    }
  }
}

TEST(ResidualRotation, OrthonormalForEveryDimension) {
  std::vector<const cpu::Kernels*> builds = {&cpu::PortableKernels()};
  if (CpuCodec(CpuIsa::kAvx2) != nullptr) builds.push_back(&cpu::Avx2Kernels());
  for (const cpu::Kernels* kernels : builds) {
    for (uint32_t d : kDims) {
      const ResidualRotation& r = ResidualRotationFor(d);
      ASSERT_EQ(r.outer * r.inner, d);
      std::vector<float> identity(size_t{d} * d), rotated(size_t{d} * d);
      for (size_t i = 0; i < d; ++i) identity[i * d + i] = 1;
      kernels->rotate({d, r.outer, r.inner, r.signs.data(), r.dct.data()}, identity.data(), d,
                      rotated.data());
      for (size_t i = 0; i < d; ++i) {
        // Against the definition: H (x) C times the sign.
        for (size_t j = 0; j < d; j += 7) {
          const size_t a = j / r.inner, b = i / r.inner;
          const double hadamard = __builtin_popcountll(a & b) % 2 != 0 ? -1 : 1;
          const double cosine = r.dct[(j % r.inner) * r.inner + i % r.inner];
          ASSERT_NEAR(rotated[i * d + j], r.signs[i] * hadamard * cosine, 1e-5);
          EXPECT_NEAR(std::abs(r.signs[i]), 1 / std::sqrt(r.outer), 1e-7);
        }
        for (size_t j = 0; j <= i; ++j) {
          ASSERT_NEAR(kernels->dot(&rotated[i * d], &rotated[j * d], d), i == j, 1e-5) << d;
        }
      }
    }
  }
}

TEST(FactorQuantiser, FitsNormalFactorsToTheirRate) {
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> values(4 * 128);
  for (float& v : values) v = normal(random) / std::sqrt(128.0f);
  const std::vector<double> weights = {100, 10, 3, 1};
  FactorQuantiser quantiser;
  quantiser.Fit(values, 4, weights);
  std::vector<uint8_t> codes(values.size() / 2);
  quantiser.Pack(values, codes.data());
  double error = 0, energy = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const int code = codes[i / 2] >> (i % 2 * 4) & 15;
    const double x = values[i] * quantiser.stretch();
    const double y = quantiser.levels()[code] / 128.0;
    // No level is nearer.
    for (int level : quantiser.levels())
      ASSERT_LE(std::abs(x - y), std::abs(x - level / 128.0) + 2e-6);
    error += weights[i / 128] * (x - y) * (x - y);
    energy += weights[i / 128] * x * x;
  }
  EXPECT_LT(error / energy, 0.0105);
}

TEST(RotaryTable, MatchesDirectEvaluationFarOut) {
  RotaryEmbedding rotary;
  for (int i = 0; i < 64; ++i) {
    rotary.inverse_frequencies.push_back(static_cast<float>(std::pow(5e5, -i / 64.0)));
  }
  const RotaryOffsets offsets(rotary, 128);
  for (uint64_t position : {uint64_t{0}, uint64_t{4096}, uint64_t{1000000}}) {
    const RotaryTable table(offsets, position);
    for (uint32_t t : {0u, 1u, 127u}) {
      for (uint32_t i = 0; i < 64; ++i) {
        const double angle = static_cast<double>(position + t) * rotary.inverse_frequencies[i];
        EXPECT_NEAR(table.cos()[t * 64 + i], std::cos(angle), 1e-7);
        EXPECT_NEAR(table.sin()[t * 64 + i], std::sin(angle), 1e-7);
      }
    }
  }
}

}  // namespace
}  // namespace kvstow
