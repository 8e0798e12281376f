#include "server/staging/staging_listener.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/core/status_macros.h"

namespace kvstow {
namespace {

class SharedArea final : public StagingArea {
 public:
  SharedArea(SharedRegion region, std::shared_ptr<ByteBudget> budget)
      : region_(std::move(region)), budget_(std::move(budget)) {}
  ~SharedArea() override { budget_->Give(region_.bytes().size()); }

  std::span<std::byte> bytes() const override { return region_.bytes(); }

 private:
  const SharedRegion region_;
  const std::shared_ptr<ByteBudget> budget_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StagingListener>> StagingListener::Start(
    const std::string& unix_socket, StagingOptions options, Service* service,
    const Tenants* tenants, const Clock* clock) {
  const std::string path = SideChannelPath(unix_socket);
  KVSTOW_ASSIGN_OR_RETURN(OwnedFd listener, ListenSideChannel(path));
  OwnedFd stop(eventfd(0, EFD_CLOEXEC));
  if (!stop) return absl::ErrnoToStatus(errno, "eventfd");
  return std::unique_ptr<StagingListener>(new StagingListener(
      path, std::move(listener), std::move(stop), options, service, tenants, clock));
}

StagingListener::StagingListener(std::string path, OwnedFd listener, OwnedFd stop,
                                 StagingOptions options, Service* service, const Tenants* tenants,
                                 const Clock* clock)
    : path_(std::move(path)),
      options_(options),
      service_(service),
      tenants_(tenants),
      clock_(clock),
      budget_(std::make_shared<ByteBudget>(options.budget_bytes)),
      listener_(std::move(listener)),
      stop_(std::move(stop)),
      thread_([this] { Loop(); }) {}

StagingListener::~StagingListener() {
  const uint64_t one = 1;
  static_cast<void>(write(stop_.get(), &one, sizeof(one)));
  thread_.join();
  unlink(path_.c_str());
}

void StagingListener::Loop() {
  while (Wait()) {
    Accept();
    std::erase_if(guests_, [this](const Guest& guest) { return Serve(guest); });
  }
}

bool StagingListener::Wait() {
  std::vector<pollfd> wait;
  wait.push_back({.fd = stop_.get(), .events = POLLIN, .revents = 0});
  // With a full house newcomers wait in the socket's own queue.
  const bool room = guests_.size() < options_.max_connections;
  wait.push_back({.fd = room ? listener_.get() : -1, .events = POLLIN, .revents = 0});
  for (const Guest& guest : guests_) {
    wait.push_back({.fd = guest.connection.get(), .events = POLLIN, .revents = 0});
  }
  const int timeout =
      guests_.empty() ? -1 : static_cast<int>(ToInt64Milliseconds(options_.patience));
  poll(wait.data(), wait.size(), timeout);
  return wait.front().revents == 0;
}

void StagingListener::Accept() {
  while (guests_.size() < options_.max_connections) {
    OwnedFd connection(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!connection) {
      // Out of descriptors, say: the next one is no better off for being tried at once.
      if (errno != EAGAIN) Rest();
      return;
    }
    guests_.push_back({std::move(connection), clock_->Now()});
  }
}

void StagingListener::Rest() {
  pollfd stop{.fd = stop_.get(), .events = POLLIN, .revents = 0};
  poll(&stop, 1, 100);
}

bool StagingListener::Serve(const Guest& guest) {
  auto request = ReceiveRequest(guest.connection);
  if (!request.ok()) {
    SendRefusal(guest.connection, request.status());
    return true;
  }
  if (!*request) return clock_->Now() - guest.since >= options_.patience;
  Grant(guest, **request);
  return true;
}

absl::StatusOr<std::shared_ptr<Session>> StagingListener::FindSession(
    const Guest& guest, const StagingRequest& request) const {
  KVSTOW_ASSIGN_OR_RETURN(auto session, service_->FindSession(SessionId{request.session}));
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(guest.connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return absl::ErrnoToStatus(errno, "who is there");
  }
  if (!tenants_->MayStage(session->tenant(), peer.uid)) {
    return absl::PermissionDeniedError(
        absl::StrCat("user ", peer.uid,
                     " may not share memory with this tenant's sessions; add it "
                     "to the tenant's users"));
  }
  return session;
}

void StagingListener::Grant(const Guest& guest, const StagingRequest& request) {
  const auto grant = [&]() -> absl::Status {
    KVSTOW_ASSIGN_OR_RETURN(auto session, FindSession(guest, request));
    const uint64_t bytes = std::min(request.bytes, options_.session_bytes);
    if (bytes == 0) return absl::InvalidArgumentError("a request for 0 bytes of staging");
    // First, so that what takes its place need not fit beside it.
    session->DropStaging();
    if (bytes > budget_->limit() || !budget_->TryTake(bytes)) {
      return absl::ResourceExhaustedError(absl::StrCat("sessions share ", budget_->used(), " of ",
                                                       budget_->limit(),
                                                       " bytes of staging; raise staging"));
    }
    auto made = SharedRegion::Create(bytes);
    if (!made.ok()) {
      budget_->Give(bytes);
      return made.status();
    }
    auto area = std::make_shared<SharedArea>(std::move(made->first), budget_);
    KVSTOW_ASSIGN_OR_RETURN(uint32_t region, session->ShareStaging(std::move(area)));
    SendGrant(guest.connection, {.region = region, .bytes = bytes}, made->second);
    return absl::OkStatus();
  };
  if (absl::Status s = grant(); !s.ok()) SendRefusal(guest.connection, s);
}

}  // namespace kvstow
