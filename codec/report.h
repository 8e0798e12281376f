// What a reconstruction cost: sums that pool exactly, and the ratios made of them (docs/format.md,
// "Quality"). Errors are measured on what the decoder gives back, rounded and saturated, never
// estimated.
#pragma once

#include <cstdint>

namespace kvstow {

// Sums over one tile, or pooled over any number of tiles of one kind. Plain data.
struct ErrorSums {
  double energy = 0;          // sum x^2
  double error = 0;           // sum (x^ - x)^2
  double centred_energy = 0;  // channel means (over the tile's tokens) removed
  double centred_error = 0;   // channel means removed from both
  double inner_product = 0;   // sum <x^, x> over rows

  ErrorSums& operator+=(const ErrorSums& o);
  // 0 where the energy is 0 and the error is 0.
  double nmse() const;
  double centred_nmse() const;
  // Mean over random unit q of the slope of <q,x^> on <q,x>, less 1. For q uniform on the sphere
  // E[<q,x^><q,x>] = <x^,x>/d, so the mean is exact and needs no random numbers.
  double inner_product_bias() const;
};

struct TileReport {
  ErrorSums sums;
  uint32_t rank = 0;
  uint32_t bits = 0;
  bool raw = false;  // kept raw by the encoder though a coded form was asked for
  bool has_means = false;
};

// K-like or V planes of anything: a plane, a record, a Put, the daemon's life.
struct QualityReport {
  ErrorSums sums;         // over finite tiles
  double worst_nmse = 0;  // of one tile
  double worst_centred_nmse = 0;
  uint64_t tiles = 0;
  uint64_t tiles_raw = 0;
  uint64_t rank_sum = 0;  // over coded tiles
  uint32_t rank_max = 0;
  uint64_t entries = 0;
  uint64_t bytes = 0;  // stored bytes of the planes, tables and padding included

  void Add(const TileReport& tile);
  void Merge(const QualityReport& other);
  double rank_mean() const;
  double bits_per_entry() const;
};

}  // namespace kvstow
