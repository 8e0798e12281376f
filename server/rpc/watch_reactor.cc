#include "server/rpc/watch_reactor.h"

#include <memory>
#include <optional>
#include <utility>

#include "server/core/status_macros.h"
#include "server/rpc/caller.h"
#include "server/rpc/convert.h"
#include "server/rpc/finish_once.h"
#include "server/rpc/grpc_status.h"

namespace kvstow {
namespace {

class WatchReactor final : public grpc::ServerWriteReactor<v1::WatchEvent>,
                           public OpenCall,
                           public std::enable_shared_from_this<WatchReactor> {
 public:
  WatchReactor(const RpcContext& rpc, grpc::CallbackServerContext* context)
      : rpc_(rpc), caller_(Admit(rpc, *context)), start_(rpc.clock->Now()) {}

  void Start(const v1::WatchRequest& request) {
    self_ = shared_from_this();
    absl::Status status = caller_.status();
    if (status.ok()) status = rpc_.calls->Add(self_);
    if (status.ok()) status = Open(request);
    if (!status.ok()) End(status);
  }

  // ---- OpenCall ----
  Kind kind() const override { return Kind::kWatch; }
  TenantId tenant() const override { return caller_->tenant; }
  absl::Time waiting_since() const override { return absl::InfiniteFuture(); }
  void NoteDraining() override {}
  void Abort(const absl::Status& status) override { End(status); }

  // ---- ServerWriteReactor ----
  void OnWriteDone(bool ok) override {
    if (!ok) {
      End(absl::CancelledError("the client is gone"));
      return;
    }
    Continue();
  }
  void OnCancel() override { End(absl::CancelledError("cancelled")); }
  void OnDone() override {
    rpc_.calls->Remove(this);
    self_.reset();
  }

 private:
  absl::Status Open(const v1::WatchRequest& request) {
    KVSTOW_ASSIGN_OR_RETURN(SessionId session, SessionIdFromBytes(request.session_id()));
    KVSTOW_ASSIGN_OR_RETURN(auto watching, rpc_.service->Watch(tenant(), session, request.space()));
    {
      absl::MutexLock lock(&mu_);
      watching_ = watching;
    }
    event_.set_kind(v1::WatchEvent::WATCHING);
    // Cancelled before there was a watcher to end: nobody else will end it.
    if (!finish_.IfOpen([&] { StartWrite(&event_); })) rpc_.service->Unwatch(watching);
    return absl::OkStatus();
  }

  // Writes the next event, or waits for one.
  void Continue() {
    if (!event_to_come_) {
      std::shared_ptr<WatchHub::Watcher> watcher;
      {
        absl::MutexLock lock(&mu_);
        if (!watching_) return;
        watcher = watching_->watcher;
      }
      // The wake-up comes under the store's lock; a write only queues there, so it is quick enough,
      // but the next look at the hub must be on another stack.
      auto item = watcher->Next([self = shared_from_this()] { self->Wake(); });
      if (!item) return;
      event_to_come_ = item->event;
      if (item->lost > 0) {
        event_.Clear();
        event_.set_kind(v1::WatchEvent::LOST);
        event_.set_lost(item->lost);
        finish_.IfOpen([&] { StartWrite(&event_); });
        return;
      }
    }
    event_.Clear();
    ToProto(*event_to_come_, &event_);
    event_to_come_.reset();
    finish_.IfOpen([&] { StartWrite(&event_); });
  }

  void Wake() {
    rpc_.service->RunSoon(WorkPriority::kGet, [self = shared_from_this()] { self->Continue(); });
  }

  void End(const absl::Status& status) {
    std::optional<Service::Watching> watching;
    {
      absl::MutexLock lock(&mu_);
      watching = std::exchange(watching_, std::nullopt);
    }
    if (watching) rpc_.service->Unwatch(*watching);
    finish_.Finish([&] {
      rpc_.sink->OnCall({"Watch", "grpc", status.code(), rpc_.clock->Now() - start_, 0});
      Finish(ToGrpc(status));
    });
  }

  const RpcContext& rpc_;
  const absl::StatusOr<Caller> caller_;
  const absl::Time start_;
  std::shared_ptr<WatchReactor> self_;  // until OnDone
  FinishOnce finish_;
  // Of the chain write, written, next.
  v1::WatchEvent event_;
  std::optional<StoreEvent> event_to_come_;

  absl::Mutex mu_;
  std::optional<Service::Watching> watching_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

grpc::ServerWriteReactor<v1::WatchEvent>* StartWatch(const RpcContext& rpc,
                                                     grpc::CallbackServerContext* context,
                                                     const v1::WatchRequest* request) {
  auto reactor = std::make_shared<WatchReactor>(rpc, context);
  reactor->Start(*request);
  return reactor.get();
}

}  // namespace kvstow
