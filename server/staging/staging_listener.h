// Gives sessions memory that they share with their client: listens on the side channel, makes a
// region for each session that asks, within a budget, and hands its descriptor over.
//
// One region a session, never two sessions in one: a mapping cannot be taken back, so whoever once
// held a region could read and write what others put there later. A region therefore ends with its
// last user and is never handed on, and what a client does to its region it does to itself.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/auth/tenants.h"
#include "server/core/byte_budget.h"
#include "server/core/service.h"
#include "staging/side_channel.h"

namespace kvstow {

struct StagingOptions {
  uint64_t budget_bytes = uint64_t{512} << 20;  // all sessions together
  uint64_t session_bytes = uint64_t{32} << 20;  // one region
  size_t max_connections = 256;                 // that have not said what they want
  absl::Duration patience = absl::Seconds(1);   // how long one may keep silent
};

// Owns a thread. Thread-safe.
class StagingListener {
 public:
  // Listens beside `unix_socket`. UNAVAILABLE as ListenSideChannel. All pointers outlive it.
  static absl::StatusOr<std::unique_ptr<StagingListener>> Start(const std::string& unix_socket,
                                                                StagingOptions options,
                                                                Service* service,
                                                                const Tenants* tenants,
                                                                const Clock* clock);
  ~StagingListener();

  // Of the regions there are.
  uint64_t used_bytes() const { return budget_->used(); }

 private:
  struct Guest {
    OwnedFd connection;
    absl::Time since;
  };

  StagingListener(std::string path, OwnedFd listener, OwnedFd stop, StagingOptions options,
                  Service* service, const Tenants* tenants, const Clock* clock);
  void Loop();
  // Returns when somebody connects, speaks or was silent for too long; false when it is time to go.
  bool Wait();
  void Accept();
  void Rest();
  // True when the guest has been served and can go.
  bool Serve(const Guest& guest);
  // The session asked for, if the process at the other end may have memory of its tenant's.
  // FAILED_PRECONDITION as Service::FindSession, PERMISSION_DENIED.
  absl::StatusOr<std::shared_ptr<Session>> FindSession(const Guest& guest,
                                                       const StagingRequest& request) const;
  void Grant(const Guest& guest, const StagingRequest& request);

  const std::string path_;
  const StagingOptions options_;
  Service* const service_;
  const Tenants* const tenants_;
  const Clock* const clock_;
  // Shared with the regions, which may outlive this.
  const std::shared_ptr<ByteBudget> budget_;
  OwnedFd listener_;
  OwnedFd stop_;               // an eventfd
  std::vector<Guest> guests_;  // of the thread
  std::thread thread_;
};

}  // namespace kvstow
