#include "server/rpc/convert.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/core/status_macros.h"

namespace kvstow {
namespace {

absl::Status Unknown(absl::string_view field, int value) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, ", which this version does not know; set it"));
}

absl::StatusOr<DType> FromProto(v1::DType in) {
  const auto dtype = static_cast<DType>(in);
  if (!IsValid(dtype)) return Unknown("dtype", in);
  return dtype;
}

absl::StatusOr<RotaryEmbedding> FromProto(const v1::RotaryEmbedding& in) {
  RotaryEmbedding out;
  out.inverse_frequencies.assign(in.inverse_frequencies().begin(), in.inverse_frequencies().end());
  out.offset = in.offset();
  switch (in.pairing()) {
    case v1::RotaryEmbedding::PAIRING_HALF:
      out.pairing = RotaryEmbedding::Pairing::kHalf;
      return out;
    case v1::RotaryEmbedding::PAIRING_INTERLEAVED:
      out.pairing = RotaryEmbedding::Pairing::kInterleaved;
      return out;
    default:
      return Unknown("rotary.pairing", in.pairing());
  }
}

absl::StatusOr<LayerGroup> FromProto(const v1::LayerGroup& in) {
  LayerGroup out;
  switch (in.kind()) {
    case v1::LayerGroup::KIND_KV:
      out.kind = LayerGroup::Kind::kKv;
      break;
    case v1::LayerGroup::KIND_LATENT:
      out.kind = LayerGroup::Kind::kLatent;
      break;
    case v1::LayerGroup::KIND_OPAQUE:
      out.kind = LayerGroup::Kind::kOpaque;
      break;
    default:
      return Unknown("group.kind", in.kind());
  }
  out.layers.assign(in.layers().begin(), in.layers().end());
  out.kv_heads = in.kv_heads();
  out.k_dim = in.k_dim();
  out.v_dim = in.v_dim();
  // Opaque planes have no elements, so no dtype either.
  if (out.kind != LayerGroup::Kind::kOpaque || in.dtype() != v1::DTYPE_UNSPECIFIED) {
    KVSTOW_ASSIGN_OR_RETURN(out.dtype, FromProto(in.dtype()));
  }
  if (in.has_rotary()) {
    KVSTOW_ASSIGN_OR_RETURN(out.rotary, FromProto(in.rotary()));
  }
  out.window = in.window();
  out.opaque_bytes = in.opaque_bytes();
  return out;
}

absl::StatusOr<CodecSettings> FromProto(const v1::CodecSettings& in) {
  CodecSettings out;
  if (in.codec() < v1::CODEC_RAW || in.codec() > v1::CODEC_EOPTSHRINKQ) {
    return Unknown("codec.codec", in.codec());
  }
  if (in.shrinker() < v1::SHRINKER_OPTIMAL || in.shrinker() > v1::SHRINKER_TRUNCATE) {
    return Unknown("codec.shrinker", in.shrinker());
  }
  out.codec = static_cast<CodecId>(in.codec() - 1);
  out.shrinker = static_cast<Shrinker>(in.shrinker() - 1);
  out.k_bits = in.k_bits();
  out.v_bits = in.v_bits();
  out.closed_loop = !in.open_loop();
  out.undo_rotary = !in.keep_rotary();
  out.max_relative_error = in.max_relative_error();
  return out;
}

}  // namespace

absl::StatusOr<SpaceSpec> FromProto(const v1::SpaceSpec& in) {
  SpaceSpec out;
  out.model = {in.model().name(), in.model().revision(), in.model().weights_digest()};
  // Before anything is copied: a client must not make us hold more than a spec can mean.
  if (in.groups_size() > static_cast<int>(kMaxLayers)) {
    return absl::InvalidArgumentError(
        absl::StrCat(in.groups_size(), " layer groups; the limit is ", kMaxLayers));
  }
  for (const v1::LayerGroup& group : in.groups()) {
    KVSTOW_ASSIGN_OR_RETURN(LayerGroup g, FromProto(group));
    out.groups.push_back(std::move(g));
  }
  out.block_tokens = in.block_tokens();
  KVSTOW_ASSIGN_OR_RETURN(out.codec, FromProto(in.codec()));
  out.key_scheme = in.key_scheme();
  return out;
}

