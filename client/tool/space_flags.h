// Flags that say which space and shard a command is about: a file with a kvstow.v1.SpaceSpec in
// protobuf text form, or its fields one by one.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "client/tool/flag_set.h"
#include "space/space_spec.h"

namespace kvstow::tool {

class SpaceFlags {
 public:
  // What of the layout the command already knows, from arrays say; flags override it.
  struct Known {
    std::optional<uint32_t> layers, shard_heads, k_dim, v_dim;
    std::optional<DType> dtype;
  };

  void Add(FlagSet* flags);

  // INVALID_ARGUMENT, written for people.
  absl::StatusOr<SpaceSpec> Spec(const Known& known) const;
  absl::StatusOr<Shard> MakeShard() const;

  std::string model;

 private:
  absl::StatusOr<SpaceSpec> FromFile() const;
  absl::Status CheckFileAlone() const;
  absl::Status FillGroup(const Known& known, LayerGroup* group) const;
  absl::StatusOr<std::optional<RotaryEmbedding>> Rotary() const;
  CodecSettings Codec() const;

  const FlagSet* flags_ = nullptr;  // where Add() declared them; tells which were given
  std::string file_;
  std::string revision_, key_scheme_;
  std::optional<uint32_t> layers_, kv_heads_, k_dim_, v_dim_;
  std::string dtype_;
  uint32_t window_ = 0, block_tokens_ = 128;
  std::string inv_freq_, pairing_ = "half";
  uint32_t rotary_offset_ = 0;
  std::string codec_ = "eoptshrinkq", shrinker_ = "truncate";
  uint32_t bits_ = 2;
  std::optional<uint32_t> k_bits_, v_bits_;
  bool keep_rotary_ = false, open_loop_ = false;
  double max_relative_error_ = 0;
  uint32_t shard_ = 0, tensor_rank_ = 0, tensor_size_ = 1, first_layer_ = 0, layer_count_ = 0;
  std::string expected_shards_;
};

// A file that --space takes. NOT_FOUND or UNAVAILABLE when it cannot be written.
absl::Status WriteSpace(const std::string& path, const SpaceSpec& spec);

}  // namespace kvstow::tool
