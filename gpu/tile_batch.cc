#include "gpu/tile_batch.h"

#include <algorithm>
#include <cmath>

#include "codec/residual_codebook.h"
#include "codec/residual_rotation.h"
#include "codec/shrinkage.h"
#include "gpu/carver.h"
#include "gpu/cuda_status.h"
#include "gpu/encode_batch.h"
#include "gpu/kernels.h"

namespace kvstow::gpu {
namespace {

constexpr uint32_t kMaxBits = 4;

absl::Status CheckShape(const TileShape& shape) {
  if (!IsValid(shape.dtype) || !IsSupportedDim(shape.dim) ||
      !IsSupportedBlockTokens(shape.tokens)) {
    return absl::InvalidArgumentError("no codec for tiles of this shape");
  }
  return absl::OkStatus();
}

absl::Status Spectrum(const EncodeBatch& batch, cudaStream_t stream) {
  for (uint32_t round = 0; round < kMaxDeflationRounds; ++round) {
    KVSTOW_CUDA_RETURN_IF_ERROR(LaunchTridiagonalise(batch, round, stream));
    KVSTOW_CUDA_RETURN_IF_ERROR(LaunchEigen(batch, round, stream));
    if (round + 1 < kMaxDeflationRounds) {
      KVSTOW_CUDA_RETURN_IF_ERROR(LaunchDeflate(batch, round, stream));
    }
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(LaunchFactors(batch, stream));
  return absl::OkStatus();
}

}  // namespace

RotaryShape ShapeOfRotary(const RotaryTable& table) {
  return {table.pairs(), table.offset(),
          table.pairing() == RotaryEmbedding::Pairing::kInterleaved ? 1u : 0u};
}

TileTables TablesOf(uint32_t dim) {
  TileTables tables = {};
  for (uint32_t bits = 1; bits <= kMaxBits; ++bits) {
    const ResidualCodebook& book = ResidualCodebookFor(dim, bits);
    std::copy(book.levels.begin(), book.levels.end(), tables.levels[bits - 1]);
    std::copy(book.thresholds.begin(), book.thresholds.end(), tables.thresholds[bits - 1]);
  }
  const auto& dct = ResidualRotationFor(dim).dct;
  std::copy(dct.begin(), dct.end(), tables.dct);
  return tables;
}

EncodeBatch PlanEncode(const EncodeSettings& settings, uint32_t tiles, void* scratch,
                       size_t* bytes) {
  const TileShape& shape = settings.shape;
  const TileEncodeOptions& options = settings.options;
  EncodeBatch b = {};
  b.n = shape.tokens;
  b.d = shape.dim;
  b.dtype = static_cast<uint32_t>(shape.dtype);
  b.element_bytes = static_cast<uint32_t>(SizeOf(shape.dtype));
  b.p = std::min(b.n, b.d);
  b.q = std::max(b.n, b.d);
  b.tokens_short = b.n <= b.d ? 1 : 0;
  b.k = BulkIndex(b.p);
  b.leading = (options.shrinker == Shrinker::kOptimal ? 3 : 2) * b.k + 1;
  b.max_body = static_cast<uint32_t>(MaxTileBodyBytes(shape));
  b.bits = options.bits;
  b.optimal = options.shrinker == Shrinker::kOptimal ? 1 : 0;
  b.closed_loop = options.closed_loop ? 1 : 0;
  b.key_like = options.key_like ? 1 : 0;
  b.eoptshrinkq = options.codec == CodecId::kEOptShrinkQ ? 1 : 0;
  b.raw = options.codec == CodecId::kRaw ? 1 : 0;
  b.bound = options.max_relative_error;
  b.edge_law = std::pow(2.0, 2.0 / 3.0) - 1;
  b.rank_threshold = std::pow(static_cast<double>(b.p), -1.0 / 3.0);
  for (uint32_t j = 1; j <= b.k; ++j) {
    b.law[j - 1] = 1 - std::pow(static_cast<double>(j) / b.k, 2.0 / 3.0);
  }
  b.rotary = settings.rotary;
  b.tables = TablesOf(b.d);
  b.tiles = tiles;
  // Keys may want a second slot each.
  b.max_slots = b.key_like != 0 && b.eoptshrinkq != 0 ? 2 * tiles : tiles;
  b.factor_bytes = (kMaxVectors * (b.n + b.d) / 2 + 32 + 2 * kMaxVectors + 15) / 16 * 16;

  const size_t slots = b.max_slots;
  const size_t entries = shape.entries();
  Carver carver(scratch);
  b.slots = carver.Take<Slot>(slots);
  b.counters = carver.Take<uint32_t>(1 + kMaxDeflationRounds);
  b.pending = carver.Take<uint32_t>(slots * kMaxDeflationRounds);
  if (b.raw == 0) {
    b.x = carver.Take<float>(slots * entries);
    b.means = carver.Take<uint16_t>(slots * b.d);
    b.body = carver.Take<uint8_t>(slots * b.max_body);
    if (!ChecksWhole(b)) b.decoded = carver.Take<uint8_t>(slots * shape.bytes());
    b.check = carver.Take<DecodeTile>(slots);
  }
  if (b.eoptshrinkq != 0) {
    b.deflated = carver.Take<float>(slots * entries);
    b.gram = carver.Take<float>(slots * b.p * b.p);
    b.tri = carver.Take<float>(slots * 3 * b.p);
    b.lambda = carver.Take<double>(slots * 2 * b.p);
    b.solve = carver.Take<double>(slots * 4 * b.p);
    b.shorts = carver.Take<float>(slots * kMaxVectors * b.p);
    b.longs = carver.Take<float>(slots * kMaxVectors * b.q);
    b.u = carver.Take<float>(slots * kMaxVectors * b.n);
    b.v = carver.Take<float>(slots * kMaxVectors * b.d);
    b.factors = carver.Take<uint8_t>(slots * b.factor_bytes);
  }
  *bytes = carver.used();
  return b;
}

size_t EncodeScratchBytes(const EncodeSettings& settings, uint32_t tiles) {
  size_t bytes = 0;
  PlanEncode(settings, tiles, nullptr, &bytes);
  return bytes;
}

absl::Status EncodeTiles(const EncodeSettings& settings, const EncodeTile* tiles, uint32_t count,
                         EncodeResult* results, ChecksumRange* ranges, void* scratch,
                         size_t scratch_bytes, cudaStream_t stream) {
  if (auto s = CheckShape(settings.shape); !s.ok()) return s;
  const TileEncodeOptions& options = settings.options;
  if (options.bits < 1 || options.bits > kMaxBits || options.codec > CodecId::kEOptShrinkQ) {
    return absl::InvalidArgumentError("unknown codec or bits");
  }
  if (count == 0) return absl::OkStatus();
  size_t needed = 0;
  EncodeBatch batch = PlanEncode(settings, count, scratch, &needed);
  if (scratch == nullptr || scratch_bytes < needed) {
    return absl::InvalidArgumentError("too little scratch");
  }
  batch.jobs = tiles;
  batch.results = results;
  batch.ranges = ranges;
  KVSTOW_CUDA_RETURN_IF_ERROR(LaunchPrepare(batch, stream));
  if (batch.eoptshrinkq != 0) {
    if (auto s = Spectrum(batch, stream); !s.ok()) return s;
  }
  if (batch.raw != 0) {
    KVSTOW_CUDA_RETURN_IF_ERROR(LaunchMeasure(batch, kMaxBits, stream));
  } else {
    // Without a bound the first try is kept.
    const uint32_t last = batch.bound > 0 ? kMaxBits : batch.bits;
    for (uint32_t bits = batch.bits; bits <= last; ++bits) {
      KVSTOW_CUDA_RETURN_IF_ERROR(LaunchResidual(batch, bits, stream));
      KVSTOW_CUDA_RETURN_IF_ERROR(LaunchCheck(batch, bits, stream));
    }
  }
  KVSTOW_CUDA_RETURN_IF_ERROR(LaunchChoose(batch, stream));
  return absl::OkStatus();
}

absl::Status DecodeTiles(const TileShape& shape, const RotaryShape& rotary, const DecodeTile* tiles,
                         uint32_t count, cudaStream_t stream) {
  if (auto s = CheckShape(shape); !s.ok()) return s;
  KVSTOW_CUDA_RETURN_IF_ERROR(LaunchDecode(tiles, count, shape.tokens, shape.dim,
                                           static_cast<uint32_t>(shape.dtype), rotary,
                                           TablesOf(shape.dim), stream));
  return absl::OkStatus();
}

absl::Status ChecksumRanges(const ChecksumRange* ranges, uint32_t count, uint64_t max_size,
                            uint32_t* crcs, cudaStream_t stream) {
  KVSTOW_CUDA_RETURN_IF_ERROR(LaunchChecksums(ranges, count, max_size, crcs, stream));
  return absl::OkStatus();
}

}  // namespace kvstow::gpu
