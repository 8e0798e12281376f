#include "server/rpc/get_reactor.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "server/core/status_macros.h"
#include "server/rpc/answer_turn.h"
#include "server/rpc/bulk_reactor.h"
#include "server/rpc/convert.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/wire.h"
#include "staging/slot_ring.h"

namespace kvstow {
namespace {

// Of one chunk, however small they are.
constexpr int kMaxSegments = 1024;
// Taken from the call at a time, if they are ready. On a device they lie in the slot already, and
// many become ready at once.
constexpr size_t kPlanesAtOnce = 64;
constexpr size_t kPlanesAtOnceOnDevice = kMaxSegments;

// A chain of single steps: ask for a plane, put it into the message, write the message when it is
// full or its layer is, go on when it is written. So nothing but the reading of what the client has
// consumed, and End, runs beside it.
class GetReactor final
    : public BulkReactor<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  GetReactor(const RpcContext& rpc, grpc::CallbackServerContext* context)
      : BulkReactor(rpc, context) {}

  void Start() {
    if (absl::Status s = Enter(); !s.ok()) {
      End(s);
      return;
    }
    WaitForClient();
    Read();
  }

  // ---- ServerBidiReactor ----
  void OnReadDone(bool ok) override {
    if (!ok) {
      // The client says no more; it may still read.
      if (get() == nullptr) End(absl::AbortedError("the stream ended before its request"));
      return;
    }
    if (absl::Status s = TakeMessage(); !s.ok()) End(s);
  }
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

  void Read() {
    finish_.IfOpen([&] { StartRead(&incoming_); });
  }

  absl::Status TakeMessage() {
    v1::GetRequest request;
    if (!Parse(incoming_, &request)) {
      return absl::InvalidArgumentError("a message that is no kvstow.v1.GetRequest");
    }
    const auto get = this->get();
    switch (request.what_case()) {
      case v1::GetRequest::kOpen:
        if (get != nullptr) return absl::InvalidArgumentError("a second open");
        StopWaiting();
        KVSTOW_RETURN_IF_ERROR(Open(request.open()));
        break;
      case v1::GetRequest::kConsumed:
        if (get == nullptr) return absl::InvalidArgumentError("consumed before the open");
        KVSTOW_RETURN_IF_ERROR(get->Consumed(request.consumed().segments()));
        break;
      default:
        return absl::InvalidArgumentError("a Get message that is neither open nor consumed");
    }
    Read();
    return absl::OkStatus();
  }

  absl::Status Open(const v1::GetRequest::Open& request) {
    const absl::Time begin = rpc_.clock->Now();
    KVSTOW_ASSIGN_OR_RETURN(SessionId session, SessionIdFromBytes(request.session_id()));
    KVSTOW_ASSIGN_OR_RETURN(auto keys, KeysFromBytes(request.keys()));
    KVSTOW_ASSIGN_OR_RETURN(const PlaneForm form, FromProto(request.form()));
    std::optional<SlotClaim> slot;
    if (request.has_slot()) slot = FromProto(request.slot());
    const std::vector<uint32_t> layers(request.layers().begin(), request.layers().end());
    KVSTOW_ASSIGN_OR_RETURN(
        auto get, rpc_.service->Get(tenant(), session, request.space(), keys, layers, form, slot));
    NoteAdmission(begin);
    UsePath(get->path());
    planes_left_ = get->planes();
    layers_together_ = request.layers_together() && !get->staged_on_device();
    if (slot) {
      uses_slot_ = true;
      on_device_ = get->staged_on_device();
      pace_ = on_device_ ? TellingPace::OnDevice(slot->bytes) : TellingPace::OnHost(slot->bytes);
    }
    {
      absl::MutexLock lock(&mu_);
      get_ = get;
    }
    if (!finish_.is_open()) get->Cancel();  // whoever ended the stream did not see the call yet
    get->Start();
    v1::GetResponse response;
    ToProto(get->answers(), response.mutable_answers());
    Write(Serialize(response));
    return absl::OkStatus();
  }

  // Fills the message from the plane at hand, asks for the next, until there is something to write
  // or to wait for. A loop, however small the planes are: what Next gives at once is not taken on
  // its stack.
  void Continue() {
    for (bool more = true; more;) {
      if (plane_) {
        if (MustGoFirst(*plane_)) return WriteCollected();
        AddPlane();
      }
      if (chunk_bytes_ == kMaxChunkBytes || chunk_.size() == size_t{kMaxSegments} ||
          (staged_room_ > 0 && pace_->worth_telling(staged_room_, NearEnd())) ||
          staged_.blocks_size() == kMaxSegments) {
        return WriteCollected();
      }
      if (news_) {
        const grpc::ByteBuffer news = *news_;
        news_.reset();
        return Write(news);
      }
      if (ready_.empty()) {
        // A turn's planes, all that are ready (the first alone came from Next): those of the next
        // turn may be long in coming, and the lock is in its hands.
        if (on_device_ && staged_.blocks_size() > 1) return WriteCollected();
        const size_t most = on_device_ ? kPlanesAtOnceOnDevice : kPlanesAtOnce;
        if (const auto get = this->get()) get->TakeReady(most, &ready_);
      }
      if (!ready_.empty()) {
        plane_ = std::move(ready_.front());
        plane_offset_ = 0;
        ready_.pop_front();
      } else if (on_device_ && staged_.blocks_size() > 0) {
        return WriteCollected();
      } else {
        more = Ask() && Take(std::move(answer_));
      }
    }
  }

  // The client should not be left with much to read when the last plane is ready.
  bool NearEnd() const { return size_t(staged_.blocks_size()) >= planes_left_; }

