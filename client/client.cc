#include "client/kvstow/client.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "client/daemon_link.h"
#include "client/kvstow/coding.h"
#include "client/remote_space.h"

namespace kvstow {
namespace {

using client::DaemonLink;
using client::Deadline;

class RemoteClient : public Client {
 public:
  explicit RemoteClient(ClientOptions options)
      : link_(std::make_shared<DaemonLink>(std::move(options))) {}

  absl::StatusOr<std::shared_ptr<Space>> OpenSpace(SpaceSpec spec, Shard shard) override {
    auto layout = PlaneLayout::Create(std::move(spec), std::move(shard));
    if (!layout.ok()) return layout.status();
    std::shared_ptr<SpaceCoder> coder;
    if (PlaneCoder* device = link_->options().coder.get(); device != nullptr) {
      auto made = device->ForSpace(layout->spec(), layout->shard());
      if (!made.ok()) return made.status();
      coder = *std::move(made);
    }
    return std::make_shared<client::RemoteSpace>(link_, *std::move(layout), std::move(coder));
  }

  void Release(LeaseHandle lease) override {
    if (lease == 0) return;
    const auto deadline = Deadline::In(link_->options().control_deadline);
    v1::ReleaseRequest request;
    v1::ReleaseResponse response;
    request.add_leases(lease);
    link_
        ->Call(DaemonLink::Work::kFinish, deadline,
               [&](const DaemonLink::Session& session) {
                 request.set_session_id(session.id);
                 return link_->Unary("Release", request, deadline, &response);
               })
        .IgnoreError();
  }

  bool Renew(LeaseHandle lease, absl::Duration ttl) override {
    if (lease == 0) return false;
    const auto deadline = Deadline::In(link_->options().control_deadline);
    v1::RenewRequest request;
    v1::RenewResponse response;
    request.add_leases(lease);
    request.set_ttl_ms(std::max<int64_t>(absl::ToInt64Milliseconds(ttl), 0));
    const absl::Status status =
        link_->Call(DaemonLink::Work::kFinish, deadline, [&](const DaemonLink::Session& session) {
          request.set_session_id(session.id);
          return link_->Unary("Renew", request, deadline, &response);
        });
    return status.ok() && response.alive_size() == 1 && response.alive(0);
  }

  Health health() const override { return link_->health(); }

 private:
  const std::shared_ptr<DaemonLink> link_;
};

}  // namespace

absl::string_view Name(DataPath path) {
  switch (path) {
    case DataPath::kAuto:
      return "auto";
    case DataPath::kGrpc:
      return "grpc";
    case DataPath::kSharedMemory:
      return "shm";
    case DataPath::kDeviceMemory:
      return "cuda";
  }
  return "?";
}

std::unique_ptr<Client> Client::Create(ClientOptions options) {
  return std::make_unique<RemoteClient>(std::move(options));
}

}  // namespace kvstow