absl::StatusOr<Shard> FromProto(const v1::Shard& in) {
  Shard out;
  out.index = in.index();
  out.expected.assign(in.expected().begin(), in.expected().end());
  if (out.expected.empty()) out.expected = {in.index()};
  out.tensor_rank = in.tensor_rank();
  out.tensor_size = in.tensor_size() == 0 ? 1 : in.tensor_size();
  out.first_layer = in.first_layer();
  out.layer_count = in.layer_count();
  return out;
}

absl::StatusOr<SessionId> SessionIdFromBytes(const std::string& bytes) {
  SessionId id;
  if (bytes.size() != id.bytes.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "session_id has ", bytes.size(), " bytes; send the 16 that Session's first event gave"));
  }
  std::memcpy(id.bytes.data(), bytes.data(), bytes.size());
  return id;
}

absl::StatusOr<BlockKey> KeyFromBytes(absl::string_view field, const std::string& bytes) {
  BlockKey key;
  if (bytes.size() != key.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " has ", bytes.size(), " bytes; a key has 32"));
  }
  std::memcpy(key.data(), bytes.data(), bytes.size());
  return key;
}

absl::StatusOr<std::vector<BlockKey>> KeysFromBytes(const std::string& bytes) {
  if (bytes.size() % kKeyBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("keys has ", bytes.size(), " bytes; 32 a key, one after the other"));
  }
  std::vector<BlockKey> keys(bytes.size() / kKeyBytes);
  if (!keys.empty()) std::memcpy(keys.data(), bytes.data(), bytes.size());
  return keys;
}

absl::StatusOr<std::vector<BlockIntent>> FromProto(
    const google::protobuf::RepeatedPtrField<v1::BlockIntent>& in) {
  std::vector<BlockIntent> out;
  for (const v1::BlockIntent& block : in) {
    BlockIntent intent;
    KVSTOW_ASSIGN_OR_RETURN(intent.key, KeyFromBytes("block.key", block.key()));
    intent.first_position = block.first_position();
    if (intent.first_position != 0) {
      KVSTOW_ASSIGN_OR_RETURN(intent.parent, KeyFromBytes("block.parent", block.parent()));
    }
    if (!block.token_ids().empty()) {
      intent.token_ids = std::make_shared<const std::vector<uint32_t>>(block.token_ids().begin(),
                                                                       block.token_ids().end());
    }
    out.push_back(std::move(intent));
  }
  return out;
}

constexpr int kSumsOfTile = 5;

absl::StatusOr<PlaneForm> FromProto(v1::Form in) {
  switch (in) {
    case v1::FORM_DECODED:
      return PlaneForm::kDecoded;
    case v1::FORM_ENCODED:
      return PlaneForm::kEncoded;
    default:
      return Unknown("form", in);
  }
}

absl::StatusOr<PlaneSegment> FromProto(const v1::Segment& in) {
  if (in.kind() < v1::PLANE_K || in.kind() > v1::PLANE_OPAQUE) {
    return Unknown("segment.kind", in.kind());
  }
  PlaneSegment out{in.layer(),    static_cast<PlaneKind>(in.kind()),
                   in.block(),    in.offset(),
                   in.length(),   in.plane_bytes(),
                   in.staged_at()};
  if (!in.has_declared()) return out;
  PlaneDeclaration& declared = out.declared.emplace();
  declared.crc32c = in.declared().crc32c();
  const auto& sums = in.declared().tile_sums();
  if (sums.size() % kSumsOfTile != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("segment.declared has ", sums.size(), " tile_sums; they are five a tile"));
  }
  for (int i = 0; i < sums.size(); i += kSumsOfTile) {
    declared.tiles.push_back({sums[i], sums[i + 1], sums[i + 2], sums[i + 3], sums[i + 4]});
  }
  return out;
}

