// The codec interface. Twins implement it (CPU here, CUDA in gpu/): same jobs, same bytes format,
// one conformance suite (codec/codec_conformance.h). A call takes any number of tiles by pointers
// and strides.
//
// Thread safety: a Codec is stateless or self-synchronised; calls may run concurrently on disjoint
// outputs. Every call is deterministic: the bytes of a tile depend on that tile and its options
// alone, not on the batch, the thread or the run.
//
// Memory that a codec keeps for the next call is overwritten before that call works for another
// owner than the last one did. Tiles of several owners may travel in one call: no tile's work reads
// what another's has written.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "codec/report.h"
#include "codec/rotary_table.h"
#include "codec/tile.h"
#include "space/plane_layout.h"
#include "space/space_spec.h"

namespace kvstow {

struct TileEncodeOptions {
  CodecId codec = CodecId::kEOptShrinkQ;
  uint32_t bits = 2;
  Shrinker shrinker = Shrinker::kTruncate;
  bool closed_loop = true;
  // Bounds centred NMSE where `key_like`, else NMSE. 0 for none.
  double max_relative_error = 0;
  bool key_like = false;
};
// The options that a space's settings mean for a plane.
TileEncodeOptions EncodeOptionsFor(const CodecSettings& settings, const PlaneSpec& plane);

struct TileEncodeJob {
  TileShape shape;
  const std::byte* values = nullptr;  // [tokens, dim], rows row_stride bytes apart
  size_t row_stride = 0;
  // Not null: undo this rotation before coding. Covers the tile's tokens.
  const RotaryTable* rotary = nullptr;
  TileEncodeOptions options;
  uint32_t owner = 0;  // whose tile it is, see Codec

  // Out. body has room for MaxTileBodyBytes(shape) and need not be aligned.
  std::byte* body = nullptr;
  TileHead head;
  TileReport report;
};

struct TileDecodeJob {
  TileShape shape;
  TileHead head;
  const std::byte* body = nullptr;  // TileBodyBytes(shape, head) bytes
  // Required where head.rotary_undone.
  const RotaryTable* rotary = nullptr;
  uint32_t owner = 0;  // whose tile it is, see Codec

  // Out. Every element is written, whatever the bytes of the body.
  std::byte* values = nullptr;  // [tokens, dim], rows row_stride bytes apart
  size_t row_stride = 0;
  bool read_at_once = false;  // by the thread that decodes: worth keeping in its caches
};

class Codec {
 public:
  virtual ~Codec() = default;

  // "cpu" or "cuda": the device label of metrics.
  virtual absl::string_view device() const = 0;
  // For people: "avx2", "portable", "NVIDIA H200 (sm_90)".
  virtual absl::string_view description() const = 0;

  // INVALID_ARGUMENT for a shape or options no codec handles; then no job was run. Non-finite
  // input is no error: such a tile is kept raw.
  virtual absl::Status Encode(std::span<TileEncodeJob> jobs) = 0;
  // INVALID_ARGUMENT as above, or a missing rotary table. Callers have checked the plane's
  // checksum; arbitrary bytes still decode to finite values and never to undefined behaviour.
  virtual absl::Status Decode(std::span<const TileDecodeJob> jobs) = 0;
};

// Instruction sets of the CPU codec.
enum class CpuIsa { kBest, kPortable, kAvx2 };
// Never null for kBest and kPortable; null where this machine lacks the instruction set.
// Lives as long as the process.
Codec* CpuCodec(CpuIsa isa = CpuIsa::kBest);

}  // namespace kvstow
