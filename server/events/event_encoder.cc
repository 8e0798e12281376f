#include "server/events/event_encoder.h"

#include <bit>
#include <msgpack.hpp>

#include "absl/strings/string_view.h"

namespace kvstow {
namespace {

class Encoder {
 public:
  explicit Encoder(const EventFormat& format) : format_(format) {}

  std::string Encode(const EventBatch& batch, double ts) {
    packer_.pack_array(3);
    Float(ts);
    packer_.pack_array(static_cast<uint32_t>(batch.events().size()));
    for (const KvEvent& event : batch.events()) Event(event);
    packer_.pack_uint32(format_.dp_rank);
    return {buffer_.data(), buffer_.size()};
  }

 private:
  void Event(const KvEvent& event) {
    switch (event.kind) {
      case KvEvent::Kind::kStored:
        Begin("BlockStored", 7);
        Name("block_hashes");
        Hashes(event.blocks);
        Name("parent_block_hash");
        event.has_parent ? Hash(event.parent) : Nil();
        Name("token_ids");
        Numbers(event.token_ids);
        Name("block_size");
        packer_.pack_uint32(event.block_tokens);
        Name("lora_id");
        Nil();
        Name("medium");
        Text(event.medium);
        Name("lora_name");
        Nil();
        return;
      case KvEvent::Kind::kRemoved:
        Begin("BlockRemoved", 2);
        Name("block_hashes");
        Hashes(event.blocks);
        Name("medium");
        Text(event.medium);
        return;
      case KvEvent::Kind::kAllCleared:
        Begin("AllBlocksCleared", 0);
        return;
    }
  }

  bool is_map() const { return format_.form == EventFormat::Form::kMap; }

  void Begin(absl::string_view type, uint32_t fields) {
    if (is_map()) {
      packer_.pack_map(fields + 1);
    } else {
      packer_.pack_array(fields + 1);
    }
    Name("type");
    Text(type);
  }
  void Name(absl::string_view field) {
    if (is_map()) Text(field);
  }
  // Not pack_double: it writes a whole number as an integer, which not every reader takes for a
  // float.
  void Float(double value) {
    constexpr char kFloat64 = static_cast<char>(0xcb);
    buffer_.write(&kFloat64, 1);
    const std::string bytes = EncodeSequence(std::bit_cast<uint64_t>(value));
    buffer_.write(bytes.data(), bytes.size());
  }
  void Nil() { packer_.pack_nil(); }
  void Text(absl::string_view text) {
    packer_.pack_str(static_cast<uint32_t>(text.size()));
    packer_.pack_str_body(text.data(), static_cast<uint32_t>(text.size()));
  }
  void Numbers(const std::vector<uint32_t>& numbers) {
    packer_.pack_array(static_cast<uint32_t>(numbers.size()));
    for (uint32_t n : numbers) packer_.pack_uint32(n);
  }
  void Hashes(const std::vector<BlockKey>& keys) {
    packer_.pack_array(static_cast<uint32_t>(keys.size()));
    for (const BlockKey& key : keys) Hash(key);
  }
  void Hash(const BlockKey& key) {
    if (format_.hash == EventFormat::Hash::kBytes) {
      packer_.pack_bin(static_cast<uint32_t>(key.size()));
      packer_.pack_bin_body(reinterpret_cast<const char*>(key.data()),
                            static_cast<uint32_t>(key.size()));
      return;
    }
    uint64_t integer = 0;
    for (size_t i = key.size() - sizeof(integer); i < key.size(); ++i) {
      integer = integer << 8 | key[i];
    }
    packer_.pack_uint64(integer);
  }

  const EventFormat& format_;
  msgpack::sbuffer buffer_;
  msgpack::packer<msgpack::sbuffer> packer_{buffer_};
};

}  // namespace

std::string Encode(const EventBatch& batch, const EventFormat& format, double ts) {
  return Encoder(format).Encode(batch, ts);
}

std::string EncodeSequence(uint64_t sequence) {
  std::string bytes(sizeof(sequence), '\0');
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>(sequence >> (8 * (bytes.size() - 1 - i)));
  }
  return bytes;
}

}  // namespace kvstow
