#include "server/rpc/session_reactor.h"

#include <memory>
#include <string>
#include <utility>

#include "server/rpc/caller.h"
#include "server/rpc/finish_once.h"
#include "server/rpc/grpc_status.h"

namespace kvstow {
namespace {

class SessionReactor final : public grpc::ServerWriteReactor<v1::SessionEvent>,
                             public OpenCall,
                             public std::enable_shared_from_this<SessionReactor> {
 public:
  SessionReactor(const RpcContext& rpc, grpc::CallbackServerContext* context)
      : rpc_(rpc), caller_(Admit(rpc, *context)), start_(rpc.clock->Now()) {}

  void Start(const v1::SessionRequest& request) {
    self_ = shared_from_this();
    absl::Status status = caller_.status();
    if (status.ok()) status = rpc_.calls->Add(self_);
    if (status.ok()) status = Open(request);
    if (!status.ok()) End(status);
  }

  // ---- OpenCall ----
  Kind kind() const override { return Kind::kSession; }
  TenantId tenant() const override { return caller_->tenant; }
  absl::Time waiting_since() const override { return absl::InfiniteFuture(); }
  void NoteDraining() override {
    absl::MutexLock lock(&mu_);
    drain_wanted_ = true;
    if (!writing_) TellDraining();
  }
  void Abort(const absl::Status& status) override { End(status); }

  // ---- ServerWriteReactor ----
  void OnWriteDone(bool ok) override {
    if (!ok) {
      End(absl::CancelledError("the client is gone"));
      return;
    }
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (drain_wanted_ && !drain_told_) TellDraining();
  }
  void OnCancel() override { End(absl::CancelledError("cancelled")); }
  void OnDone() override {
    rpc_.calls->Remove(this);
    self_.reset();
  }

 private:
  absl::Status Open(const v1::SessionRequest& request) {
    auto session = rpc_.service->BeginSession(tenant(), request.client_name(),
                                              request.prefill_tokens_per_second());
    if (!session.ok()) return session.status();
    absl::MutexLock lock(&mu_);
    session_ = *std::move(session);
    event_.set_session_id(std::string(reinterpret_cast<const char*>(session_->id().bytes.data()),
                                      session_->id().bytes.size()));
    event_.set_server_version(rpc_.server_version);
    event_.set_instance_id(rpc_.instance_id);
    Write();
    // Cancelled before there was a session to end: nobody else will end it.
    if (!writing_) rpc_.service->EndSession(session_->id());
    return absl::OkStatus();
  }

  void TellDraining() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    drain_told_ = true;
    event_.Clear();
    event_.set_draining(true);
    Write();
  }

  void Write() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    writing_ = finish_.IfOpen([&] { StartWrite(&event_); });
  }

  void End(const absl::Status& status) {
    std::shared_ptr<Session> session;
    {
      absl::MutexLock lock(&mu_);
      session = session_;
    }
    // Before the stream is done, so that who sees it end finds everything released.
    if (session != nullptr) rpc_.service->EndSession(session->id());
    finish_.Finish([&] {
      rpc_.sink->OnCall({"Session", "grpc", status.code(), rpc_.clock->Now() - start_, 0});
      Finish(ToGrpc(status));
    });
  }

  const RpcContext& rpc_;
  const absl::StatusOr<Caller> caller_;
  const absl::Time start_;
  std::shared_ptr<SessionReactor> self_;  // until OnDone
  FinishOnce finish_;

  absl::Mutex mu_;
  std::shared_ptr<Session> session_ ABSL_GUARDED_BY(mu_);
  v1::SessionEvent event_;  // the write under way; guarded by mu_ while there is none
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool drain_wanted_ ABSL_GUARDED_BY(mu_) = false;
  bool drain_told_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace

grpc::ServerWriteReactor<v1::SessionEvent>* StartSession(const RpcContext& rpc,
                                                         grpc::CallbackServerContext* context,
                                                         const v1::SessionRequest* request) {
  auto reactor = std::make_shared<SessionReactor>(rpc, context);
  reactor->Start(*request);
  return reactor.get();
}

}  // namespace kvstow