absl::StatusOr<std::vector<PlaneSegment>> FromProto(const v1::StagedChunk& in) {
  std::vector<PlaneSegment> out;
  out.reserve(static_cast<size_t>(in.segments_size()));
  for (const v1::Segment& segment : in.segments()) {
    KVSTOW_ASSIGN_OR_RETURN(PlaneSegment converted, FromProto(segment));
    out.push_back(converted);
  }
  return out;
}

SlotClaim FromProto(const v1::StagingSlot& in) { return {in.region(), in.offset(), in.bytes()}; }

void ToProto(const PlaneSegment& in, v1::Segment* out) {
  out->set_layer(in.layer);
  out->set_kind(ToProto(in.kind));
  out->set_block(in.block);
  out->set_offset(in.offset);
  out->set_length(in.length);
  out->set_plane_bytes(in.plane_bytes);
  out->set_staged_at(in.staged_at);
  if (in.declared) out->mutable_declared()->set_crc32c(in.declared->crc32c);
}

absl::Duration TtlFromMillis(uint64_t ms) {
  constexpr uint64_t kLongest = uint64_t{1} << 40;  // far beyond any lease, far from overflow
  return absl::Milliseconds(static_cast<int64_t>(std::min(ms, kLongest)));
}

v1::Tier ToProto(TierKind tier) { return tier == TierKind::kGpu ? v1::TIER_GPU : v1::TIER_HOST; }

v1::PlaneKind ToProto(PlaneKind kind) { return static_cast<v1::PlaneKind>(kind); }

v1::Refusal ToProto(Refusal refusal) {
  switch (refusal) {
    case Refusal::kNoParent:
      return v1::REFUSAL_NO_PARENT;
    case Refusal::kPending:
      return v1::REFUSAL_PENDING;
    case Refusal::kFull:
      return v1::REFUSAL_FULL;
    case Refusal::kTooLarge:
      return v1::REFUSAL_TOO_LARGE;
    case Refusal::kQuota:
      return v1::REFUSAL_QUOTA;
    case Refusal::kLeaseQuota:
      return v1::REFUSAL_LEASE_QUOTA;
    case Refusal::kBehind:
      return v1::REFUSAL_BEHIND;
    case Refusal::kDraining:
      return v1::REFUSAL_DRAINING;
  }
  return v1::REFUSAL_UNSPECIFIED;
}

void ToProto(const QualityReport& in, v1::Quality* out) {
  out->set_nmse(in.sums.nmse());
  out->set_centred_nmse(in.sums.centred_nmse());
  out->set_worst_nmse(in.worst_nmse);
  out->set_worst_centred_nmse(in.worst_centred_nmse);
  out->set_bits_per_entry(in.bits_per_entry());
  out->set_rank_mean(in.rank_mean());
  out->set_rank_max(in.rank_max);
  out->set_inner_product_bias(in.sums.inner_product_bias());
  out->set_tiles(in.tiles);
  out->set_tiles_raw(in.tiles_raw);
  out->set_entries(in.entries);
  out->set_bytes(in.bytes);
}

void ToProto(const DeclaredQuality& in, v1::Quality* out) {
  out->set_nmse(in.nmse);
  out->set_centred_nmse(in.centred_nmse);
  out->set_worst_nmse(in.worst_nmse);
  out->set_worst_centred_nmse(in.worst_centred_nmse);
  out->set_inner_product_bias(in.inner_product_bias);
  out->set_tiles_raw(in.tiles_raw);
  out->set_rank_mean(in.rank_mean);
  out->set_rank_max(in.rank_max);
}

void ToProto(const CodecSettings& in, v1::CodecSettings* out) {
  out->set_codec(static_cast<v1::CodecId>(static_cast<int>(in.codec) + 1));
  out->set_shrinker(static_cast<v1::Shrinker>(static_cast<int>(in.shrinker) + 1));
  out->set_k_bits(in.k_bits);
  out->set_v_bits(in.v_bits);
  out->set_open_loop(!in.closed_loop);
  out->set_keep_rotary(!in.undo_rotary);
  out->set_max_relative_error(in.max_relative_error);
}

