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

class StagingListener::DeviceArea final : public StagingArea {
 public:
  DeviceArea(std::unique_ptr<gpu::SharedMemory> memory, uint64_t charged,
             std::shared_ptr<ByteBudget> budget)
      : memory_(std::move(memory)), charged_(charged), budget_(std::move(budget)) {}
  ~DeviceArea() override {
    memory_.reset();
    budget_->Give(charged_);
  }

  std::span<std::byte> bytes() const override { return memory_->bytes(); }
  bool on_device() const override { return true; }
  int descriptor() const { return memory_->descriptor(); }
  void CloseDescriptor() { memory_->CloseDescriptor(); }
  void NoteCharged(uint64_t more) { charged_ += more; }

 private:
  std::unique_ptr<gpu::SharedMemory> memory_;
  uint64_t charged_;
  const std::shared_ptr<ByteBudget> budget_;
};

absl::StatusOr<std::unique_ptr<StagingListener>> StagingListener::Start(
    const std::string& unix_socket, StagingOptions options, Service* service,
    const Tenants* tenants, const Clock* clock, RandomSource* random, gpu::Device* device) {
  const std::string path = SideChannelPath(unix_socket);
  KVSTOW_ASSIGN_OR_RETURN(OwnedFd listener, ListenSideChannel(path));
  OwnedFd stop(eventfd(0, EFD_CLOEXEC));
  if (!stop) return absl::ErrnoToStatus(errno, "eventfd");
  return std::unique_ptr<StagingListener>(
      new StagingListener(path, std::move(listener), std::move(stop), options,
                          Parts{service, tenants, clock, random, device}));
}

StagingListener::StagingListener(std::string path, OwnedFd listener, OwnedFd stop,
                                 StagingOptions options, Parts parts)
    : path_(std::move(path)),
      options_(options),
      parts_(parts),
      budget_(std::make_shared<ByteBudget>(options.budget_bytes)),
      device_budget_(std::make_shared<ByteBudget>(options.device_budget_bytes)),
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
    std::erase_if(guests_, [this](Guest& guest) { return Serve(guest); });
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
    guests_.push_back({std::move(connection), parts_.clock->Now()});
  }
}

void StagingListener::Rest() {
  pollfd stop{.fd = stop_.get(), .events = POLLIN, .revents = 0};
  poll(&stop, 1, 100);
}

bool StagingListener::Serve(Guest& guest) {
  return guest.unproved ? ServeProof(guest) : ServeRequest(guest);
}

bool StagingListener::ServeRequest(Guest& guest) {
  auto request = ReceiveRequest(guest.connection);
  if (request.ok() && !*request) return parts_.clock->Now() - guest.since >= options_.patience;
  absl::Status status = request.status();
  if (status.ok()) {
    status = (*request)->gpu ? GrantOnDevice(guest, **request) : Grant(guest, **request);
  }
  if (!status.ok()) SendRefusal(guest.connection, status);
  return !guest.unproved;
}

bool StagingListener::ServeProof(Guest& guest) {
  auto word = ReceiveProof(guest.connection);
  if (word.ok() && !*word) return parts_.clock->Now() - guest.since >= options_.proof_patience;
  absl::Status status = word.status();
  if (status.ok()) status = Prove(*guest.unproved, **word);
  if (status.ok()) {
    auto region = guest.unproved->session->ShareStaging(guest.unproved->area);
    status = region.status();
    if (region.ok()) SendProved(guest.connection, {*region, guest.unproved->area->bytes().size()});
  }
  if (!status.ok()) SendRefusal(guest.connection, status);
  return true;
}

absl::StatusOr<std::shared_ptr<Session>> StagingListener::FindSession(
    const Guest& guest, const StagingRequest& request) const {
  KVSTOW_ASSIGN_OR_RETURN(auto session, parts_.service->FindSession(SessionId{request.session}));
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(guest.connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return absl::ErrnoToStatus(errno, "who is there");
  }
  if (!parts_.tenants->MayStage(session->tenant(), peer.uid)) {
    return absl::PermissionDeniedError(
        absl::StrCat("user ", peer.uid,
                     " may not share memory with this tenant's sessions; add it "
                     "to the tenant's users"));
  }
  return session;
}

