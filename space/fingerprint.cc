#include "space/fingerprint.h"

#include <bit>
#include <cstring>

#include "absl/strings/escaping.h"
#include "openssl/evp.h"

namespace kvstow {
namespace {

// SHA-256 over length-prefixed fields: u32 length, then the bytes. A field can neither run into the
// next nor be left out unnoticed. An EVP failure means the crypto library is unusable; there is no
// key to give back then, so it ends the process.
class FieldHasher {
 public:
  explicit FieldHasher(absl::string_view domain) : ctx_(EVP_MD_CTX_new()) {
    Check(ctx_ != nullptr && EVP_DigestInit_ex(ctx_, EVP_sha256(), nullptr) == 1);
    Bytes(domain);
  }
  ~FieldHasher() { EVP_MD_CTX_free(ctx_); }
  FieldHasher(const FieldHasher&) = delete;

  void Bytes(absl::string_view bytes) {
    Raw32(static_cast<uint32_t>(bytes.size()));
    Check(EVP_DigestUpdate(ctx_, bytes.data(), bytes.size()) == 1);
  }
  void Field(const Digest& d) { Bytes({reinterpret_cast<const char*>(d.data()), d.size()}); }
  void U32(uint32_t v) {
    Raw32(4);
    Raw32(v);
  }
  void U64(uint64_t v) {
    Raw32(8);
    Raw32(static_cast<uint32_t>(v));
    Raw32(static_cast<uint32_t>(v >> 32));
  }
  // One field of 4 bytes an element.
  void U32s(std::span<const uint32_t> values) {
    Raw32(static_cast<uint32_t>(values.size() * 4));
    if constexpr (std::endian::native == std::endian::little) {
      Check(EVP_DigestUpdate(ctx_, values.data(), values.size() * 4) == 1);
    } else {
      for (uint32_t v : values) Raw32(v);
    }
  }
  Digest Finish() {
    Digest out;
    Check(EVP_DigestFinal_ex(ctx_, out.data(), nullptr) == 1);
    return out;
  }

 private:
  static void Check(bool ok) {
    if (!ok) std::abort();
  }
  void Raw32(uint32_t v) {
    const unsigned char b[4] = {static_cast<unsigned char>(v), static_cast<unsigned char>(v >> 8),
                                static_cast<unsigned char>(v >> 16),
                                static_cast<unsigned char>(v >> 24)};
    Check(EVP_DigestUpdate(ctx_, b, 4) == 1);
  }

  EVP_MD_CTX* ctx_;
};

void AddGroup(const LayerGroup& g, FieldHasher* h) {
  h->U32s(g.layers);
  h->U32(static_cast<uint32_t>(g.kind));
  h->U32(g.kv_heads);
  h->U32(g.k_dim);
  h->U32(g.v_dim);
  h->U32(static_cast<uint32_t>(g.dtype));
  h->U32(g.rotary.has_value());
  if (g.rotary) {
    std::vector<uint32_t> bits;
    for (float f : g.rotary->inverse_frequencies) bits.push_back(std::bit_cast<uint32_t>(f));
    h->U32s(bits);
    h->U32(static_cast<uint32_t>(g.rotary->pairing));
    h->U32(g.rotary->offset);
  }
  h->U32(g.window);
  h->U64(g.opaque_bytes);
}

}  // namespace

Fingerprint FingerprintOf(const SpaceSpec& spec) {
  FieldHasher h("kvstow.space.v1");
  h.Bytes(spec.model.name);
  h.Bytes(spec.model.revision);
  h.Bytes(spec.model.weights_digest);
  h.U32(static_cast<uint32_t>(spec.groups.size()));
  for (const LayerGroup& g : spec.groups) AddGroup(g, &h);
  h.U32(spec.block_tokens);
  h.U32(static_cast<uint32_t>(spec.codec.codec));
  h.U32(spec.codec.k_bits);
  h.U32(spec.codec.v_bits);
  h.U32(static_cast<uint32_t>(spec.codec.shrinker));
  h.U32(spec.codec.closed_loop);
  h.U32(spec.codec.undo_rotary);
  h.U64(std::bit_cast<uint64_t>(spec.codec.max_relative_error));
  h.Bytes(spec.key_scheme);
  return h.Finish();
}

BlockKey RootKey(const Fingerprint& fingerprint, const PromptContext& context) {
  FieldHasher h("kvstow.root.v1");
  h.Field(fingerprint);
  h.Bytes(context.adapter_digest);
  h.Bytes(context.cache_salt);
  return h.Finish();
}

BlockKey NextKey(const BlockKey& parent, std::span<const uint32_t> tokens,
                 absl::string_view extra) {
  FieldHasher h("kvstow.block.v1");
  h.Field(parent);
  h.U32s(tokens);
  h.Bytes(extra);
  return h.Finish();
}

std::vector<BlockKey> KeysOf(const BlockKey& root, std::span<const uint32_t> tokens,
                             uint32_t block_tokens, std::span<const std::string> extras) {
  std::vector<BlockKey> keys(tokens.size() / block_tokens);
  const BlockKey* parent = &root;
  for (size_t i = 0; i < keys.size(); ++i) {
    keys[i] = NextKey(*parent, tokens.subspan(i * block_tokens, block_tokens),
                      i < extras.size() ? absl::string_view(extras[i]) : absl::string_view());
    parent = &keys[i];
  }
  return keys;
}

std::string Hex(const Digest& digest) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

std::string ShortHex(const Digest& digest) { return Hex(digest).substr(0, 8); }

}  // namespace kvstow
