// The side channel: a Unix socket beside the daemon's own, over which a worker asks for shared
// memory. One request, one answer, one descriptor; then the connection ends. docs/staging.md
// describes it for other languages.
//
// Packets (SOCK_SEQPACKET) of fixed size in host byte order: both ends are on one machine.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "staging/shared_region.h"

namespace kvstow {

// Where the side channel of a daemon's Unix socket is.
std::string SideChannelPath(absl::string_view unix_socket);

struct StagingRequest {
  std::array<uint8_t, 16> session{};
  uint64_t bytes = 0;  // wanted; the daemon may give less
};

struct StagingGrant {
  uint32_t region = 0;  // names it in StagingSlot
  uint64_t bytes = 0;
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

// ---- The daemon's side ----

// A listening socket, non-blocking. Replaces a stale one. UNAVAILABLE names what is wrong: another
// daemon listens there, its folder does not exist.
absl::StatusOr<OwnedFd> ListenSideChannel(const std::string& path);
// The next request on an accepted, non-blocking connection; nullopt when it has not come yet.
// INVALID_ARGUMENT for what is no request.
absl::StatusOr<std::optional<StagingRequest>> ReceiveRequest(const OwnedFd& connection);
// Best effort: a peer that is gone gets no answer.
void SendGrant(const OwnedFd& connection, const StagingGrant& grant, const OwnedFd& memory);
void SendRefusal(const OwnedFd& connection, const absl::Status& why);

}  // namespace kvstow
