// Wire messages to core types and back. Nothing a client sends gets past here unchecked in form:
// enum values, key and id lengths, durations. What it means is checked in core.
//
// Pure functions; INVALID_ARGUMENT names the field.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kvstow/v1/kvstow.pb.h"
#include "server/core/get_call.h"
#include "server/core/put_call.h"
#include "server/core/service.h"
#include "space/space_spec.h"

namespace kvstow {

absl::StatusOr<SpaceSpec> FromProto(const v1::SpaceSpec& in);
absl::StatusOr<Shard> FromProto(const v1::Shard& in);
absl::StatusOr<SessionId> SessionIdFromBytes(const std::string& bytes);
absl::StatusOr<BlockKey> KeyFromBytes(absl::string_view field, const std::string& bytes);
// 32 bytes a key, one after the other.
absl::StatusOr<std::vector<BlockKey>> KeysFromBytes(const std::string& bytes);
absl::StatusOr<std::vector<BlockIntent>> FromProto(
    const google::protobuf::RepeatedPtrField<v1::BlockIntent>& in);
absl::StatusOr<PlaneForm> FromProto(v1::Form in);
absl::StatusOr<PlaneSegment> FromProto(const v1::Segment& in);
absl::StatusOr<std::vector<PlaneSegment>> FromProto(const v1::StagedChunk& in);
SlotClaim FromProto(const v1::StagingSlot& in);
// Saturates: whatever a client sends, core clamps to its longest lease.
absl::Duration TtlFromMillis(uint64_t ms);

v1::Tier ToProto(TierKind tier);
v1::PlaneKind ToProto(PlaneKind kind);
v1::Refusal ToProto(Refusal refusal);
void ToProto(const QualityReport& in, v1::Quality* out);
void ToProto(const DeclaredQuality& in, v1::Quality* out);
void ToProto(const CodecSettings& in, v1::CodecSettings* out);
void ToProto(const PutResults& in, v1::PutResponse::Results* out);
void ToProto(const std::vector<PutAnswer>& in, v1::PutResponse::Answers* out);
void ToProto(const std::vector<GetAnswer>& in, v1::GetResponse::Answers* out);
void ToProto(const PlaneSegment& in, v1::Segment* out);
void ToProto(const StoreEvent& in, v1::WatchEvent* out);
void ToProto(const BlockInspection& in, v1::InspectResponse* out);
std::string BytesOf(const Digest& digest);

}  // namespace kvstow
