// The identity of a space and the keys of its blocks: SHA-256 over fields that are each
// length-prefixed, the same in every language and process. docs/keys.md is the normative
// description.
//
// All functions are pure and thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "space/space_spec.h"

namespace kvstow {

inline constexpr size_t kKeyBytes = 32;

// 32 opaque bytes: a space's fingerprint or a block's key.
using Digest = std::array<uint8_t, kKeyBytes>;
using Fingerprint = Digest;
using BlockKey = Digest;

// Every field of the spec, defaults included. Floats enter by their bits.
Fingerprint FingerprintOf(const SpaceSpec& spec);

// What else a prompt's KV depends on, besides model and tokens.
struct PromptContext {
  std::string adapter_digest;  // LoRA or other adapter; empty for none
  std::string cache_salt;      // keeps users of one space apart
};

// The key before the first block.
BlockKey RootKey(const Fingerprint& fingerprint, const PromptContext& context);

// The key of the block that follows `parent`. `extra` holds what token ids do not say: hashes of
// multimodal inputs with their offsets, digests of prompt embeddings.
BlockKey NextKey(const BlockKey& parent, std::span<const uint32_t> tokens, absl::string_view extra);

// Keys of all whole blocks of a prompt; the tail shorter than block_tokens has none.
// `extras` is empty or has one entry a whole block.
std::vector<BlockKey> KeysOf(const BlockKey& root, std::span<const uint32_t> tokens,
                             uint32_t block_tokens, std::span<const std::string> extras = {});

// First eight hex digits, for logs: a key is never printed in full there.
std::string ShortHex(const Digest& digest);
std::string Hex(const Digest& digest);

}  // namespace kvstow
