// The names by which the server's layers speak of tenants, sessions, spaces and leases.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace kvstow {

// From the authenticated identity, never from a request. Small and dense: an index into the
// configuration's tenants.
enum class TenantId : uint32_t {};
inline constexpr TenantId kDefaultTenant{0};

// Random 128 bits. Knowing it is not enough: it is checked against the caller's tenant.
struct SessionId {
  std::array<uint8_t, 16> bytes{};
  bool operator==(const SessionId&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const SessionId& id) {
    return H::combine(std::move(h), id.bytes);
  }
};

// One (tenant, fingerprint, set of expected shards) in the store, for the daemon's life.
enum class SpaceId : uint32_t {};

// Random 64 bits, not 0; 0 stands for no lease.
enum class LeaseId : uint64_t {};
inline constexpr LeaseId kNoLease{0};

}  // namespace kvstow
