// Keeps a session with the daemon open: opens it in the background, notices its end, opens another
// with growing pauses in between, and passes on what the daemon says of its shutdown.
//
// Thread-safe. Owns a thread.
#pragma once

#include <grpcpp/channel.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/deadline.h"
#include "client/session_call.h"

namespace kvstow::client {

class SessionKeeper {
 public:
  struct Options {
    std::string client_name;
    double prefill_tokens_per_second = 0;  // 0: not known
    // How long Get() waits for the first session, or for another one after a session ended.
    absl::Duration connect_wait = absl::Seconds(1);
    // After this long without the first event an attempt is given up.
    absl::Duration attempt_timeout = absl::Seconds(5);
    absl::Duration first_pause = absl::Milliseconds(50);
    absl::Duration longest_pause = absl::Seconds(2);
  };

  struct Session {
    std::string id;           // empty: none
    std::string instance_id;  // of the daemon
    std::string server_version;
    uint64_t generation = 0;  // how many sessions were opened, this one included
    bool draining = false;
  };

  // `on_open` is called on the keeper's thread for each session before Get() gives it out.
  SessionKeeper(std::shared_ptr<grpc::Channel> channel, Options options,
                std::function<void(const Session&)> on_open = nullptr);
  // Ends the session.
  ~SessionKeeper();

  // The session. Waits for it while there is reason to hope: DEADLINE_EXCEEDED when that takes too
  // long, UNAVAILABLE with what went wrong when there is no reason.
  absl::StatusOr<Session> Get(const Deadline& deadline) ABSL_LOCKS_EXCLUDED(mu_);

  // The daemon does not know this session: another one is needed.
  void Suspect(uint64_t generation) ABSL_LOCKS_EXCLUDED(mu_);

  // A call failed: the session may be over, which is to be noticed soon.
  void Look() ABSL_LOCKS_EXCLUDED(mu_);

  // As it is now, without waiting; generation is kept when there is no session.
  Session current() const ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status last_error() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Loop();
  // Holds one session from its attempt to its end. False when there never was one.
  bool RunOneSession();
  void Publish(const v1::SessionEvent& first) ABSL_LOCKS_EXCLUDED(mu_);
  // Follows an open session to its end.
  void Hold(SessionCall* call) ABSL_LOCKS_EXCLUDED(mu_);
  void Withdraw(bool was_open, absl::Status why) ABSL_LOCKS_EXCLUDED(mu_);
  // False when it is time to stop.
  bool Pause(absl::Duration pause) ABSL_LOCKS_EXCLUDED(mu_);

  const std::shared_ptr<grpc::Channel> channel_;
  const Options options_;
  const std::function<void(const Session&)> on_open_;

  mutable absl::Mutex mu_;
  Session session_ ABSL_GUARDED_BY(mu_);
  absl::Status last_error_ ABSL_GUARDED_BY(mu_);
  bool failed_ ABSL_GUARDED_BY(mu_) = false;  // the last attempt failed: no use in waiting
  Deadline hope_until_ ABSL_GUARDED_BY(mu_);
  SessionCall* call_ ABSL_GUARDED_BY(mu_) = nullptr;  // what Cancel() may be called on
  bool look_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;

  std::thread thread_;  // last: runs on all of the above
};

}  // namespace kvstow::client
