#include "server/rpc/put_reactor.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "server/core/status_macros.h"
#include "server/rpc/answer_turn.h"
#include "server/rpc/bulk_reactor.h"
#include "server/rpc/convert.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/wire.h"

namespace kvstow {
namespace {

class PutReactor final
    : public BulkReactor<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  PutReactor(const RpcContext& rpc, grpc::CallbackServerContext* context)
      : BulkReactor(rpc, context) {}
  ~PutReactor() override {
    for (const auto& message : arrived_) {
      if (message != nullptr && message->is_chunk) OverwriteChunk(*message);
    }
  }

  void Start() {
    if (absl::Status s = Enter(); !s.ok()) {
      End(s);
      return;
    }
    absl::MutexLock lock(&mu_);
    WaitForClient();
    ReadAhead();
  }

  // ---- ServerBidiReactor ----
  void OnReadDone(bool ok) override {
    std::unique_ptr<IncomingPut> message;  // null: the client closed its side or went away
    if (ok) {
      auto parsed = ParsePutRequest(incoming_);
      if (!parsed.ok()) {
        End(parsed.status());
        return;
      }
      message = *std::move(parsed);
    }
    {
      absl::MutexLock lock(&mu_);
      reading_ = false;
      if (ok) StopWaiting();
      closed_ = !ok;
      arrived_.push_back(std::move(message));
      ReadAhead();
      if (std::exchange(taking_, true)) return;
    }
    if (GoesOnHere()) TakeArrived();
  }
  void OnWriteDone(bool ok) override {
    if (!ok) {
      End(absl::CancelledError("the client is gone"));
      return;
    }
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (results_ready_) {
      SendResults();
    } else if (consumed_told_ < consumed_) {
      TellConsumed();
    }
  }

 private:
  std::shared_ptr<PutReactor> Self() {
    return std::static_pointer_cast<PutReactor>(shared_from_this());
  }

  // Messages are taken in order, one at a time, while one of gRPC's other threads brings the next:
  // a chunk where it arrived, whose core has it in its cache; planes of a slot, which a message
  // names by the megabyte, on the executor, where Gets go before them.
  void TakeArrived() {
    while (TakeNext() && GoesOnHere()) {
    }
  }
  // Whether the caller is to take the next message.
  bool GoesOnHere() {
    absl::MutexLock lock(&mu_);
    if (arrived_.empty()) {
      taking_ = false;
      if (!committed_) WaitForClient();
      return false;
    }
    const auto& next = arrived_.front();
    if (put_ == nullptr || !put_->copies() || next == nullptr || !next->request.has_staged()) {
      return true;
    }
    rpc_.service->RunSoon(WorkPriority::kPut, [self = Self()] { self->TakeArrived(); });
    return false;
  }
  // False when the call has ended, or the codec has to catch up first and whoever has seen it do
  // so goes on.
  bool TakeNext() {
    std::unique_ptr<IncomingPut> message;
    {
      absl::MutexLock lock(&mu_);
      message = std::move(arrived_.front());
      arrived_.pop_front();
      ReadAhead();
    }
    if (!finish_.is_open()) return false;  // so that nothing is taken any more
    if (absl::Status s = Take(message.get()); !s.ok()) {
      End(s);
      return false;
    }
    // Whoever has a part of a plane is let finish it: only whole ones become less.
    const auto put = this->put();
    if (put->is_amid_plane()) return true;
    // Before more is taken: flow control then holds the client back.
    put->phases().Enter(CallPhase::kAdmission);
    turn_.Ask();
    // Who waits keeps nothing of a call that has ended, which may be what others wait for.
    rpc_.service->WhenBelowInflightLimit([self = std::weak_ptr<PutReactor>(Self())] {
      if (const auto reactor = self.lock()) reactor->OnBelowLimit();
    });
    return turn_.Leave();
  }
  void OnBelowLimit() {
    put()->phases().Leave(CallPhase::kAdmission);
    if (turn_.Answer() && GoesOnHere()) TakeArrived();
  }
  void ReadAhead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (reading_ || closed_ || arrived_.size() >= kReadAhead) return;
    reading_ = finish_.IfOpen([&] {
      incoming_.Clear();
      StartRead(&incoming_);
    });
  }

  // Null: nothing more comes.
  absl::Status Take(IncomingPut* message) {
    if (message == nullptr) {
      // Without a commit nothing is stored.
      return committed_ ? absl::OkStatus()
                        : absl::AbortedError("the stream ended before its commit");
    }
    if (committed_) return absl::InvalidArgumentError("a message after the commit");
    if (message->is_chunk) return TakeChunk(*message);
    switch (message->request.what_case()) {
      case v1::PutRequest::kAnnounce:
        return TakeAnnounce(message->request.announce());
      case v1::PutRequest::kStaged:
        return TakeStaged(message->request.staged());
      case v1::PutRequest::kCommit:
        return TakeCommit();
      default:
        return absl::InvalidArgumentError(
            "a Put message that is neither announce, chunk, staged nor commit");
    }
  }