  // Whether what was collected must be written before this plane: staged planes and chunks keep
  // their order, and a layer that is waited for does not wait for the next one.
  bool MustGoFirst(const PlaneDelivery& plane) const {
    const bool staged = staged_.blocks_size() > 0;
    if (chunk_.empty() && !staged) return false;
    return staged != plane.staged_at.has_value() || (!layers_together_ && layer_ != plane.layer);
  }

  // True when the answer came at once.
  bool Ask() {
    const auto get = this->get();
    if (get == nullptr) return false;
    turn_.Ask();
    // With a slot the next plane may wait for the client to read those before it.
    if (uses_slot_) WaitForClient();
    get->Next([self = Self()](absl::StatusOr<PlaneDelivery> delivery) {
      self->answer_ = std::move(delivery);
      if (self->turn_.Answer() && self->Take(std::move(self->answer_))) self->Continue();
    });
    return turn_.Leave();
  }

  // Whether to go on.
  bool Take(absl::StatusOr<PlaneDelivery> delivery) {
    StopWaiting();
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
      case PlaneDelivery::Kind::kNoRoom:
        if (staged_.blocks_size() == 0) return true;
        WriteCollected();
        return false;
      case PlaneDelivery::Kind::kEnd:
        at_end_ = true;
        WriteCollected();
        return false;
    }
    return false;
  }

  PlaneSegment SegmentOf(size_t offset, size_t length) const {
    PlaneSegment segment{plane_->layer,
                         plane_->plane_kind,
                         plane_->block,
                         static_cast<uint32_t>(offset),
                         static_cast<uint32_t>(length),
                         static_cast<uint32_t>(plane_->bytes.size())};
    if (offset == 0 && plane_->crc32c) segment.declared.emplace().crc32c = *plane_->crc32c;
    return segment;
  }

  // Names the plane where it lies, or moves as much of it into the chunk as fits; lets it go when
  // it is used up.
  void AddPlane() {
    layer_ = plane_->layer;
    if (plane_->staged_at) {
      if (planes_left_ > 0) --planes_left_;
      if (layers_together_) {
        staged_.add_layers(plane_->layer);
      } else {
        staged_.set_layer(plane_->layer);
      }
      staged_.add_kinds(ToProto(plane_->plane_kind));
      staged_.add_blocks(plane_->block);
      staged_.add_staged_at(*plane_->staged_at);
      staged_.add_plane_bytes(static_cast<uint32_t>(plane_->bytes.size()));
      if (plane_->crc32c) staged_.add_crc32c(*plane_->crc32c);
      staged_bytes_ += plane_->bytes.size();
      staged_room_ += SlotRing::Rounded(plane_->bytes.size());
      plane_.reset();
      return;
    }
    const size_t n =
        std::min<size_t>(plane_->bytes.size() - plane_offset_, kMaxChunkBytes - chunk_bytes_);
    OutgoingPiece piece;
    piece.segment = SegmentOf(plane_offset_, n);
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
    if (chunk_.empty() && staged_.blocks_size() == 0) return true;
    WriteCollected();  // what came before it first
    return false;
  }

  grpc::ByteBuffer Collected() const {
    return chunk_.empty() ? Serialize(staged_response_) : ChunkResponse(chunk_);
  }

  // The chunk, or the staged planes, or the end.
  void WriteCollected() {
    const bool empty = chunk_.empty() && staged_.blocks_size() == 0;
    grpc::ByteBuffer message;
    if (!empty) message = Collected();
    if (staged_room_ > 0) pace_->Told();
    sent_bytes_.fetch_add(chunk_bytes_ + staged_bytes_, std::memory_order_relaxed);
    NoteMoved(chunk_bytes_ + staged_bytes_);
    chunk_.clear();
    staged_.Clear();
    chunk_bytes_ = staged_bytes_ = staged_room_ = 0;
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

  void Record(absl::StatusCode code) {
    const auto get = this->get();
    Report("Get", code, sent_bytes_.load(), get == nullptr ? nullptr : &get->phases());
  }

  std::shared_ptr<GetCall> get() const {
    absl::MutexLock lock(&mu_);
    return get_;
  }

  std::atomic<uint64_t> sent_bytes_{0};

  AnswerTurn turn_;  // of Next
  absl::StatusOr<PlaneDelivery> answer_;

  grpc::ByteBuffer incoming_;  // of the reads

  // Of the chain.
  bool uses_slot_ = false;
  bool on_device_ = false;           // the slot is
  bool layers_together_ = false;     // none is told by itself
  size_t planes_left_ = 0;           // not collected yet; skipped ones count to the end
  std::optional<TellingPace> pace_;  // with a slot
  uint32_t layer_ = 0;               // of what was collected
  grpc::ByteBuffer outgoing_;
  std::deque<PlaneDelivery> ready_;
  std::optional<PlaneDelivery> plane_;
  size_t plane_offset_ = 0;
  std::vector<OutgoingPiece> chunk_;
  size_t chunk_bytes_ = 0;
  v1::GetResponse staged_response_;
  v1::StagedPlanes& staged_ = *staged_response_.mutable_staged();
  size_t staged_bytes_ = 0;
  size_t staged_room_ = 0;  // what they take in the slot
  std::optional<grpc::ByteBuffer> news_;
  bool at_end_ = false;

  mutable absl::Mutex mu_;
  std::shared_ptr<GetCall> get_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartGet(
    const RpcContext& rpc, grpc::CallbackServerContext* context) {
  auto reactor = std::make_shared<GetReactor>(rpc, context);
  reactor->Start();
  return reactor.get();
}

}  // namespace kvstow
