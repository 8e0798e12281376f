// The side channel: a Unix socket beside the daemon's own, over which a worker asks for shared
// memory, of the host or of a GPU. One request, one answer, one descriptor; then the connection
// ends. Device memory is tried first: the worker reads what the daemon wrote there, and the other
// way round. docs/staging.md describes it for other languages.
//
// Packets (SOCK_SEQPACKET) of fixed size in host byte order: both ends are on one machine.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "staging/shared_region.h"

namespace kvstow {

// Where the side channel of a daemon's Unix socket is.
std::string SideChannelPath(absl::string_view unix_socket);

using SideChannelUuid = std::array<uint8_t, 16>;

struct StagingRequest {
  std::array<uint8_t, 16> session{};
  uint64_t bytes = 0;  // wanted; the daemon may give less
  // Set: on this GPU, which must be the daemon's.
  std::optional<SideChannelUuid> gpu = {};
};

struct StagingGrant {
  uint32_t region = 0;  // names it in StagingSlot; of device memory, once it is proved
  uint64_t bytes = 0;
};

// What the daemon wrote at the start of device memory. The worker finds it there and writes
// Answer() behind it.
struct StagingProbe {
  std::array<uint8_t, 16> bytes{};
  StagingProbe Answer() const;
  bool operator==(const StagingProbe&) const = default;
};

// ---- The worker's side ----

struct GrantedRegion {
  uint32_t region = 0;
  SharedRegion memory;
};
// Asks and waits for the answer, `timeout` at most. What the daemon refused comes as the status
// that it gave; UNAVAILABLE when nobody answers there, INTERNAL when it is no kvstow daemon.
absl::StatusOr<GrantedRegion> RequestRegion(const std::string& path, const StagingRequest& request,
                                            absl::Duration timeout);
// The same for device memory. `prove` maps the descriptor, which stays the caller's, and does as
// StagingProbe says; what it returns goes to the daemon, too.
using ProveMemory = absl::FunctionRef<absl::Status(const OwnedFd& memory, uint64_t bytes,
                                                   const StagingProbe& probe)>;
absl::StatusOr<StagingGrant> RequestDeviceRegion(const std::string& path,
                                                 const StagingRequest& request,
                                                 absl::Duration timeout, ProveMemory prove);

// ---- The daemon's side ----

// A listening socket, non-blocking. Replaces a stale one. UNAVAILABLE names what is wrong: another
// daemon listens there, its folder does not exist.
absl::StatusOr<OwnedFd> ListenSideChannel(const std::string& path);
// The next request on an accepted, non-blocking connection; nullopt when it has not come yet.
// INVALID_ARGUMENT for what is no request.
absl::StatusOr<std::optional<StagingRequest>> ReceiveRequest(const OwnedFd& connection);
// Best effort: a peer that is gone gets no answer. The descriptor stays the caller's.
void SendGrant(const OwnedFd& connection, const StagingGrant& grant, int memory);
// Device memory that is still to be proved, and what makes the grant good.
void SendProbe(const OwnedFd& connection, uint64_t bytes, const StagingProbe& probe, int memory);
// Whether the worker found the probe; nullopt when it has not said yet. INVALID_ARGUMENT for what
// is no such word.
absl::StatusOr<std::optional<absl::Status>> ReceiveProof(const OwnedFd& connection);
void SendProved(const OwnedFd& connection, const StagingGrant& grant);
void SendRefusal(const OwnedFd& connection, const absl::Status& why);

}  // namespace kvstow
