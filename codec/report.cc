#include "codec/report.h"

#include <algorithm>
#include <limits>

namespace kvstow {
namespace {

double Ratio(double error, double energy) {
  if (error == 0) return 0;
  return energy > 0 ? error / energy : std::numeric_limits<double>::infinity();
}

}  // namespace

ErrorSums& ErrorSums::operator+=(const ErrorSums& o) {
  energy += o.energy;
  error += o.error;
  centred_energy += o.centred_energy;
  centred_error += o.centred_error;
  inner_product += o.inner_product;
  return *this;
}

double ErrorSums::nmse() const { return Ratio(error, energy); }

double ErrorSums::centred_nmse() const { return Ratio(centred_error, centred_energy); }

double ErrorSums::inner_product_bias() const { return energy > 0 ? inner_product / energy - 1 : 0; }

void QualityReport::Add(const TileReport& tile) {
  sums += tile.sums;
  worst_nmse = std::max(worst_nmse, tile.sums.nmse());
  worst_centred_nmse = std::max(worst_centred_nmse, tile.sums.centred_nmse());
  ++tiles;
  if (tile.raw) {
    ++tiles_raw;
  } else {
    rank_sum += tile.rank;
    rank_max = std::max(rank_max, tile.rank);
  }
}

void QualityReport::Merge(const QualityReport& other) {
  sums += other.sums;
  worst_nmse = std::max(worst_nmse, other.worst_nmse);
  worst_centred_nmse = std::max(worst_centred_nmse, other.worst_centred_nmse);
  tiles += other.tiles;
  tiles_raw += other.tiles_raw;
  rank_sum += other.rank_sum;
  rank_max = std::max(rank_max, other.rank_max);
  entries += other.entries;
  bytes += other.bytes;
}

double QualityReport::rank_mean() const {
  const uint64_t coded = tiles - tiles_raw;
  return coded > 0 ? static_cast<double>(rank_sum) / static_cast<double>(coded) : 0;
}

double QualityReport::bits_per_entry() const {
  return entries > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(entries) : 0;
}

}  // namespace kvstow