  absl::Status TakeAnnounce(const v1::PutRequest::Announce& announce) {
    if (put() != nullptr) return absl::InvalidArgumentError("a second announce");
    const absl::Time begin = rpc_.clock->Now();
    KVSTOW_ASSIGN_OR_RETURN(SessionId session, SessionIdFromBytes(announce.session_id()));
    KVSTOW_ASSIGN_OR_RETURN(auto intents, FromProto(announce.blocks()));
    KVSTOW_ASSIGN_OR_RETURN(const PlaneForm form, FromProto(announce.form()));
    KVSTOW_ASSIGN_OR_RETURN(
        auto put,
        rpc_.service->Put(
            tenant(), session, announce.space(), std::move(intents),
            TtlFromMillis(announce.ttl_ms()),
            announce.has_slot() ? std::optional(FromProto(announce.slot())) : std::nullopt, form));
    NoteAdmission(begin);
    UsePath(put->path());
    put->SetOnConsumed([self = std::weak_ptr<PutReactor>(Self())](uint64_t segments) {
      if (const auto reactor = self.lock()) reactor->OnConsumed(segments);
    });
    v1::PutResponse response;
    ToProto(put->answers(), response.mutable_answers());
    absl::MutexLock lock(&mu_);
    put_ = std::move(put);
    Write(response);
    return absl::OkStatus();
  }

  absl::Status TakeChunk(IncomingPut& message) {
    const absl::Cleanup overwrite = [&message] { OverwriteChunk(message); };
    const auto put = this->put();
    if (put == nullptr) return absl::InvalidArgumentError("a chunk before the announce");
    const uint64_t before = put->received_bytes();
    KVSTOW_RETURN_IF_ERROR(put->Add(message.segments, message.data));
    NoteMoved(put->received_bytes() - before);
    return absl::OkStatus();
  }

  absl::Status TakeStaged(const v1::StagedChunk& staged) {
    const auto put = this->put();
    if (put == nullptr) return absl::InvalidArgumentError("staged planes before the announce");
    KVSTOW_ASSIGN_OR_RETURN(auto segments, FromProto(staged));
    const uint64_t before = put->received_bytes();
    KVSTOW_RETURN_IF_ERROR(put->AddStaged(segments));
    NoteMoved(put->received_bytes() - before);
    return absl::OkStatus();
  }

  absl::Status TakeCommit() {
    const auto put = this->put();
    if (put == nullptr) return absl::InvalidArgumentError("a commit before the announce");
    committed_ = true;
    return put->Commit([self = Self()](absl::StatusOr<PutResults> results) {
      self->OnStored(std::move(results));
    });
  }

  void OnStored(absl::StatusOr<PutResults> results) {
    if (!results.ok()) {
      End(results.status());
      return;
    }
    v1::PutResponse response;
    ToProto(*results, response.mutable_results());
    absl::MutexLock lock(&mu_);
    results_ = Serialize(response);
    results_ready_ = true;
    NoteProgress();
    WaitForClient();  // to read
    if (!writing_) SendResults();
  }

  // One write at a time.
  void Write(const v1::PutResponse& response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    outgoing_ = Serialize(response);
    writing_ = true;
    finish_.IfOpen([&] { StartWrite(&outgoing_); });
  }

  void OnConsumed(uint64_t segments) {
    absl::MutexLock lock(&mu_);
    consumed_ = std::max(consumed_, segments);
    if (!writing_ && !results_ready_ && consumed_told_ < consumed_) TellConsumed();
  }

  void TellConsumed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    consumed_told_ = consumed_;
    v1::PutResponse response;
    response.mutable_consumed()->set_segments(consumed_);
    Write(response);
  }

  void SendResults() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const auto put = put_;
    finish_.Finish([&] {
      Record(absl::StatusCode::kOk, put);
      StartWriteAndFinish(&results_, grpc::WriteOptions(), grpc::Status::OK);
    });
  }

  void End(const absl::Status& status) override {
    // First, so that who sees the call end finds nothing left of it.
    const auto put = this->put();
    if (put != nullptr && finish_.is_open()) put->Cancel();
    finish_.Finish([&] {
      Record(status.code(), put);
      Finish(ToGrpc(status));
    });
  }

  void Record(absl::StatusCode code, const std::shared_ptr<PutCall>& put) {
    if (put == nullptr) {
      Report("Put", code, 0, nullptr);
    } else {
      Report("Put", code, put->received_bytes(), &put->phases());
    }
  }

  std::shared_ptr<PutCall> put() const {
    absl::MutexLock lock(&mu_);
    return put_;
  }

  // Messages that wait while one is taken; more would only hold memory.
  static constexpr size_t kReadAhead = 2;

  AnswerTurn turn_;  // of WhenBelowInflightLimit

  grpc::ByteBuffer incoming_;  // being read
  bool committed_ = false;     // who takes messages only

  mutable absl::Mutex mu_;
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;  // nothing more to read
  bool taking_ ABSL_GUARDED_BY(mu_) = false;  // someone takes what has arrived; for ever at the end
  // Null: the client closed its side.
  std::deque<std::unique_ptr<IncomingPut>> arrived_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<PutCall> put_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  grpc::ByteBuffer outgoing_ ABSL_GUARDED_BY(mu_);  // being written
  uint64_t consumed_ ABSL_GUARDED_BY(mu_) = 0;      // staged segments
  uint64_t consumed_told_ ABSL_GUARDED_BY(mu_) = 0;
  bool results_ready_ ABSL_GUARDED_BY(mu_) = false;
  grpc::ByteBuffer results_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartPut(
    const RpcContext& rpc, grpc::CallbackServerContext* context) {
  auto reactor = std::make_shared<PutReactor>(rpc, context);
  reactor->Start();
  return reactor.get();
}

}  // namespace kvstow
