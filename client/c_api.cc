#include "client/kvstow/kvstow.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "client/kvstow/c_coder.h"
#include "client/kvstow/client.h"

using kvstow::BlockKey;

struct kvstow_client {
  std::unique_ptr<kvstow::Client> client;
};
struct kvstow_space {
  std::shared_ptr<kvstow::Space> space;
};

namespace {

static_assert(sizeof(kvstow_status) == 256);

std::string Str(const char* text) { return text == nullptr ? "" : text; }

// The fields that a caller knows, zeros for the others.
template <typename T>
T Known(const T* from) {
  T known{};
  if (from != nullptr) std::memcpy(&known, from, std::min(from->size, sizeof(T)));
  return known;
}

template <typename T>
void Fill(const T& from, T* to) {
  if (to == nullptr) return;
  const size_t size = std::min(to->size, sizeof(T));
  T sized = from;
  sized.size = to->size;
  std::memcpy(to, &sized, size);
}

void Tell(const absl::Status& from, kvstow_status* to) {
  if (to == nullptr) return;
  to->code = static_cast<int>(from.code());
  const size_t length = std::min(from.message().size(), sizeof(to->message) - 1);
  std::memcpy(to->message, from.message().data(), length);
  to->message[length] = 0;
}

template <typename Enum>
Enum OneBelow(int value, Enum otherwise) {
  return value == 0 ? otherwise : static_cast<Enum>(value - 1);
}

kvstow::LayerGroup GroupOf(const kvstow_group& in) {
  kvstow::LayerGroup group;
  if (in.layers != nullptr) group.layers.assign(in.layers, in.layers + in.layer_count);
  group.kind = OneBelow(in.kind, kvstow::LayerGroup::Kind::kKv);
  if (in.dtype != 0) group.dtype = static_cast<kvstow::DType>(in.dtype);
  group.kv_heads = in.kv_heads;
  group.k_dim = in.k_dim;
  group.v_dim = in.v_dim;
  group.window = in.window;
  group.opaque_bytes = in.opaque_bytes;
  if (in.inverse_frequencies == nullptr) return group;
  kvstow::RotaryEmbedding rotary;
  rotary.inverse_frequencies.assign(in.inverse_frequencies,
                                    in.inverse_frequencies + in.frequency_count);
  if (in.rotary_interleaved) rotary.pairing = kvstow::RotaryEmbedding::Pairing::kInterleaved;
  rotary.offset = in.rotary_offset;
  group.rotary = std::move(rotary);
  return group;
}

kvstow::SpaceSpec SpecOf(const kvstow_spec& in) {
  kvstow::SpaceSpec spec;
  spec.model.name = Str(in.model);
  spec.model.revision = Str(in.revision);
  if (in.weights_digest != nullptr) {
    spec.model.weights_digest.assign(static_cast<const char*>(in.weights_digest),
                                     in.weights_digest_bytes);
  }
  // The groups lie as far apart as the caller's idea of one is long.
  const auto* at = reinterpret_cast<const char*>(in.groups);
  for (size_t i = 0; i < in.group_count; ++i) {
    const auto* group = reinterpret_cast<const kvstow_group*>(at);
    spec.groups.push_back(GroupOf(Known(group)));
    at += group->size;
  }
  if (in.block_tokens != 0) spec.block_tokens = in.block_tokens;
  spec.codec.codec = OneBelow(in.codec, kvstow::CodecId::kEOptShrinkQ);
  if (in.k_bits != 0) spec.codec.k_bits = in.k_bits;
  if (in.v_bits != 0) spec.codec.v_bits = in.v_bits;
  spec.codec.max_relative_error = in.max_relative_error;
  spec.key_scheme = Str(in.key_scheme);
  return spec;
}

kvstow::Shard ShardOf(const kvstow_spec& in) {
  kvstow::Shard shard;
  shard.index = in.shard_index;
  shard.expected = {in.shard_index};
  if (in.expected_shards != nullptr) {
    shard.expected.assign(in.expected_shards, in.expected_shards + in.expected_shard_count);
  }
  shard.tensor_rank = in.tensor_rank;
  if (in.tensor_size != 0) shard.tensor_size = in.tensor_size;
  shard.first_layer = in.first_layer;
  shard.layer_count = in.layer_count;
  return shard;
}

// An enum's number from C, which Validate() of the spec cannot see.
absl::Status CheckNumbers(const kvstow_spec& in) {
  const auto bad = [](const char* field, int value) {
    return absl::InvalidArgumentError(std::string(field) + " has no value " +
                                      std::to_string(value));
  };
  if (in.groups == nullptr && in.group_count > 0) {
    return absl::InvalidArgumentError("groups is NULL");
  }
  if (in.codec < 0 || in.codec > KVSTOW_EOPTSHRINKQ) return bad("codec", in.codec);
  const auto* at = reinterpret_cast<const char*>(in.groups);
  for (size_t i = 0; i < in.group_count; ++i) {
    const auto* group = reinterpret_cast<const kvstow_group*>(at);
    if (group->size == 0) return absl::InvalidArgumentError("a group's size is not set");
    const kvstow_group known = Known(group);
    if (known.kind < 0 || known.kind > KVSTOW_OPAQUE) return bad("kind", known.kind);
    if (known.dtype < 0 || known.dtype > KVSTOW_FP32) return bad("dtype", known.dtype);
    at += group->size;
  }
  return absl::OkStatus();
}

kvstow_plane PlaneOf(const kvstow::PlaneSpec& in) {
  return {in.layer, static_cast<int>(in.kind), in.heads, in.tokens, in.dim, in.raw_bytes};
}

std::vector<BlockKey> KeysOf(const uint8_t* keys, size_t count) {
  std::vector<BlockKey> out(count);
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(out[i].data(), keys + i * kvstow::kKeyBytes, kvstow::kKeyBytes);
  }
  return out;
}

