// The memory that this client shares with its daemon, of the host or of a GPU: asks for a region
// when a session opens, lends parts of it to calls, and asks for another one when a part may still
// be in the daemon's hands.
//
// A call whose end the daemon did not tell (a deadline, a broken stream) leaves its slot behind: a
// stopped daemon may go on and read or write it at any later time. Such a slot is never lent again;
// the region is replaced, and the old one goes with its last user.
//
// Thread-safe. Owns a thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/deadline.h"
#include "client/worker_gpu.h"
#include "kvstow/client.h"
#include "kvstow/v1/kvstow.pb.h"
#include "staging/side_channel.h"

namespace kvstow::client {

class StagingLink {
 private:
  struct Region;

 public:
  struct Options {
    std::string unix_socket;                      // the daemon's; empty: it has none
    std::shared_ptr<WorkerGpu> gpu = {};          // where the region is to lie; null: on the host
    uint64_t region_bytes = uint64_t{128} << 20;  // asked for
    size_t slots = 4;                             // that it has, a call's each
    absl::Duration answer_timeout = absl::Seconds(3);
    absl::Duration retry_pause = absl::Seconds(5);  // after a refusal
  };

  // A part of a region, one call's. Move-only.
  class Slot {
   public:
    Slot(Slot&& o) noexcept = default;
    Slot& operator=(Slot&& o) = delete;
    // Not lent again, unless Return() said that the daemon is done with it.
    ~Slot();

    // Device addresses where the link has a GPU.
    std::span<std::byte> bytes() const;
    bool on_device() const;
    // As the daemon is told of it.
    v1::StagingSlot Claim() const;
    // The daemon told that the call ended: nothing of it touches the slot any more.
    void Return();

   private:
    friend class StagingLink;
    Slot(StagingLink* link, std::shared_ptr<Region> region, size_t index)
        : link_(link), region_(std::move(region)), index_(index) {}
    StagingLink* link_;
    std::shared_ptr<Region> region_;  // null once moved from or given back
    size_t index_;
  };

  explicit StagingLink(Options options);
  // No slot may be out.
  ~StagingLink();

  // A new session: asks for its region and waits for the answer, a while.
  void OnSession(const std::string& session_id) ABSL_LOCKS_EXCLUDED(mu_);

  // A free slot of the session's region. None when there is no region, see why_not(), or while all
  // slots are lent; waits for one to come back if there is a `deadline`.
  std::optional<Slot> Borrow(const std::string& session_id, const Deadline* deadline)
      ABSL_LOCKS_EXCLUDED(mu_);

  // OK while there is a region.
  absl::Status why_not() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Region {
    uint32_t id = 0;
    std::string session_id;
    SharedRegion on_host;
    std::unique_ptr<WorkerGpuRegion> on_device;
    std::span<std::byte> bytes;  // of either
    uint64_t slot_bytes = 0;
    std::vector<bool> lent;  // a slot each; one that was left behind stays so
  };

  void Loop();
  void Ask(const std::string& session_id);
  absl::StatusOr<std::shared_ptr<Region>> RequestRegionOf(const std::string& session_id) const;
  std::optional<size_t> FreeSlot(const std::string& session_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TakeBack(std::shared_ptr<Region> region, size_t index, bool clean) ABSL_LOCKS_EXCLUDED(mu_);
  // The region is not lent any more.
  void Forsake(std::shared_ptr<Region> region) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  mutable absl::Mutex mu_;
  std::string session_id_ ABSL_GUARDED_BY(mu_);  // the session to have a region of
  std::shared_ptr<Region> region_ ABSL_GUARDED_BY(mu_);
  // What nobody uses any more. Unmapping device memory waits for what the engine's stream still
  // does there, so no call does it.
  std::vector<std::shared_ptr<Region>> forsaken_ ABSL_GUARDED_BY(mu_);
  absl::Status why_not_ ABSL_GUARDED_BY(mu_);
  bool ask_ ABSL_GUARDED_BY(mu_) = false;                             // the thread is to ask
  std::chrono::steady_clock::time_point asked_ ABSL_GUARDED_BY(mu_);  // when it did
  uint64_t answers_ ABSL_GUARDED_BY(mu_) = 0;                         // to its questions
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: runs on all of the above; not started without a socket
};

// How a call with this slot, or without one, moves its bytes.
DataPath PathOf(const std::optional<StagingLink::Slot>& slot);

}  // namespace kvstow::client
