// The daemon as one Client sees it: channel, session, circuit breaker and counters. Every call goes
// through Call(), which decides whether to make it and keeps the books.
//
// Thread-safe.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/channel.h>

#include <atomic>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "client/call_threads.h"
#include "client/circuit_breaker.h"
#include "client/deadline.h"
#include "client/kvstow/client.h"
#include "client/outcome.h"
#include "client/session_keeper.h"
#include "client/staging_link.h"

namespace kvstow::client {

class DaemonLink {
 public:
  explicit DaemonLink(ClientOptions options);

  using Session = SessionKeeper::Session;
  enum class Work {
    kNew,     // refused at once while the daemon drains
    kFinish,  // what a draining daemon still does
  };

  // Makes one call, unless there is no session or the breaker is open; returns its status.
  absl::Status Call(Work work, const Deadline& deadline,
                    absl::FunctionRef<Outcome(const Session&)> call);

  // One request on the session's connection, see unary_call.h.
  Outcome Unary(const std::string& method, const google::protobuf::MessageLite& request,
                const Deadline& deadline, google::protobuf::MessageLite* response);

  const std::shared_ptr<grpc::Channel>& channel() { return channel_; }
  // A connection of its own: what a Put leaves in the socket of a stopped daemon must not stand in
  // the way of other calls' requests.
  const std::shared_ptr<grpc::Channel>& put_channel() { return put_channel_; }
  const ClientOptions& options() const { return options_; }
  SessionKeeper& sessions() { return sessions_; }

  CallThreads& get_threads() { return get_threads_; }
  CallThreads& put_threads() { return put_threads_; }

  // A staging slot for a Put or Get of this session, of KV on the host or in device memory; none
  // for the stream. UNAVAILABLE when the path was named and cannot be had.
  enum class Kv { kOnHost, kOnDevice };
  absl::StatusOr<std::optional<StagingLink::Slot>> BorrowSlot(Kv kv, const std::string& session_id,
                                                              const Deadline& deadline);
  Client::Health health() const;

 private:
  void OnSession(const Session& session) ABSL_LOCKS_EXCLUDED(mu_);
  // Adds what may be wrong with the files it was given.
  absl::Status Explain(const absl::Status& no_session) const;
  absl::Status Fail(absl::Status status) ABSL_LOCKS_EXCLUDED(mu_);

  const ClientOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::shared_ptr<grpc::Channel> put_channel_;
  // The session's thread looks at its connection while calls are under way: on a shared one it
  // would get other calls' answers and have to wake their threads.
  const std::shared_ptr<grpc::Channel> session_channel_;
  CircuitBreaker breaker_;
  StagingLink staging_, device_staging_;
  CallThreads get_threads_, put_threads_;

  std::atomic<uint64_t> failures_{0};
  std::atomic<uint64_t> shed_{0};
  mutable absl::Mutex mu_;
  absl::Status last_error_ ABSL_GUARDED_BY(mu_);
  std::string instance_id_ ABSL_GUARDED_BY(mu_);

  SessionKeeper sessions_;  // last: calls OnSession() from its thread
};

}  // namespace kvstow::client
