// Stage 1 against float64 eOptShrink on real tiles, closed forms on white noise, and tiles with
// dominant directions, for both builds of the kernels.
#include "codec/cpu/spectrum.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "codec/cpu/kernels.h"
#include "codec/rotary_table.h"
#include "codec/testing/tiles.h"
#include "codec/testing/trace.h"
#include "gtest/gtest.h"

namespace kvstow::cpu {
namespace {

using ::kvstow::testing::OracleTile;
using ::kvstow::testing::Trace;

struct KernelsUnderTest {
  const char* name;
  const Kernels* (*get)();
};

class SpectrumTest : public ::testing::TestWithParam<KernelsUnderTest> {
 protected:
  void SetUp() override {
    if (GetParam().get() == nullptr) GTEST_SKIP() << "no " << GetParam().name << " here";
  }
  const Kernels& kernels() const { return *GetParam().get(); }
};
INSTANTIATE_TEST_SUITE_P(
    Cpu, SpectrumTest,
    ::testing::Values(KernelsUnderTest{"portable", [] { return &PortableKernels(); }},
                      KernelsUnderTest{"avx2",
                                       [] {
                                         return CpuCodec(CpuIsa::kAvx2) != nullptr ? &Avx2Kernels()
                                                                                   : nullptr;
                                       }}),
    [](const auto& info) { return info.param.name; });

// Heads side by side, as floats; RoPE undone as the encoder does it.
std::vector<float> TileOf(const Trace& trace, const OracleTile& o, const Kernels& kernels) {
  const bool k = o.plane != "v";
  const size_t d = size_t{Trace::kDim} * o.heads;
  std::vector<float> out(o.tokens * d);
  for (uint32_t h = 0; h < o.heads; ++h) {
    const auto rows = trace.Rows(k, o.layer, o.head + h, o.first_token, o.tokens);
    const auto values = testing::FromElements(rows, DType::kFp16);
    for (size_t t = 0; t < o.tokens; ++t) {
      for (size_t c = 0; c < Trace::kDim; ++c) {
        out[t * d + h * Trace::kDim + c] = static_cast<float>(values[t * Trace::kDim + c]);
      }
    }
  }
  if (o.plane == "k_undone") {
    const RotaryTable table(RotaryOffsets(trace.rotary(), o.tokens), o.first_token);
    kernels.unrotate({table.cos(), table.sin(), table.pairs(), table.offset(), 0}, o.tokens,
                     static_cast<uint32_t>(d), out.data());
  }
  return out;
}

void ExpectOracle(const OracleTile& o, const std::vector<float>& tile, const Kernels& kernels) {
  SCOPED_TRACE(o.plane + " layer " + std::to_string(o.layer) + " tokens " +
               std::to_string(o.first_token) + "+" + std::to_string(o.tokens));
  Spectrum spectrum(kernels);
  spectrum.Analyse(tile.data(), o.tokens, Trace::kDim * o.heads);
  EXPECT_EQ(spectrum.edge().k, o.k);
  EXPECT_NEAR(spectrum.edge().edge / o.edge, 1, 1e-3);
  if (o.margin < 2e-3) return;
  ASSERT_EQ(spectrum.rank(), o.rank);
  std::vector<ShrunkValue> shrunk(o.rank);
  ShrinkValues(spectrum.lambda(), spectrum.edge(), spectrum.beta(), shrunk);
  for (uint32_t i = 0; i < o.rank; ++i) {
    EXPECT_NEAR(spectrum.singular_value(i) / o.singular[i], 1, 1e-4) << i;
    EXPECT_NEAR(shrunk[i].phi / o.shrunk[i], 1, 1e-3) << i;
    EXPECT_NEAR(shrunk[i].strength / o.overlaps[3 * i], 1, 1e-3) << i;
    EXPECT_NEAR(shrunk[i].overlap_short / o.overlaps[3 * i + 1], 1, 2e-3) << i;
    EXPECT_NEAR(shrunk[i].overlap_long / o.overlaps[3 * i + 2], 1, 2e-3) << i;
  }
  double energy = 0;
  for (float x : tile) energy += double{x} * x;
  double left = energy;
  for (uint32_t i = 0; i < o.rank; ++i) left -= std::pow(spectrum.singular_value(i), 2);
  EXPECT_NEAR(energy / o.energy, 1, 1e-5);
  EXPECT_NEAR(left / o.energy_left, 1, 1e-3);
}

TEST_P(SpectrumTest, AgreesWithTheOracleOnRealTiles) {
  std::string why;
  const Trace* full = Trace::Full(&why);
  const Trace& trace = full != nullptr ? *full : Trace::Cut();
  int seen = 0;
  for (const OracleTile& o : testing::ReadOracle()) {
    if (!trace.Has(o.layer)) continue;
    ExpectOracle(o, TileOf(trace, o, kernels()), kernels());
    ++seen;
  }
  EXPECT_GE(seen, 24);
}

struct Draw {
  double strength = 0, phi = 0, rank = 0;
};

// Mean over draws of one spike on white noise of standard deviation 1/sqrt(n).
Draw MeanOfDraws(const Kernels& kernels, uint32_t n, uint32_t d, double spike) {
  constexpr int kDraws = 60;
  Spectrum spectrum(kernels);
  std::mt19937_64 random(1234);
  std::normal_distribution<double> normal;
  Draw mean;
  for (int draw = 0; draw < kDraws; ++draw) {
    std::vector<double> u(n), v(d);
    for (double& x : u) x = normal(random);
    for (double& x : v) x = normal(random);
    double uu = 0, vv = 0;
    for (double x : u) uu += x * x;
    for (double x : v) vv += x * x;
    std::vector<float> tile(size_t{n} * d);
    // Noise of singular values below 1 + sqrt(beta): scaled by the longer side.
    const double sigma = 1 / std::sqrt(static_cast<double>(std::max(n, d)));
    for (size_t i = 0; i < tile.size(); ++i) {
      tile[i] = static_cast<float>(normal(random) * sigma +
                                   spike * u[i / d] * v[i % d] / std::sqrt(uu * vv));
    }
    spectrum.Analyse(tile.data(), n, d);
    EXPECT_GE(spectrum.rank(), 1u);
    std::vector<ShrunkValue> shrunk(std::max(1u, spectrum.rank()));
    ShrinkValues(spectrum.lambda(), spectrum.edge(), spectrum.beta(), shrunk);
    mean.strength += shrunk[0].strength / kDraws;
    mean.phi += shrunk[0].phi / kDraws;
    mean.rank += static_cast<double>(spectrum.rank()) / kDraws;
  }
  return mean;
}

TEST_P(SpectrumTest, ShrinksSpikesOnWhiteNoise) {
  const struct {
    double spike, strength, square, wide;
  } cases[] = {{2.2, 2.229, 1.799, 1.88},
               {3, 2.990, 2.665, 2.76},
               {6, 6.009, 5.846, 5.88},
               {10, 10.015, 9.918, 9.93}};
  for (const auto& c : cases) {
    const Draw square = MeanOfDraws(kernels(), 128, 128, c.spike);
    EXPECT_NEAR(square.strength, c.strength, 0.05);
    EXPECT_NEAR(square.phi, c.square, 0.05);
    EXPECT_NEAR(MeanOfDraws(kernels(), 128, 256, c.spike).phi, c.wide, 0.05) << c.spike;
    EXPECT_NEAR(MeanOfDraws(kernels(), 256, 128, c.spike).phi, c.wide, 0.05) << c.spike;
  }
}

// Squared singular values in double, by one-sided Jacobi rotations.
std::vector<double> ReferenceSpectrum(const std::vector<double>& tile, size_t n, size_t d) {
  std::vector<double> a = tile;  // columns are made orthogonal
  for (int sweep = 0; sweep < 14; ++sweep) {
    for (size_t i = 0; i < d; ++i) {
      for (size_t j = i + 1; j < d; ++j) {
        double ii = 0, jj = 0, ij = 0;
        for (size_t t = 0; t < n; ++t) {
          ii += a[i * n + t] * a[i * n + t];
          jj += a[j * n + t] * a[j * n + t];
          ij += a[i * n + t] * a[j * n + t];
        }
        if (std::abs(ij) <= 1e-15 * std::sqrt(ii * jj)) continue;
        const double zeta = (jj - ii) / (2 * ij);
        const double tangent = std::copysign(1 / (std::abs(zeta) + std::hypot(1, zeta)), zeta);
        const double cosine = 1 / std::hypot(1, tangent);
        for (size_t t = 0; t < n; ++t) {
          const double x = a[i * n + t], y = a[j * n + t];
          a[i * n + t] = cosine * (x - tangent * y);
          a[j * n + t] = cosine * (tangent * x + y);
        }
      }
    }
  }
  std::vector<double> lambda(d);
  for (size_t i = 0; i < d; ++i) {
    for (size_t t = 0; t < n; ++t) lambda[i] += a[i * n + t] * a[i * n + t];
  }
  std::sort(lambda.begin(), lambda.end(), std::greater<>());
  return lambda;
}

void ExpectEdge(const Kernels& kernels, const std::vector<double>& tile, const char* what) {
  constexpr size_t kSize = 128;
  std::vector<double> columns(tile.size());
  std::vector<float> narrow(tile.begin(), tile.end());
  for (size_t i = 0; i < kSize * kSize; ++i) {
    columns[i % kSize * kSize + i / kSize] = narrow[i];
  }
  const BulkEdge truth = FindBulkEdge(ReferenceSpectrum(columns, kSize, kSize));
  Spectrum spectrum(kernels);
  spectrum.Analyse(narrow.data(), kSize, kSize);
  EXPECT_NEAR(spectrum.edge().edge / truth.edge, 1, 1e-3) << what;
  if (truth.margin > 2e-3) {
    EXPECT_EQ(spectrum.rank(), truth.rank) << what;
  }
}

TEST_P(SpectrumTest, DominantDirectionsDoNotSpoilTheEdge) {
  const auto base = testing::ContextTile({128, 128, DType::kFp32}, 3, 21).values;
  const auto changed = [&](auto change) {
    std::vector<double> tile = base;
    for (size_t i = 0; i < tile.size(); ++i) tile[i] = change(tile[i], i / 128, i % 128);
    return tile;
  };
  ExpectEdge(kernels(), base, "nothing dominant");
  for (double factor : {30.0, 100.0}) {
    ExpectEdge(kernels(), changed([&](double x, size_t, size_t c) { return x + factor * base[c]; }),
               "mean direction");
  }
  ExpectEdge(kernels(), changed([](double x, size_t, size_t c) { return c == 17 ? x + 180 : x; }),
             "channel 180:1");
  ExpectEdge(kernels(), changed([](double x, size_t t, size_t) { return t == 0 ? 1000 * x : x; }),
             "sink x1000");
  ExpectEdge(kernels(), changed([](double x, size_t t, size_t c) {
               return (t == 0 ? 300 * x : x) + (c == 5 ? 180 : 0) + (c == 90 ? 60 : 0);
             }),
             "several");
}

TEST_P(SpectrumTest, VectorsAreOrthonormalAndSolveTheProblem) {
  for (auto [n, d] : {std::pair{128u, 64u}, {128u, 128u}, {128u, 576u}, {512u, 128u}}) {
    const auto tile = testing::ContextTile({n, d, DType::kFp32}, 6, n + d);
    const std::vector<float> x(tile.values.begin(), tile.values.end());
    Spectrum spectrum(kernels());
    spectrum.Analyse(x.data(), n, d);
    ASSERT_EQ(spectrum.rank(), 6u);
    for (uint32_t i = 0; i < 6; ++i) {
      for (uint32_t j = 0; j < 6; ++j) {
        EXPECT_NEAR(kernels().dot(spectrum.v(i).data(), spectrum.v(j).data(), d), i == j, 1e-3);
        EXPECT_NEAR(kernels().dot(spectrum.u(i).data(), spectrum.u(j).data(), n), i == j, 1e-3);
      }
      // X v = s u and X^T u = s v.
      double wrong = 0;
      for (size_t t = 0; t < n; ++t) {
        const double product = kernels().dot(&x[t * d], spectrum.v(i).data(), d);
        wrong += std::pow(product - spectrum.singular_value(i) * spectrum.u(i)[t], 2);
      }
      for (size_t c = 0; c < d; ++c) {
        double product = 0;
        for (size_t t = 0; t < n; ++t) product += double{x[t * d + c]} * spectrum.u(i)[t];
        wrong += std::pow(product - spectrum.singular_value(i) * spectrum.v(i)[c], 2);
      }
      EXPECT_LT(std::sqrt(wrong) / spectrum.singular_value(i), 2e-3) << n << "x" << d;
    }
  }
}

TEST_P(SpectrumTest, RankDeficientTilesAreNotShrunk) {
  Spectrum spectrum(kernels());
  for (const auto& [name, tile] : testing::AdversarialTiles({128, 128, DType::kFp32})) {
    const std::vector<float> x(tile.values.begin(), tile.values.end());
    if (name == "tiny" || name == "least subnormal" || name == "largest" ||
        name == "near the limit") {
      continue;  // the encoder scales these first
    }
    SCOPED_TRACE(name);
    spectrum.Analyse(x.data(), 128, 128);
    if (name == "zeros") {
      EXPECT_EQ(spectrum.rank(), 0u);
    }
    if (name == "constant" || name == "equal rows" || name == "rank one" || name == "one element") {
      EXPECT_TRUE(spectrum.edge().deficient);
      EXPECT_EQ(spectrum.rank(), 1u);
    }
    if (name == "duplicated tokens") {
      EXPECT_EQ(spectrum.rank(), 4u);
    }
  }
}

// White noise of known size: the bulk edge law of Marchenko and Pastur.
TEST(Shrinkage, ClosedFormOnAQuarterCircle) {
  // Spectrum of 4096 points of the square Marchenko-Pastur law on [0, 4], by its quantiles.
  constexpr int kPoints = 512;
  std::vector<double> lambda(kPoints);
  for (int i = 0; i < kPoints; ++i) {
    // Singular values follow the quarter circle law: F(s) = (s sqrt(4 - s^2) / 2 + 2 asin(s/2)) /
    // pi.
    const double target = 1 - (i + 0.5) / kPoints;
    double low = 0, high = 2;
    for (int step = 0; step < 60; ++step) {
      const double s = (low + high) / 2;
      const double below = (s * std::sqrt(4 - s * s) / 2 + 2 * std::asin(s / 2)) / M_PI;
      (below < target ? low : high) = s;
    }
    lambda[i] = low * low;
  }
  for (double spike : {3.0, 6.0}) {
    std::vector<double> spiked = lambda;
    const double y = std::sqrt((1 + spike * spike) * (1 + 1 / (spike * spike)));
    spiked.insert(spiked.begin(), y * y);
    spiked.pop_back();
    const BulkEdge edge = FindBulkEdge(spiked);
    ASSERT_EQ(edge.rank, 1u);
    std::vector<ShrunkValue> shrunk(1);
    ShrinkValues(spiked, edge, 1, shrunk);
    const double expected = std::sqrt((y * y - 2) * (y * y - 2) - 4) / y;
    EXPECT_NEAR(shrunk[0].phi / expected, 1, 5e-3);
    EXPECT_NEAR(shrunk[0].strength / spike, 1, 5e-3);
  }
}

TEST(Shrinkage, BulkIndexOfEverySize) {
  EXPECT_EQ(BulkIndex(64), 7u);
  EXPECT_EQ(BulkIndex(128), 11u);
  EXPECT_EQ(BulkIndex(256), 15u);
  EXPECT_EQ(BulkIndex(512), kMaxBulkIndex);
}

}  // namespace
}  // namespace kvstow::cpu
