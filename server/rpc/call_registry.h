// The streams that are open: bounds how many move bulk data, ends those that stopped moving, and
// empties the daemon when it shuts down.
//
// Thread-safe.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/core/ids.h"

namespace kvstow {

// A call as the registry sees it. Methods are thread-safe and do not block.
class OpenCall {
 public:
  enum class Kind { kBulk, kSession, kWatch };
  virtual ~OpenCall() = default;
  virtual Kind kind() const = 0;
  virtual TenantId tenant() const = 0;
  // Since when it has been waiting for its client to send or to read; far in the future while it is
  // the daemon's turn. Only bulk calls can stall.
  virtual absl::Time waiting_since() const = 0;
  // The daemon is shutting down: tell the client, go on.
  virtual void NoteDraining() = 0;
  // Finish with this status, now. The status travels behind what was written before.
  virtual void Abort(const absl::Status& status) = 0;
  // Reset the stream: the only thing that ends one whose reader has stopped reading.
  virtual void Cut() {}
};

// In nanoseconds since the epoch of Clock, for waiting_since().
inline constexpr int64_t kNotWaiting = INT64_MAX;

class CallRegistry {
 public:
  // `max_streams`: Puts, Gets and Watches at a time by TenantId; 0, and tenants beyond the list,
  // for no limit of their own.
  CallRegistry(size_t max_bulk, std::vector<uint32_t> max_streams)
      : max_bulk_(max_bulk), max_streams_(std::move(max_streams)), streams_(max_streams_.size()) {}

  // RESOURCE_EXHAUSTED beyond the daemon's limit of bulk calls or the tenant's of streams,
  // UNAVAILABLE for any call once draining.
  absl::Status Add(const std::shared_ptr<OpenCall>& call);
  void Remove(const OpenCall* call);

  // Ends bulk calls whose client has kept them waiting since `before`. Returns how many.
  size_t AbortStalled(absl::Time before);
  // Refuses new calls, tells those that are open.
  void StartDraining();
  // Ends all that are left.
  void AbortAll();

  size_t bulk_calls() const;
  // Waits until no bulk call is left; false when the deadline came first.
  bool WaitForBulk(absl::Time deadline) const;

 private:
  std::vector<std::shared_ptr<OpenCall>> Collect() const ABSL_LOCKS_EXCLUDED(mu_);

  static bool IsStream(const OpenCall& call) { return call.kind() != OpenCall::Kind::kSession; }
  // Null for a tenant without a limit.
  uint32_t* StreamsOf(const OpenCall& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const size_t max_bulk_;
  const std::vector<uint32_t> max_streams_;
  mutable absl::Mutex mu_;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  size_t bulk_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<uint32_t> streams_ ABSL_GUARDED_BY(mu_);  // open, as max_streams_
  absl::flat_hash_map<const OpenCall*, std::weak_ptr<OpenCall>> calls_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
