#include "client/daemon_link.h"

#include <grpcpp/channel.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/channel.h"
#include "client/socket_buffers.h"
#include "client/unary_call.h"

namespace kvstow::client {

namespace {

// The daemon is there: connections that failed before it came need not sit their pause out.
void Reconnect(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::experimental::ChannelResetConnectionBackoff(channel.get());
  channel->WaitForConnected(Deadline::In(absl::Milliseconds(200)).AsTimespec());
}

// How long a call that must have shared memory waits for a slot.
constexpr absl::Duration kSlotWait = absl::Seconds(5);

// Gets in line for a thread: what is behind so many is late anyway.
constexpr size_t kGetsWaiting = 256;

// Of a daemon on this host; empty when there is none.
std::string SocketOf(const ClientOptions& options) {
  absl::string_view target = options.target;
  if (!absl::ConsumePrefix(&target, "unix:")) return "";
  absl::ConsumePrefix(&target, "//");  // unix:///absolute
  return std::string(target);
}

// Where memory for this path can be asked for; empty when it cannot or must not be.
std::string SocketOf(const ClientOptions& options, DataPath path) {
  const bool wanted = options.path == DataPath::kAuto || options.path == path;
  return wanted ? SocketOf(options) : "";
}

StagingLink::Options HostStaging(const ClientOptions& options) {
  StagingLink::Options out;
  out.unix_socket = SocketOf(options, DataPath::kSharedMemory);
  return out;
}

// Large slots: a plane in device memory is there in no time, so what a slot has to hold is what
// both sides do while a message travels.
StagingLink::Options DeviceStaging(const ClientOptions& options) {
  StagingLink::Options out;
  out.gpu = options.gpu;
  out.region_bytes = uint64_t{1} << 30;
  out.slots = 2;
  out.answer_timeout = absl::Seconds(10);
  if (options.gpu != nullptr) out.unix_socket = SocketOf(options, DataPath::kDeviceMemory);
  return out;
}

}  // namespace

DaemonLink::DaemonLink(ClientOptions options)
    : options_(std::move(options)),
      channel_(MakeChannel(options_.target, options_.security)),
      put_channel_(MakeChannel(options_.target, options_.security)),
      session_channel_(MakeChannel(options_.target, options_.security)),
      breaker_(
          {options_.breaker_failures, options_.breaker_cooldown, options_.breaker_max_cooldown}),
      staging_(HostStaging(options_)),
      device_staging_(DeviceStaging(options_)),
      get_threads_(std::max<size_t>(options_.get_threads, 1), kGetsWaiting),
      put_threads_(std::max<size_t>(options_.put_threads, 1), options_.puts_waiting),
      sessions_(session_channel_,
                {.client_name = options_.client_name,
                 .prefill_tokens_per_second = options_.prefill_tokens_per_second,
                 .connect_wait = options_.connect_wait},
                [this](const Session& session) { OnSession(session); }) {}

void DaemonLink::OnSession(const Session& session) {
  Reconnect(channel_);
  Reconnect(put_channel_);
  if (const std::string socket = SocketOf(options_); !socket.empty()) WidenSendBuffers(socket);
  staging_.OnSession(session.id);
  device_staging_.OnSession(session.id);
  absl::MutexLock lock(&mu_);
  // Another process: what the old one failed to do says nothing of it.
  if (!instance_id_.empty() && session.instance_id != instance_id_) breaker_.Reset();
  instance_id_ = session.instance_id;
}

absl::Status DaemonLink::Explain(const absl::Status& no_session) const {
  const absl::Status security = CheckSecurity(options_.target, options_.security);
  if (security.ok()) return no_session;
  return absl::Status(no_session.code(),
                      absl::StrCat(no_session.message(), "; ", security.message()));
}

absl::Status DaemonLink::Fail(absl::Status status) {
  ++failures_;
  absl::MutexLock lock(&mu_);
  last_error_ = status;
  return status;
}

absl::Status DaemonLink::Call(Work work, const Deadline& deadline,
                              absl::FunctionRef<Outcome(const Session&)> call) {
  CircuitBreaker::Permit permit = breaker_.Admit();
  if (!permit) {
    ++shed_;
    return absl::UnavailableError("the circuit breaker is open after failures in a row");
  }
  // Being without a session costs nothing to find out, so that the breaker need not know.
  absl::StatusOr<Session> session = sessions_.Get(deadline);
  if (!session.ok()) return Fail(Explain(session.status()));
  if (session->draining && work == Work::kNew) {
    return absl::UnavailableError("the daemon is shutting down");
  }
  Outcome outcome = call(*session);
  switch (outcome.verdict) {
    case Outcome::Verdict::kFailed:
      permit.Failure();
      sessions_.Look();
      return Fail(std::move(outcome.status));
    case Outcome::Verdict::kAlive:
      permit.Success();
      break;
    case Outcome::Verdict::kSilent:
      break;
  }
  return outcome.status;
}

Outcome DaemonLink::Unary(const std::string& method, const google::protobuf::MessageLite& request,
                          const Deadline& deadline, google::protobuf::MessageLite* response) {
  return Judge(CallUnary(channel_, method, request, deadline, response));
}

absl::StatusOr<std::optional<StagingLink::Slot>> DaemonLink::BorrowSlot(
    Kv kv, const std::string& session_id, const Deadline& deadline) {
  const Deadline patience = deadline.EarlierOf(Deadline::In(kSlotWait));
  if (options_.path == DataPath::kDeviceMemory && kv == Kv::kOnHost) {
    return absl::UnavailableError("this call's KV is not in device memory, which was asked for");
  }
  StagingLink* const links[] = {kv == Kv::kOnDevice ? &device_staging_ : nullptr, &staging_};
  const DataPath paths[] = {DataPath::kDeviceMemory, DataPath::kSharedMemory};
  const char* const names[] = {"device", "shared"};
  for (size_t i = 0; i < std::size(links); ++i) {
    if (links[i] == nullptr) continue;
    const bool must = options_.path == paths[i];
    auto slot = links[i]->Borrow(session_id, must ? &patience : nullptr);
    if (slot) return slot;
    if (!must) continue;
    const absl::Status why = links[i]->why_not();
    return absl::UnavailableError(absl::StrCat(
        "no ", names[i], " memory: ", why.ok() ? "every slot is in use" : why.message()));
  }
  return std::optional<StagingLink::Slot>();
}

Client::Health DaemonLink::health() const {
  const Session session = sessions_.current();
  Client::Health health;
  health.connected = !session.id.empty();
  health.breaker_open = breaker_.open();
  health.draining = session.draining;
  health.sessions = session.generation;
  health.failures = failures_;
  health.shed = shed_;
  health.no_shared_memory = staging_.why_not();
  health.no_device_memory = options_.gpu == nullptr
                                ? absl::UnavailableError("the client was given no GPU")
                                : device_staging_.why_not();
  if (health.no_shared_memory.ok()) health.path = DataPath::kSharedMemory;
  if (health.no_device_memory.ok()) health.path = DataPath::kDeviceMemory;
  absl::MutexLock lock(&mu_);
  health.instance_id = instance_id_;
  health.last_error = last_error_;
  if (!health.connected && last_error_.ok()) health.last_error = sessions_.last_error();
  return health;
}

}  // namespace kvstow::client
