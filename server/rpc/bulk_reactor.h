// What the Put and the Get stream have in common: they count as bulk calls of the registry, stall
// while they wait for their client, own themselves until gRPC is done with them, and finish once.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/support/server_callback.h"
#include "server/rpc/call_registry.h"
#include "server/rpc/caller.h"
#include "server/rpc/convert.h"
#include "server/rpc/finish_once.h"
#include "server/rpc/rpc_context.h"

namespace kvstow {

// `Reactor` is gRPC's own. Thread safety: gRPC's reactions, OpenCall and End come on any thread.
template <typename Reactor>
class BulkReactor : public Reactor,
                    public OpenCall,
                    public std::enable_shared_from_this<BulkReactor<Reactor>> {
 public:
  // ---- OpenCall ----
  Kind kind() const final { return Kind::kBulk; }
  TenantId tenant() const final { return caller_->tenant; }
  absl::Time waiting_since() const final { return absl::FromUnixNanos(waiting_since_ns_.load()); }
  void NoteDraining() final {}
  void Abort(const absl::Status& status) final { End(status); }
  void Cut() final {
    finish_.IfNotDone([&] { context_->TryCancel(); });
  }

  // ---- Reactor ----
  void OnCancel() final { End(absl::CancelledError("cancelled")); }
  void OnDone() final {
    finish_.MarkDone();
    rpc_.calls->Remove(this);
    self_.reset();
  }

 protected:
  BulkReactor(const RpcContext& rpc, grpc::CallbackServerContext* context)
      : rpc_(rpc), context_(context), caller_(Admit(rpc, *context)), start_(rpc.clock->Now()) {}

  // Finishes with this status, the first time.
  virtual void End(const absl::Status& status) = 0;

  // First of all: errors as Admit and CallRegistry::Add. The reactor owns itself from here on,
  // whatever the answer.
  absl::Status Enter() {
    self_ = this->shared_from_this();
    if (!caller_.ok()) return caller_.status();
    return rpc_.calls->Add(self_);
  }
  // It is the client's turn. What it has been waited for adds up until it has moved enough.
  void WaitForClient() { waiting_since_ns_ = Now() - waited_ns_.load(); }
  void StopWaiting() {
    const int64_t since = waiting_since_ns_.exchange(kNotWaiting);
    if (since != kNotWaiting) waited_ns_ = Now() - since;
  }
  void NoteMoved(uint64_t bytes) {
    if (moved_.fetch_add(bytes) + bytes >= kLeastProgress) NoteProgress();
  }
  void NoteProgress() {
    moved_ = 0;
    waited_ns_ = 0;
  }
  // How the bulk bytes travel, a literal.
  void UsePath(const char* path) { path_ = path; }
  // The call proper, whose phases count from here on, was admitted since `begin`.
  void NoteAdmission(absl::Time begin) {
    admission_ns_ = absl::ToInt64Nanoseconds(rpc_.clock->Now() - begin);
  }
  // Once. `phases` is null where the call did not get so far.
  void Report(const char* method, absl::StatusCode code, uint64_t bytes, const CallPhases* phases) {
    CallRecord record = {method, path_.load(), code, rpc_.clock->Now() - start_, bytes};
    if (caller_.ok()) record.tenant = caller_->tenant;
    PhaseTimes times = phases == nullptr ? PhaseTimes() : phases->times();
    times[static_cast<size_t>(CallPhase::kAdmission)] += absl::Nanoseconds(admission_ns_.load());
    // What is left, with what passed before the call proper began.
    auto& wire = times[static_cast<size_t>(CallPhase::kWire)] = absl::ZeroDuration();
    wire = record.took - std::accumulate(times.begin(), times.end(), absl::ZeroDuration());
    wire = std::max(wire, absl::ZeroDuration());
    record.phases = times;
    rpc_.sink->OnCall(record);
  }

  const RpcContext& rpc_;

 private:
  // A client that moves less between two stalls is stalled all the same: a byte now and then would
  // keep its stream, which others want, for ever.
  static constexpr uint64_t kLeastProgress = 16 << 10;

  int64_t Now() const { return absl::ToUnixNanos(rpc_.clock->Now()); }

  grpc::CallbackServerContext* const context_;  // until OnDone

 protected:
  FinishOnce finish_;

 private:
  const absl::StatusOr<Caller> caller_;
  const absl::Time start_;
  std::atomic<int64_t> admission_ns_{0};
  std::atomic<int64_t> waiting_since_ns_{kNotWaiting};
  std::atomic<int64_t> waited_ns_{0};  // before that
  std::atomic<uint64_t> moved_{0};     // meanwhile
  std::atomic<const char*> path_{"grpc"};
  std::shared_ptr<BulkReactor> self_;  // until OnDone
};

}  // namespace kvstow
