// What makes KV blocks interchangeable: the model, the layout of its cache, the block length and
// the codec settings. A SpaceSpec is hashed to a 32-byte fingerprint (fingerprint.h); two workers
// share blocks exactly when their fingerprints are equal.
//
// Plain data, no invariants of its own: Validate() says whether it describes something kvstow can
// hold.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "space/dtype.h"

namespace kvstow {

// How a block is coded. Values are part of the record format and the fingerprint.
enum class CodecId : uint8_t {
  kRaw = 0,          // bytes as they came, checksummed
  kTurboQuant = 1,   // stage 2 alone (arXiv 2504.19874)
  kEOptShrinkQ = 2,  // shared low-rank context taken off first (arXiv 2605.02905)
};

// What happens to the singular values of the low-rank part (codec/shrinkage.h).
enum class Shrinker : uint8_t {
  kOptimal = 0,   // Frobenius-optimal shrinkage, arXiv 2207.03466
  kTruncate = 1,  // keep them as they are
};

struct CodecSettings {
  CodecId codec = CodecId::kEOptShrinkQ;
  uint32_t k_bits = 2;  // bits a coordinate of the residual, 1..4; also used for latent planes
  uint32_t v_bits = 2;
  Shrinker shrinker = Shrinker::kTruncate;
  // Code the residual of what the decoder will see. Off only as a baseline for measurements.
  bool closed_loop = true;
  // Rotate keys back by their position before the spectrum is looked at, where the layer's rotary
  // embedding is declared.
  bool undo_rotary = true;
  // Upper bound on the error of each tile: NMSE for V, centred NMSE for K and latent. The encoder
  // raises the bits of a tile, and at last keeps it raw, until the measured error meets it.
  // 0 means no bound.
  double max_relative_error = 0;

  bool operator==(const CodecSettings&) const = default;
};

// Rotary position embedding as the model applies it to keys. Pair i is rotated by
// position * inverse_frequencies[i].
struct RotaryEmbedding {
  enum class Pairing : uint8_t {
    kHalf = 0,         // (i, i + m/2), the Hugging Face Llama convention
    kInterleaved = 1,  // (2i, 2i + 1), the GPT-J convention
  };
  std::vector<float> inverse_frequencies;  // m/2 of them, radians a token
  Pairing pairing = Pairing::kHalf;
  uint32_t offset = 0;  // first rotary coordinate of a head (MLA: 512)

  bool operator==(const RotaryEmbedding&) const = default;
  uint32_t dims() const { return 2 * static_cast<uint32_t>(inverse_frequencies.size()); }
};

// Layers that look alike.
struct LayerGroup {
  enum class Kind : uint8_t {
    kKv = 0,      // a K and a V plane a layer
    kLatent = 1,  // one plane a layer (multi-head latent attention), coded like K
    kOpaque = 2,  // one plane a layer of opaque_bytes bytes, kept raw
  };
  std::vector<uint32_t> layers;  // model layer numbers
  Kind kind = Kind::kKv;
  uint32_t kv_heads = 0;  // of the whole model, before sharding; 1 for latent, 0 for opaque
  uint32_t k_dim = 0;     // head dimension of K, or the width of a latent row
  uint32_t v_dim = 0;     // head dimension of V; 0 unless kKv
  DType dtype = DType::kFp16;
  std::optional<RotaryEmbedding> rotary;
  uint32_t window = 0;        // sliding window in tokens, 0 for full attention
  uint64_t opaque_bytes = 0;  // bytes of one block of one layer, kOpaque only

  bool operator==(const LayerGroup&) const = default;
};

struct ModelIdentity {
  std::string name;            // "meta-llama/Llama-3.1-8B"
  std::string revision;        // commit or version of the weights' repository
  std::string weights_digest;  // digest of the weights, any length, bytes

  bool operator==(const ModelIdentity&) const = default;
};

struct SpaceSpec {
  ModelIdentity model;
  std::vector<LayerGroup> groups;
  uint32_t block_tokens = 128;  // n
  CodecSettings codec;
  // Who makes the keys: empty for kvstow's own chain (fingerprint.h), else the engine's scheme and
  // seed.
  std::string key_scheme;

  bool operator==(const SpaceSpec&) const = default;
};

// The slice of every block that one worker holds, and the slices this daemon is to expect before a
// block becomes visible. Not part of the fingerprint: ranks of one model share keys.
struct Shard {
  uint32_t index = 0;
  std::vector<uint32_t> expected = {0};  // sorted, unique, contains index
  // Tensor parallelism: heads [tensor_rank, tensor_rank + 1) * kv_heads / tensor_size of each
  // group.
  uint32_t tensor_rank = 0;
  uint32_t tensor_size = 1;
  // Pipeline parallelism: model layers [first_layer, first_layer + layer_count); 0 means all.
  uint32_t first_layer = 0;
  uint32_t layer_count = 0;

  bool operator==(const Shard&) const = default;
};

// Largest things kvstow accepts. They bound what a client can make the daemon allocate.
inline constexpr uint32_t kMaxLayers = 1024;
inline constexpr uint32_t kMaxHeads = 1024;
inline constexpr uint32_t kMaxShards = 1024;
inline constexpr uint64_t kMaxPlaneBytes = uint64_t{64} << 20;
inline constexpr uint64_t kMaxBlockBytes = uint64_t{4} << 30;
inline constexpr uint32_t kMaxNameBytes = 1024;

// Head dimensions that the lossy codecs handle, and block lengths.
bool IsSupportedDim(uint32_t dim);
bool IsSupportedBlockTokens(uint32_t tokens);

// INVALID_ARGUMENT names the field, what was found and what is allowed.
absl::Status Validate(const SpaceSpec& spec);
absl::Status Validate(const Shard& shard, const SpaceSpec& spec);

absl::string_view Name(CodecId codec);

}  // namespace kvstow
