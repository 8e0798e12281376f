// Plain structs to wire messages and back. Wire enums are one above ours, zero being "unspecified";
// DType has the same numbers.
//
// All functions are pure and thread-safe.
#pragma once

#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/kvstow/client.h"
#include "kvstow/v1/kvstow.pb.h"
#include "space/fingerprint.h"
#include "space/space_spec.h"

namespace kvstow::client {

v1::SpaceSpec ToProto(const SpaceSpec& spec);
v1::Shard ToProto(const Shard& shard);

// For specs that people write: what is unspecified takes the default of SpaceSpec, an unknown
// enum value or a missing dtype is INVALID_ARGUMENT. Does not Validate().
absl::StatusOr<SpaceSpec> FromProto(const v1::SpaceSpec& proto);
// Empty `expected` means {index}, tensor_size 0 means 1.
Shard FromProto(const v1::Shard& proto);

Fidelity FromProto(const v1::Quality& quality);

// "full", "no_parent", ...: the names that the daemon's metrics use.
absl::string_view RefusalName(v1::Refusal refusal);

std::string ToBytes(const Digest& digest);
// 32 bytes a key, one after the other.
std::string ToBytes(std::span<const BlockKey> keys);
// False when `bytes` is not 32 bytes long.
bool FromBytes(absl::string_view bytes, Digest* digest);

}  // namespace kvstow::client