void ToProto(const PutResults& in, v1::PutResponse::Results* out) {
  for (const PutResult& block : in.blocks) {
    v1::PutResponse::Result* r = out->add_results();
    r->set_stored(block.stored);
    if (!block.stored) {
      r->set_refusal(ToProto(block.refusal));
      continue;
    }
    r->set_record_bytes(block.record_bytes);
    ToProto(block.k, r->mutable_k());
    ToProto(block.v, r->mutable_v());
  }
  ToProto(in.k, out->mutable_k());
  ToProto(in.v, out->mutable_v());
  out->set_lease(static_cast<uint64_t>(in.lease));
}

void ToProto(const std::vector<PutAnswer>& in, v1::PutResponse::Answers* out) {
  using Kind = Store::ReserveAnswer::Kind;
  for (const PutAnswer& answer : in) {
    v1::PutResponse::Answer* a = out->add_answers();
    if (answer.kind == Kind::kSend) {
      a->set_kind(v1::PutResponse::Answer::SEND);
    } else if (answer.kind == Kind::kExists) {
      a->set_kind(v1::PutResponse::Answer::EXISTS);
    } else {
      a->set_kind(v1::PutResponse::Answer::DECLINED);
      a->set_refusal(ToProto(answer.refusal));
    }
  }
}

void ToProto(const std::vector<GetAnswer>& in, v1::GetResponse::Answers* out) {
  for (const GetAnswer& answer : in) {
    v1::GetResponse::Answer* a = out->add_answers();
    a->set_found(answer.found);
    if (!answer.found) continue;
    a->set_tier(ToProto(answer.tier));
    a->set_first_position(answer.first_position);
  }
}

void ToProto(const StoreEvent& in, v1::WatchEvent* out) {
  const bool stored = in.kind == StoreEvent::Kind::kStored;
  out->set_kind(stored ? v1::WatchEvent::STORED : v1::WatchEvent::REMOVED);
  out->set_key(BytesOf(in.key));
  if (in.first_position != 0) out->set_parent(BytesOf(in.parent));
  out->set_first_position(in.first_position);
  out->set_tier(ToProto(in.tier));
  if (stored) {
    out->set_k_nmse(in.k.nmse);
    out->set_v_nmse(in.v.nmse);
  } else {
    out->set_reason(std::string(Name(in.reason)));
  }
}

void ToProto(const BlockInspection& in, v1::InspectResponse* out) {
  out->set_found(true);
  out->set_visible(in.info.visible);
  if (in.info.first_position != 0) out->set_parent(BytesOf(in.info.parent));
  out->set_first_position(in.info.first_position);
  out->set_children(in.info.children);
  out->set_leases(in.info.leases);
  out->set_hits(in.info.hits);
  out->set_idle_seconds(absl::ToDoubleSeconds(in.info.idle));
  for (const RecordInspection& record : in.records) {
    v1::InspectResponse::ShardRecord* r = out->add_records();
    r->set_shard(record.where.shard);
    r->set_tier(ToProto(record.where.tier));
    r->set_record_bytes(record.where.record_bytes);
    r->set_physical_bytes(record.where.physical_bytes);
    r->set_intact(record.health.ok());
    r->set_problem(std::string(record.health.message()));
    if (!record.record) continue;
    const RecordHeader& header = record.record->header();
    r->set_format_version(kRecordVersion);
    ToProto(header.codec, r->mutable_codec());
    r->set_entries(header.entries);
    r->set_raw_bytes(header.raw_bytes);
    ToProto(header.k, r->mutable_k());
    ToProto(header.v, r->mutable_v());
  }
}

std::string BytesOf(const Digest& digest) {
  return std::string(reinterpret_cast<const char*>(digest.data()), digest.size());
}

}  // namespace kvstow
