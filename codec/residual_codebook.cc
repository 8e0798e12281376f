#include "codec/residual_codebook.h"

#include <cmath>
#include <iterator>

namespace kvstow {
namespace {

struct PositiveHalf {
  uint32_t dim;
  uint32_t bits;
  float distortion;
  float levels[8];  // times 1/sqrt(dim)
};

constexpr PositiveHalf kTable[] = {
    {64, 1, 0.35839f, {0.801007f}},
    {64, 2, 0.11453f, {0.452119f, 1.499975f}},
    {64, 3, 0.03339f, {0.243753f, 0.750658f, 1.329343f, 2.111311f}},
    {64,
     4,
     0.00913f,
     {0.127352f, 0.384718f, 0.650494f, 0.931894f, 1.239404f, 1.590849f, 2.023310f, 2.646370f}},
    {80, 1, 0.35939f, {0.800382f}},
    {80, 2, 0.11511f, {0.452254f, 1.502061f}},
    {80, 3, 0.03362f, {0.244022f, 0.751727f, 1.332239f, 2.119338f}},
    {80,
     4,
     0.00920f,
     {0.127560f, 0.385383f, 0.651742f, 0.933970f, 1.242739f, 1.596221f, 2.032299f, 2.663219f}},
    {96, 1, 0.36006f, {0.799965f}},
    {96, 2, 0.11551f, {0.452343f, 1.503453f}},
    {96, 3, 0.03377f, {0.244201f, 0.752439f, 1.334174f, 2.124716f}},
    {96,
     4,
     0.00925f,
     {0.127699f, 0.385826f, 0.652576f, 0.935358f, 1.244971f, 1.599822f, 2.038334f, 2.674560f}},
    {112, 1, 0.36053f, {0.799668f}},
    {112, 2, 0.11579f, {0.452406f, 1.504447f}},
    {112, 3, 0.03388f, {0.244329f, 0.752948f, 1.335559f, 2.128572f}},
    {112,
     4,
     0.00929f,
     {0.127799f, 0.386143f, 0.653172f, 0.936351f, 1.246569f, 1.602402f, 2.042666f, 2.682714f}},
    {128, 1, 0.36089f, {0.799444f}},
    {128, 2, 0.11600f, {0.452453f, 1.505193f}},
    {128, 3, 0.03397f, {0.244425f, 0.753330f, 1.336599f, 2.131471f}},
    {128,
     4,
     0.00931f,
     {0.127873f, 0.386381f, 0.653619f, 0.937097f, 1.247770f, 1.604343f, 2.045925f, 2.688859f}},
    {192, 1, 0.36172f, {0.798924f}},
    {192, 2, 0.11649f, {0.452563f, 1.506934f}},
    {192, 3, 0.03416f, {0.244648f, 0.754222f, 1.339030f, 2.138261f}},
    {192,
     4,
     0.00938f,
     {0.128047f, 0.386936f, 0.654664f, 0.938840f, 1.250580f, 1.608887f, 2.053569f, 2.703296f}},
    {256, 1, 0.36214f, {0.798664f}},
    {256, 2, 0.11674f, {0.452618f, 1.507805f}},
    {256, 3, 0.03426f, {0.244760f, 0.754667f, 1.340247f, 2.141669f}},
    {256,
     4,
     0.00941f,
     {0.128134f, 0.387214f, 0.655187f, 0.939714f, 1.251989f, 1.611168f, 2.057411f, 2.710567f}},
    {576, 1, 0.36283f, {0.798231f}},
    {576, 2, 0.11715f, {0.452708f, 1.509256f}},
    {576, 3, 0.03442f, {0.244946f, 0.755411f, 1.342280f, 2.147368f}},
    {576,
     4,
     0.00946f,
     {0.128279f, 0.387677f, 0.656060f, 0.941172f, 1.254343f, 1.614983f, 2.063844f, 2.722763f}},
};
constexpr size_t kCount = std::size(kTable);

ResidualCodebook Expand(const PositiveHalf& half) {
  ResidualCodebook book;
  book.bits = half.bits;
  book.distortion = half.distortion;
  const uint32_t positive = 1u << (half.bits - 1);
  const double scale = 1 / std::sqrt(static_cast<double>(half.dim));
  double levels[16];
  for (uint32_t i = 0; i < positive; ++i) {
    levels[positive + i] = half.levels[i] * scale;
    levels[positive - 1 - i] = -levels[positive + i];
  }
  for (uint32_t i = 0; i < 2 * positive; ++i) book.levels[i] = static_cast<float>(levels[i]);
  for (uint32_t i = 0; i + 1 < 2 * positive; ++i) {
    book.thresholds[i] = static_cast<float>((levels[i] + levels[i + 1]) / 2);
  }
  return book;
}

std::array<ResidualCodebook, kCount> ExpandAll() {
  std::array<ResidualCodebook, kCount> books;
  for (size_t i = 0; i < kCount; ++i) books[i] = Expand(kTable[i]);
  return books;
}

}  // namespace

const ResidualCodebook& ResidualCodebookFor(uint32_t dim, uint32_t bits) {
  static const std::array<ResidualCodebook, kCount> books = ExpandAll();
  size_t i = 0;
  while (i + 1 < kCount && (kTable[i].dim != dim || kTable[i].bits != bits)) ++i;
  return books[i];
}

}  // namespace kvstow
