// Gives sessions memory that they share with their client: listens on the side channel, makes a
// region for each session that asks, within a budget, and hands its descriptor over. With a GPU
// that shares memory a session may have a region there, too, once both sides have found what the
// other wrote.
//
// One region a session, never two sessions in one: a mapping cannot be taken back, so whoever once
// held a region could read and write what others put there later. A region therefore ends with its
// last user and is never handed on, and what a client does to its region it does to itself.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gpu/api/device.h"
#include "server/auth/tenants.h"
#include "server/core/byte_budget.h"
#include "server/core/service.h"
#include "staging/side_channel.h"

namespace kvstow {

struct StagingOptions {
  uint64_t budget_bytes = uint64_t{1} << 30;     // all sessions together
  uint64_t session_bytes = uint64_t{128} << 20;  // one region
  size_t max_connections = 256;                  // that have not said what they want
  absl::Duration patience = absl::Seconds(1);    // how long one may keep silent
  // Of device memory, where there is a GPU; 0: none.
  uint64_t device_budget_bytes = uint64_t{1} << 30;
  uint64_t device_session_bytes = uint64_t{256} << 20;
  absl::Duration proof_patience = absl::Seconds(10);  // while a worker maps device memory
};

// Owns a thread. Thread-safe.
class StagingListener {
 public:
  // Listens beside `unix_socket`. UNAVAILABLE as ListenSideChannel. All pointers outlive it.
  // `random` makes probes; `device` is null without a GPU.
  static absl::StatusOr<std::unique_ptr<StagingListener>> Start(
      const std::string& unix_socket, StagingOptions options, Service* service,
      const Tenants* tenants, const Clock* clock, RandomSource* random,
      gpu::Device* device = nullptr);
  ~StagingListener();

  // Of the regions there are, on the host and on the device.
  uint64_t used_bytes() const { return budget_->used(); }
  uint64_t used_device_bytes() const { return device_budget_->used(); }

 private:
  // Device memory that its worker has still to find.
  struct Unproved {
    std::shared_ptr<Session> session;
    std::shared_ptr<const StagingArea> area;
    StagingProbe probe;
  };
  struct Guest {
    OwnedFd connection;
    absl::Time since;
    std::optional<Unproved> unproved = {};
  };
  struct Parts {
    Service* service;
    const Tenants* tenants;
    const Clock* clock;
    RandomSource* random;
    gpu::Device* device;
  };

  StagingListener(std::string path, OwnedFd listener, OwnedFd stop, StagingOptions options,
                  Parts parts);
  void Loop();
  // Returns when somebody connects, speaks or was silent for too long; false when it is time to go.
  bool Wait();
  void Accept();
  void Rest();
  // True when the guest has been served and can go.
  bool Serve(Guest& guest);
  bool ServeRequest(Guest& guest);
  bool ServeProof(Guest& guest);
  // The session asked for, if the process at the other end may have memory of its tenant's.
  // FAILED_PRECONDITION as Service::FindSession, PERMISSION_DENIED.
  absl::StatusOr<std::shared_ptr<Session>> FindSession(const Guest& guest,
                                                       const StagingRequest& request) const;
  absl::Status Grant(const Guest& guest, const StagingRequest& request);
  absl::Status GrantOnDevice(Guest& guest, const StagingRequest& request);
  class DeviceArea;
  // Errors as TakeBytes and gpu::Device::Share.
  absl::StatusOr<std::shared_ptr<DeviceArea>> ShareDevice(uint64_t bytes);
  // INVALID_ARGUMENT for 0 bytes, RESOURCE_EXHAUSTED when there are not so many.
  static absl::Status TakeBytes(ByteBudget* budget, uint64_t bytes, absl::string_view setting);
  absl::Status Prove(const Unproved& unproved, const absl::Status& word) const;

  const std::string path_;
  const StagingOptions options_;
  const Parts parts_;
  // Shared with the regions, which may outlive this.
  const std::shared_ptr<ByteBudget> budget_, device_budget_;
  OwnedFd listener_;
  OwnedFd stop_;               // an eventfd
  std::vector<Guest> guests_;  // of the thread
  std::thread thread_;
};

}  // namespace kvstow
