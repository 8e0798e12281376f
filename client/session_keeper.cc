#include "client/session_keeper.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace kvstow::client {
namespace {

constexpr size_t kSessionIdBytes = 16;
// How long stopping may have to wait for a pause to notice.
constexpr absl::Duration kPollStep = absl::Milliseconds(20);
// How often an open session is looked at while no call fails.
constexpr absl::Duration kLookStep = absl::Milliseconds(500);

// Why an attempt gave no session, for people.
absl::Status Explain(SessionCall::Next next, const absl::Status& end) {
  if (next == SessionCall::Next::kEvent) {
    return absl::InternalError("the daemon gave no session id of 16 bytes");
  }
  if (next == SessionCall::Next::kTimeout) {
    return absl::DeadlineExceededError("connected, but the daemon does not answer");
  }
  return end.ok() ? absl::UnavailableError("the daemon ended the session") : end;
}

}  // namespace

SessionKeeper::SessionKeeper(std::shared_ptr<grpc::Channel> channel, Options options,
                             std::function<void(const Session&)> on_open)
    : channel_(std::move(channel)),
      options_(std::move(options)),
      on_open_(std::move(on_open)),
      last_error_(absl::UnavailableError("not connected yet")),
      hope_until_(Deadline::In(options_.connect_wait)),
      thread_([this] { Loop(); }) {}

SessionKeeper::~SessionKeeper() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
    if (call_ != nullptr) call_->Cancel();
  }
  thread_.join();
}

absl::StatusOr<SessionKeeper::Session> SessionKeeper::Get(const Deadline& deadline) {
  absl::MutexLock lock(&mu_);
  const auto decided = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return !session_.id.empty() || failed_ || stop_;
  };
  mu_.AwaitWithTimeout(absl::Condition(&decided), deadline.EarlierOf(hope_until_).remaining());
  if (!session_.id.empty()) return session_;
  if (!failed_ && !stop_) {
    return absl::DeadlineExceededError("the daemon did not open a session in time");
  }
  // Nobody's and forbidden calls are not an absent daemon's; all else is.
  const bool refused =
      absl::IsUnauthenticated(last_error_) || absl::IsPermissionDenied(last_error_);
  return absl::Status(refused ? last_error_.code() : absl::StatusCode::kUnavailable,
                      absl::StrCat("no session with the daemon: ", last_error_.message()));
}

void SessionKeeper::Suspect(uint64_t generation) {
  absl::MutexLock lock(&mu_);
  if (session_.id.empty() || session_.generation != generation) return;
  session_.id.clear();
  hope_until_ = Deadline::In(options_.connect_wait);
  if (call_ != nullptr) call_->Cancel();
}

void SessionKeeper::Look() {
  absl::MutexLock lock(&mu_);
  look_ = true;
}

SessionKeeper::Session SessionKeeper::current() const {
  absl::MutexLock lock(&mu_);
  return session_;
}

absl::Status SessionKeeper::last_error() const {
  absl::MutexLock lock(&mu_);
  return last_error_;
}

void SessionKeeper::Loop() {
  absl::Duration pause = options_.first_pause;
  do {
    pause = RunOneSession() ? options_.first_pause : std::min(pause * 2, options_.longest_pause);
  } while (Pause(pause));
}

bool SessionKeeper::RunOneSession() {
  SessionCall call(channel_, options_.client_name, options_.prefill_tokens_per_second);
  {
    absl::MutexLock lock(&mu_);
    if (stop_) return false;
    call_ = &call;
  }
  v1::SessionEvent first;
  const SessionCall::Next next = call.Wait(options_.attempt_timeout, &first);
  const bool opened =
      next == SessionCall::Next::kEvent && first.session_id().size() == kSessionIdBytes;
  if (opened) {
    Publish(first);
    Hold(&call);
  }
  const absl::Status end = call.Finish();
  Withdraw(opened, Explain(opened ? SessionCall::Next::kEnd : next, end));
  return opened;
}

void SessionKeeper::Publish(const v1::SessionEvent& first) {
  Session session;
  session.id = first.session_id();
  session.instance_id = first.instance_id();
  session.server_version = first.server_version();
  session.draining = first.draining();
  session.generation = current().generation + 1;
  if (on_open_) on_open_(session);
  absl::MutexLock lock(&mu_);
  session_ = session;
  failed_ = false;
}

void SessionKeeper::Hold(SessionCall* call) {
  // Looks and sleeps. Who waited in gRPC would be its poller for the whole process: every message
  // to a call would wake this thread first, for it to wake the call's own.
  v1::SessionEvent event;
  for (;;) {
    const SessionCall::Next next = call->Wait(absl::ZeroDuration(), &event);
    if (next == SessionCall::Next::kEnd) return;
    absl::MutexLock lock(&mu_);
    if (next == SessionCall::Next::kEvent) {
      if (event.draining()) session_.draining = true;
      continue;
    }
    const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return stop_ || session_.id.empty();
    };
    const auto awake = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return look_ || over(); };
    mu_.AwaitWithTimeout(absl::Condition(&awake), kLookStep);
    if (over()) return;
    look_ = false;
  }
}

void SessionKeeper::Withdraw(bool was_open, absl::Status why) {
  absl::MutexLock lock(&mu_);
  // A session that was open gives hope for another soon, a failed attempt takes it.
  if (was_open && !session_.id.empty()) hope_until_ = Deadline::In(options_.connect_wait);
  failed_ = !was_open;
  session_.id.clear();
  session_.draining = false;
  last_error_ = std::move(why);
  call_ = nullptr;
}

bool SessionKeeper::Pause(absl::Duration pause) {
  const Deadline end = Deadline::In(pause);
  // A connection that is up gave no session: no use in hurrying.
  const bool hurry = channel_->GetState(/*try_to_connect=*/true) != GRPC_CHANNEL_READY;
  while (!end.expired()) {
    const Deadline step = end.EarlierOf(Deadline::In(hurry ? kPollStep : pause));
    {
      absl::MutexLock lock(&mu_);
      if (mu_.AwaitWithTimeout(absl::Condition(&stop_),
                               hurry ? absl::ZeroDuration() : step.remaining())) {
        return false;
      }
    }
    // Without a call under way nobody polls the channel but gRPC's backup poller, every 5 seconds:
    // so long would a daemon that just came up wait for us.
    if (hurry && channel_->WaitForConnected(step.AsTimespec())) break;
  }
  absl::MutexLock lock(&mu_);
  return !stop_;
}

}  // namespace kvstow::client
