#include "server/rpc/get_reactor.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "server/core/status_macros.h"
#include "server/rpc/bulk_reactor.h"
#include "server/rpc/convert.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/wire.h"

namespace kvstow {
namespace {

// Of one chunk, however small they are.
constexpr size_t kMaxSegments = 1024;

// A chain of single steps: ask for a plane, cut it into the chunk, write the chunk when it is full,
// go on when it is written. So nothing but End runs beside it.
class GetReactor final : public BulkReactor<grpc::ServerWriteReactor<grpc::ByteBuffer>> {
 public:
  GetReactor(const RpcContext& rpc, grpc::CallbackServerContext* context)
      : BulkReactor(rpc, context) {}

  void Start(const grpc::ByteBuffer& request) {
    absl::Status status = Enter();
    if (status.ok()) status = Open(request);
    if (!status.ok()) End(status);
  }

  // ---- ServerWriteReactor ----
  void OnWriteDone(bool ok) override {
    if (!ok) {
      End(absl::CancelledError("the client is gone"));
      return;
    }
    StopWaiting();
    Continue();
  }

 private:
  std::shared_ptr<GetReactor> Self() {
    return std::static_pointer_cast<GetReactor>(shared_from_this());
  }

  absl::Status Open(const grpc::ByteBuffer& buffer) {
    v1::GetRequest request;
    if (!Parse(buffer, &request)) {
      return absl::InvalidArgumentError("a message that is no kvstow.v1.GetRequest");
    }
    KVSTOW_ASSIGN_OR_RETURN(SessionId session, SessionIdFromBytes(request.session_id()));
    KVSTOW_ASSIGN_OR_RETURN(auto keys, KeysFromBytes(request.keys()));
    const PlaneForm form =
        request.form() == v1::GetRequest::FORM_ENCODED ? PlaneForm::kEncoded : PlaneForm::kDecoded;
    const std::vector<uint32_t> layers(request.layers().begin(), request.layers().end());
    KVSTOW_ASSIGN_OR_RETURN(
        auto get, rpc_.service->Get(tenant_, session, request.space(), keys, layers, form));
    {
      absl::MutexLock lock(&mu_);
      get_ = get;
    }
    v1::GetResponse response;
    ToProto(get->answers(), response.mutable_answers());
    Write(Serialize(response));
    return absl::OkStatus();
  }

  // Fills the chunk from the plane at hand, asks for the next, until there is something to write or
  // to wait for. A loop, however small the planes are: what Next gives at once is not taken on its
  // stack.
  void Continue() {
    for (bool more = true; more;) {
      if (plane_) CutPlane();
      if (chunk_bytes_ == kMaxChunkBytes || chunk_.size() == kMaxSegments) {
        WriteChunk();
        return;
      }
      if (news_) {
        const grpc::ByteBuffer news = *news_;
        news_.reset();
        Write(news);
        return;
      }
      more = Ask() && Take(std::move(answer_));
    }
  }

  // True when the answer came at once.
  bool Ask() {
    const auto get = this->get();
    if (get == nullptr) return false;
    turn_ = Turn::kAsked;
    get->Next([self = Self()](absl::StatusOr<PlaneDelivery> delivery) {
      self->answer_ = std::move(delivery);
      if (self->turn_.exchange(Turn::kAnswered) == Turn::kAsked) return;
      if (self->Take(std::move(self->answer_))) self->Continue();
    });
    return turn_.exchange(Turn::kLeft) == Turn::kAnswered;
  }

  // Whether to go on.
  bool Take(absl::StatusOr<PlaneDelivery> delivery) {
    if (!delivery.ok()) {
      End(delivery.status());
      return false;
    }
    switch (delivery->kind) {
      case PlaneDelivery::Kind::kPlane:
        plane_ = *std::move(delivery);
        plane_offset_ = 0;
        return true;
      case PlaneDelivery::Kind::kDamage:
        return TellDamage(*delivery);
      case PlaneDelivery::Kind::kEnd:
        at_end_ = true;
        WriteChunk();
        return false;
    }
    return false;
  }

  // Moves as much of the plane into the chunk as fits; lets the plane go when it is used up.
  void CutPlane() {
    const size_t n =
        std::min<size_t>(plane_->bytes.size() - plane_offset_, kMaxChunkBytes - chunk_bytes_);
    OutgoingPiece piece;
    piece.segment = {plane_->layer,
                     plane_->plane_kind,
                     plane_->block,
                     static_cast<uint32_t>(plane_offset_),
                     static_cast<uint32_t>(n),
                     static_cast<uint32_t>(plane_->bytes.size())};
    piece.bytes = plane_->bytes.subspan(plane_offset_, n);
    piece.owner = plane_->owner;
    chunk_.push_back(std::move(piece));
    chunk_bytes_ += n;
    plane_offset_ += n;
    if (plane_offset_ == plane_->bytes.size()) plane_.reset();
  }

  bool TellDamage(const PlaneDelivery& delivery) {
    v1::GetResponse response;
    auto* damage = response.mutable_damage();
    damage->set_block(delivery.block);
    damage->set_layer(delivery.layer);
    damage->set_kind(ToProto(delivery.plane_kind));
    news_ = Serialize(response);
    if (chunk_.empty()) return true;
    WriteChunk();  // what came before it first
    return false;
  }

  void WriteChunk() {
    grpc::ByteBuffer message;
    if (!chunk_.empty()) message = ChunkResponse(chunk_);
    sent_bytes_.fetch_add(chunk_bytes_, std::memory_order_relaxed);
    chunk_.clear();
    const bool empty = chunk_bytes_ == 0;
    chunk_bytes_ = 0;
    if (!at_end_) {
      Write(message);
    } else if (empty) {
      End(absl::OkStatus());
    } else {
      outgoing_ = message;
      finish_.Finish([&] {
        Record(absl::StatusCode::kOk);
        WaitForClient();
        StartWriteAndFinish(&outgoing_, grpc::WriteOptions(), grpc::Status::OK);
      });
    }
  }

  void Write(const grpc::ByteBuffer& message) {
    finish_.IfOpen([&] {
      outgoing_ = message;
      WaitForClient();
      StartWrite(&outgoing_);
    });
  }

  void End(const absl::Status& status) override {
    finish_.Finish([&] {
      Record(status.code());
      Finish(ToGrpc(status));
    });
    if (const auto get = this->get()) get->Cancel();
  }

  void Record(absl::StatusCode code) { Report("Get", code, sent_bytes_.load()); }

  std::shared_ptr<GetCall> get() const {
    absl::MutexLock lock(&mu_);
    return get_;
  }

  std::atomic<uint64_t> sent_bytes_{0};

  // Who goes on after Next: its caller when the answer came before it returned, else the answer.
  enum class Turn { kAsked, kAnswered, kLeft };
  std::atomic<Turn> turn_{Turn::kLeft};
  absl::StatusOr<PlaneDelivery> answer_;

  // Of the chain.
  grpc::ByteBuffer outgoing_;
  std::optional<PlaneDelivery> plane_;
  size_t plane_offset_ = 0;
  std::vector<OutgoingPiece> chunk_;
  size_t chunk_bytes_ = 0;
  std::optional<grpc::ByteBuffer> news_;
  bool at_end_ = false;

  mutable absl::Mutex mu_;
  std::shared_ptr<GetCall> get_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGet(const RpcContext& rpc,
                                                     grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request) {
  auto reactor = std::make_shared<GetReactor>(rpc, context);
  reactor->Start(*request);
  return reactor.get();
}

}  // namespace kvstow
