// 4-bit codes for the factors of the low-rank part: an adaptive codebook of 16 levels for U and one
// for V of a tile, each level an 8-bit entry standing for entry / 128.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace kvstow {

// Not thread-safe; reuses its memory.
class FactorQuantiser {
 public:
  // Lloyd's algorithm on `components` vectors of `length` values each, component by component,
  // weighted by weights[component]. Scale of the values is free: the caller's phi absorbs it, so
  // they are stretched until the largest fills the codebook. Empty cells keep their level.
  void Fit(std::span<const float> values, uint32_t components, std::span<const double> weights);

  // A uniform codebook over the values' range instead: the open-loop baseline.
  void FitUniform(std::span<const float> values);

  const std::array<int8_t, 16>& levels() const { return levels_; }
  // What the values were multiplied by.
  float stretch() const { return stretch_; }

  // Codes of the fitted values, two a byte, the low nibble first; out holds size / 2 bytes.
  void Pack(std::span<const float> values, uint8_t* out) const;

 private:
  // Edges of bins are where midpoints between 8-bit levels can lie.
  static constexpr int kBins = 512;
  using Levels = std::array<double, 16>;

  int BinOf(float value) const;
  void MakeStretch(std::span<const float> values);
  void MakeCodes();
  void FillHistogram(std::span<const float> values, uint32_t components,
                     std::span<const double> weights);
  // Improves the levels in place; returns the sum of weighted squares they explain.
  double Iterate(Levels* levels) const;

  std::array<int8_t, 16> levels_{};
  std::array<uint8_t, kBins> code_of_bin_{};
  float stretch_ = 0;
  // Sums over bins below.
  std::array<double, kBins + 1> weight_{}, moment_{};
};

}  // namespace kvstow