kvstow_put_result ResultOf(const kvstow::PutBlocksResult& in) {
  kvstow_put_result out{};
  out.stored = in.stored;
  out.existed = in.existed;
  out.sent_bytes = in.sent_bytes;
  out.record_bytes = in.record_bytes;
  out.k_nmse = in.k.nmse;
  out.v_nmse = in.v.nmse;
  out.k_bits_per_entry = in.k.bits_per_entry;
  out.v_bits_per_entry = in.v.bits_per_entry;
  out.path = static_cast<int>(in.path);
  return out;
}

}  // namespace

extern "C" {

kvstow_client* kvstow_client_create(const kvstow_options* options) {
  const kvstow_options in = Known(options);
  kvstow::ClientOptions out;
  if (in.target != nullptr) out.target = in.target;
  if (in.client_name != nullptr) out.client_name = in.client_name;
  out.security = {.ca_file = Str(in.ca_file),
                  .certificate_file = Str(in.certificate_file),
                  .key_file = Str(in.key_file),
                  .server_name = Str(in.server_name),
                  .token_file = Str(in.token_file)};
  out.prefill_tokens_per_second = in.prefill_tokens_per_second;
  if (in.coder != nullptr) out.coder = in.coder->coder;
  if (in.path >= KVSTOW_PATH_AUTO && in.path <= KVSTOW_PATH_SHM) {
    out.path = static_cast<kvstow::DataPath>(in.path);
  }
  const auto set = [](uint32_t ms, absl::Duration* to) {
    if (ms != 0) *to = absl::Milliseconds(ms);
  };
  set(in.connect_wait_ms, &out.connect_wait);
  set(in.lookup_deadline_ms, &out.lookup_deadline);
  set(in.get_deadline_ms, &out.get_deadline);
  set(in.put_deadline_ms, &out.put_deadline);
  try {  // out of memory or threads
    return new kvstow_client{kvstow::Client::Create(std::move(out))};
  } catch (const std::exception&) {
    return nullptr;
  }
}

void kvstow_coder_destroy(kvstow_coder* coder) { delete coder; }

void kvstow_client_destroy(kvstow_client* client) { delete client; }

kvstow_space* kvstow_space_open(kvstow_client* client, const kvstow_spec* spec,
                                kvstow_status* status) {
  const kvstow_spec in = Known(spec);
  absl::Status checked = CheckNumbers(in);
  if (!checked.ok()) {
    Tell(checked, status);
    return nullptr;
  }
  auto space = client->client->OpenSpace(SpecOf(in), ShardOf(in));
  Tell(space.status(), status);
  return space.ok() ? new (std::nothrow) kvstow_space{*std::move(space)} : nullptr;
}

void kvstow_space_destroy(kvstow_space* space) { delete space; }

void kvstow_space_fingerprint(const kvstow_space* space, uint8_t* fingerprint) {
  std::memcpy(fingerprint, space->space->fingerprint().data(), kvstow::kKeyBytes);
}

size_t kvstow_space_planes(const kvstow_space* space, kvstow_plane* planes, size_t capacity) {
  const auto& all = space->space->layout().planes();
  for (size_t i = 0; i < std::min(capacity, all.size()); ++i) planes[i] = PlaneOf(all[i]);
  return all.size();
}

size_t kvstow_keys(const kvstow_space* space, const uint32_t* tokens, size_t token_count,
                   const char* adapter_digest, const char* cache_salt, uint8_t* keys,
                   size_t capacity) {
  const auto all =
      space->space->Keys({tokens, token_count}, {Str(adapter_digest), Str(cache_salt)}, {});
  for (size_t i = 0; i < std::min(capacity, all.size()); ++i) {
    std::memcpy(keys + i * kvstow::kKeyBytes, all[i].data(), kvstow::kKeyBytes);
  }
  return all.size();
}

size_t kvstow_lookup(kvstow_space* space, const uint8_t* keys, size_t key_count, uint32_t ttl_ms,
                     uint32_t deadline_ms, uint64_t* lease, kvstow_status* status) {
  kvstow::LookupOptions options;
  options.ttl = absl::Milliseconds(ttl_ms);
  options.deadline = absl::Milliseconds(deadline_ms);
  const kvstow::Match match = space->space->Lookup(KeysOf(keys, key_count), options);
  if (lease != nullptr) *lease = match.lease;
  Tell(match.status, status);
  return match.blocks;
}

void kvstow_release(kvstow_client* client, uint64_t lease) { client->client->Release(lease); }

size_t kvstow_put(kvstow_space* space, const uint8_t* keys, size_t key_count, const uint8_t* parent,
                  uint64_t first_position, kvstow_fill fill, void* context, uint32_t deadline_ms,
                  kvstow_put_result* result, kvstow_status* status) {
  kvstow_put_request request{};
  request.size = sizeof(request);
  request.keys = keys;
  request.key_count = key_count;
  request.parent = parent;
  request.first_position = first_position;
  request.fill = fill;
  request.context = context;
  request.deadline_ms = deadline_ms;
  return kvstow_put_blocks(space, &request, result, status);
}

size_t kvstow_put_blocks(kvstow_space* space, const kvstow_put_request* from,
                         kvstow_put_result* result, kvstow_status* status) {
  const kvstow_put_request in = Known(from);
  kvstow::PutBlocksRequest request;
  request.keys = KeysOf(in.keys, in.key_count);
  if (in.parent != nullptr) request.parent = KeysOf(in.parent, 1)[0];
  request.first_position = in.first_position;
  request.deadline = absl::Milliseconds(in.deadline_ms);
  if (in.token_ids != nullptr) {
    request.token_ids.assign(in.token_ids, in.token_ids + in.token_count);
  }
  if (in.fill != nullptr) {
    request.fill = [&in](const kvstow::PlaneSpec& spec, size_t block, std::span<std::byte> to) {
      const kvstow_plane plane = PlaneOf(spec);
      return in.fill(in.context, &plane, block, to.data()) != 0;
    };
  }
  const kvstow::PutBlocksResult put = space->space->PutBlocks(request);
  Fill(ResultOf(put), result);
  Tell(put.status, status);
  return put.stored + put.existed;
}

size_t kvstow_get(kvstow_space* space, const uint8_t* keys, size_t key_count, kvstow_take take,
                  kvstow_on_layer on_layer, void* context, uint32_t deadline_ms,
                  kvstow_status* status) {
  kvstow::GetBlocksRequest request;
  request.keys = KeysOf(keys, key_count);
  request.deadline = absl::Milliseconds(deadline_ms);
  if (take != nullptr) {
    request.take = [&](const kvstow::PlaneSpec& spec, size_t block,
                       std::span<const std::byte> from) {
      const kvstow_plane plane = PlaneOf(spec);
      take(context, &plane, block, from.data());
    };
  }
  if (on_layer != nullptr) {
    request.on_layer = [&](uint32_t layer, size_t usable) { on_layer(context, layer, usable); };
  }
  const kvstow::GetBlocksResult got = space->space->GetBlocks(request);
  Tell(got.status, status);
  return got.usable;
}

const char* kvstow_version(void) { return KVSTOW_VERSION; }

}  // extern "C"
