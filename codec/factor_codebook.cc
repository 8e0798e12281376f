#include "codec/factor_codebook.h"

#include <algorithm>
#include <cmath>

namespace kvstow {
namespace {

constexpr int kIterations = 12;
// Lloyd-Max levels of a normal variable, where Lloyd's algorithm starts.
constexpr double kNormal[8] = {0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326};

int MidpointBin(double a, double b, int bins) {
  const int half = bins / 2;
  return std::clamp(static_cast<int>(std::lround((a + b) / 2 * half)) + half, 0, bins);
}

}  // namespace

int FactorQuantiser::BinOf(float value) const {
  constexpr int kHalf = kBins / 2;
  const int bin = static_cast<int>(value * stretch_ * kHalf + kHalf);
  return std::clamp(bin, 0, kBins - 1);
}

void FactorQuantiser::FillHistogram(std::span<const float> values, uint32_t components,
                                    std::span<const double> weights) {
  weight_.fill(0);
  moment_.fill(0);
  const size_t length = values.size() / components;
  for (size_t i = 0; i < components; ++i) {
    for (float v : values.subspan(i * length, length)) {
      const int bin = BinOf(v);
      weight_[bin + 1] += weights[i];
      moment_[bin + 1] += weights[i] * v * stretch_;
    }
  }
  for (int b = 0; b < kBins; ++b) {
    weight_[b + 1] += weight_[b];
    moment_[b + 1] += moment_[b];
  }
}

double FactorQuantiser::Iterate(Levels* levels) const {
  double explained = 0;
  for (int step = 0; step < kIterations; ++step) {
    explained = 0;
    int from = 0;
    for (int i = 0; i < 16; ++i) {
      const int to =
          i == 15 ? kBins : std::max(from, MidpointBin((*levels)[i], (*levels)[i + 1], kBins));
      const double weight = weight_[to] - weight_[from];
      const double moment = moment_[to] - moment_[from];
      if (weight > 0) {
        explained += moment * moment / weight;
        (*levels)[i] = moment / weight;
      }
      from = to;
    }
    std::sort(levels->begin(), levels->end());
  }
  return explained;
}

void FactorQuantiser::MakeStretch(std::span<const float> values) {
  float largest = 0;
  for (float v : values) largest = std::max(largest, std::abs(v));
  stretch_ = largest > 0 ? 127.0f / 128.0f / largest : 1.0f;
}

void FactorQuantiser::MakeCodes() {
  int code = 0;
  for (int b = 0; b < kBins; ++b) {
    // A bin's values lie above its lower edge, and so above the midpoints up to there.
    while (code < 15 && levels_[code] + levels_[code + 1] <= b - kBins / 2) ++code;
    code_of_bin_[b] = static_cast<uint8_t>(code);
  }
}

void FactorQuantiser::FitUniform(std::span<const float> values) {
  MakeStretch(values);
  for (int i = 0; i < 16; ++i) {
    levels_[i] = static_cast<int8_t>(std::lround(127.0 * (2 * i - 15) / 15));
  }
  MakeCodes();
}

void FactorQuantiser::Fit(std::span<const float> values, uint32_t components,
                          std::span<const double> weights) {
  MakeStretch(values);
  double squares = 0;
  for (float v : values) squares += double{v} * v;
  FillHistogram(values, components, weights);
  const double rms = std::sqrt(squares / static_cast<double>(values.size())) * stretch_;
  // A second start, denser around 0, for heavy tails.
  Levels normal, companded;
  for (int i = 0; i < 8; ++i) {
    const double x = (i + 0.5) / 8;
    normal[8 + i] = std::min(kNormal[i] * rms, 1.0);
    companded[8 + i] = x * x;
    normal[7 - i] = -normal[8 + i];
    companded[7 - i] = -companded[8 + i];
  }
  const Levels& best = Iterate(&normal) >= Iterate(&companded) ? normal : companded;
  for (int i = 0; i < 16; ++i) {
    levels_[i] = static_cast<int8_t>(std::clamp<long>(std::lround(best[i] * 128), -128, 127));
  }
  MakeCodes();
}

void FactorQuantiser::Pack(std::span<const float> values, uint8_t* out) const {
  for (size_t i = 0; i < values.size(); i += 2) {
    const uint8_t low = code_of_bin_[BinOf(values[i])];
    const uint8_t high = code_of_bin_[BinOf(values[i + 1])];
    out[i / 2] = static_cast<uint8_t>(low | high << 4);
  }
}

}  // namespace kvstow