absl::Status StagingListener::TakeBytes(ByteBudget* budget, uint64_t bytes,
                                        absl::string_view setting) {
  if (bytes == 0) return absl::InvalidArgumentError("a request for 0 bytes of staging");
  if (bytes <= budget->limit() && budget->TryTake(bytes)) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("sessions share ", budget->used(), " of ",
                                                   budget->limit(), " bytes; raise ", setting));
}

absl::Status StagingListener::Grant(const Guest& guest, const StagingRequest& request) {
  KVSTOW_ASSIGN_OR_RETURN(auto session, FindSession(guest, request));
  const uint64_t bytes = std::min(request.bytes, options_.session_bytes);
  // First, so that what takes its place need not fit beside it.
  session->DropStaging(/*on_device=*/false);
  KVSTOW_RETURN_IF_ERROR(TakeBytes(budget_.get(), bytes, "staging.total"));
  auto made = SharedRegion::Create(bytes);
  if (!made.ok()) {
    budget_->Give(bytes);
    return made.status();
  }
  auto area = std::make_shared<SharedArea>(std::move(made->first), budget_);
  KVSTOW_ASSIGN_OR_RETURN(uint32_t region, session->ShareStaging(std::move(area)));
  SendGrant(guest.connection, {.region = region, .bytes = bytes}, made->second.get());
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<StagingListener::DeviceArea>> StagingListener::ShareDevice(
    uint64_t bytes) {
  constexpr absl::string_view kSetting = "staging.device_total";
  KVSTOW_RETURN_IF_ERROR(TakeBytes(device_budget_.get(), bytes, kSetting));
  auto made = parts_.device->Share(bytes);
  if (!made.ok()) {
    device_budget_->Give(bytes);
    return made.status();
  }
  auto area = std::make_shared<DeviceArea>(*std::move(made), bytes, device_budget_);
  // The device gives whole pages, megabytes each, however little was asked for: all of it counts.
  if (const uint64_t more = area->bytes().size() - bytes; more > 0) {
    KVSTOW_RETURN_IF_ERROR(TakeBytes(device_budget_.get(), more, kSetting));
    area->NoteCharged(more);
  }
  return area;
}

absl::Status StagingListener::GrantOnDevice(Guest& guest, const StagingRequest& request) {
  KVSTOW_ASSIGN_OR_RETURN(auto session, FindSession(guest, request));
  if (parts_.device == nullptr) {
    return absl::UnavailableError("the daemon uses no GPU, or shares none of its memory");
  }
  if (*request.gpu != parts_.device->uuid()) {
    return absl::FailedPreconditionError("the worker's GPU is another one than the daemon's");
  }
  session->DropStaging(/*on_device=*/true);
  const uint64_t bytes = std::min(request.bytes, options_.device_session_bytes);
  KVSTOW_ASSIGN_OR_RETURN(auto area, ShareDevice(bytes));
  Unproved unproved{std::move(session), area, {}};
  parts_.random->Fill(std::as_writable_bytes(std::span(unproved.probe.bytes)));
  const gpu::Copy write{area->bytes().data(),
                        reinterpret_cast<const std::byte*>(unproved.probe.bytes.data()),
                        unproved.probe.bytes.size()};
  KVSTOW_RETURN_IF_ERROR(parts_.device->CopyAll({&write, 1}));
  SendProbe(guest.connection, area->bytes().size(), unproved.probe, area->descriptor());
  area->CloseDescriptor();
  guest.unproved = std::move(unproved);
  guest.since = parts_.clock->Now();
  return absl::OkStatus();
}

absl::Status StagingListener::Prove(const Unproved& unproved, const absl::Status& word) const {
  KVSTOW_RETURN_IF_ERROR(word);
  StagingProbe found;
  const gpu::Copy read{reinterpret_cast<std::byte*>(found.bytes.data()),
                       unproved.area->bytes().data() + found.bytes.size(), found.bytes.size()};
  KVSTOW_RETURN_IF_ERROR(parts_.device->CopyAll({&read, 1}));
  if (found == unproved.probe.Answer()) return absl::OkStatus();
  return absl::FailedPreconditionError("the daemon does not see what the worker wrote");
}

}  // namespace kvstow
