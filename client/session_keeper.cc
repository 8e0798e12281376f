#include "client/session_keeper.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/outcome.h"
#include "kvstow/v1/kvstow.grpc.pb.h"

namespace kvstow::client {
namespace {

constexpr size_t kSessionIdBytes = 16;
constexpr char kVersion[] = "0.1.0";

}  // namespace

// What the keeper's thread and gRPC's callbacks share about one Session stream.
struct SessionKeeper::Stream {
  explicit Stream(std::shared_ptr<grpc::Channel> channel) : stub(std::move(channel)) {}

  v1::Kvstow::Stub stub;
  grpc::ClientContext context;
  v1::SessionRequest request;
  v1::SessionEvent event;  // touched between StartRead and OnReadDone by gRPC only

  absl::Mutex mu;
  bool first_event ABSL_GUARDED_BY(mu) = false;
  Session session ABSL_GUARDED_BY(mu);
  bool draining ABSL_GUARDED_BY(mu) = false;
  bool done ABSL_GUARDED_BY(mu) = false;
  absl::Status end ABSL_GUARDED_BY(mu);

  bool AwaitFirstEvent(absl::Duration timeout) {
    absl::MutexLock lock(&mu);
    const auto decided = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return first_event || done; };
    mu.AwaitWithTimeout(absl::Condition(&decided), timeout);
    return first_event && !done && session.id.size() == kSessionIdBytes;
  }
  // False at the end.
  bool AwaitDraining() {
    absl::MutexLock lock(&mu);
    const auto decided = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return draining || done; };
    mu.Await(absl::Condition(&decided));
    return !done;
  }
  absl::Status AwaitEnd() {
    absl::MutexLock lock(&mu);
    mu.Await(absl::Condition(&done));
    return end;
  }
  // Why there is no session, for people.
  absl::Status Problem() {
    absl::MutexLock lock(&mu);
    if (first_event && session.id.size() != kSessionIdBytes) {
      return absl::InternalError("the daemon gave no session id of 16 bytes");
    }
    if (!first_event && absl::IsCancelled(end)) {
      return absl::DeadlineExceededError("connected, but the daemon does not answer");
    }
    return end.ok() ? absl::UnavailableError("the daemon ended the session") : end;
  }
};

// Deletes itself when the call is over.
class SessionKeeper::Reactor : public grpc::ClientReadReactor<v1::SessionEvent> {
 public:
  explicit Reactor(std::shared_ptr<Stream> stream) : stream_(std::move(stream)) {
    stream_->stub.async()->Session(&stream_->context, &stream_->request, this);
    StartRead(&stream_->event);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    {
      absl::MutexLock lock(&stream_->mu);
      if (!stream_->first_event) {
        stream_->first_event = true;
        stream_->session.id = stream_->event.session_id();
        stream_->session.instance_id = stream_->event.instance_id();
        stream_->session.server_version = stream_->event.server_version();
      }
      if (stream_->event.draining()) stream_->draining = true;
    }
    StartRead(&stream_->event);
  }

  void OnDone(const grpc::Status& status) override {
    {
      absl::MutexLock lock(&stream_->mu);
      stream_->end = FromGrpc(status);
      stream_->done = true;
    }
    delete this;
  }

 private:
  const std::shared_ptr<Stream> stream_;
};

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
    if (stream_) stream_->context.TryCancel();
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
  return absl::UnavailableError(absl::StrCat("no session with the daemon: ", last_error_.message()));
}

void SessionKeeper::Suspect(uint64_t generation) {
  absl::MutexLock lock(&mu_);
  if (session_.id.empty() || session_.generation != generation) return;
  session_.id.clear();
  hope_until_ = Deadline::In(options_.connect_wait);
  if (stream_) stream_->context.TryCancel();
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
  auto stream = std::make_shared<Stream>(channel_);
  stream->request.set_client_name(options_.client_name);
  stream->request.set_client_version(kVersion);
  {
    absl::MutexLock lock(&mu_);
    if (stop_) return false;
    stream_ = stream;
  }
  new Reactor(stream);
  const bool opened = stream->AwaitFirstEvent(options_.attempt_timeout);
  if (opened) {
    Publish(stream.get());
    if (stream->AwaitDraining()) {
      absl::MutexLock lock(&mu_);
      session_.draining = true;
    }
  } else {
    stream->context.TryCancel();
  }
  stream->AwaitEnd().IgnoreError();
  Withdraw(opened, stream->Problem());
  return opened;
}

void SessionKeeper::Publish(Stream* stream) {
  Session session;
  {
    absl::MutexLock lock(&stream->mu);
    session = stream->session;
  }
  {
    absl::MutexLock lock(&mu_);
    session.generation = session_.generation + 1;
  }
  if (on_open_) on_open_(session);
  absl::MutexLock lock(&mu_);
  session_ = session;
  failed_ = false;
}

void SessionKeeper::Withdraw(bool was_open, absl::Status why) {
  absl::MutexLock lock(&mu_);
  // A session that was open gives hope for another soon, a failed attempt takes it.
  if (was_open && !session_.id.empty()) hope_until_ = Deadline::In(options_.connect_wait);
  failed_ = !was_open;
  session_.id.clear();
  session_.draining = false;
  last_error_ = std::move(why);
  stream_ = nullptr;
}

bool SessionKeeper::Pause(absl::Duration pause) {
  absl::MutexLock lock(&mu_);
  return !mu_.AwaitWithTimeout(absl::Condition(&stop_), pause);
}

}  // namespace kvstow::client
