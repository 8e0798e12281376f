#include "server/core/put_call.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "codec/crc32c.h"
#include "codec/plane.h"
#include "codec/scratch.h"
#include "server/core/status_macros.h"

namespace kvstow {

struct PutCall::PlaneWork {
  // Room for the bytes that travel, and in front of them for what their encoded form begins with.
  PlaneWork(CallContext& context, size_t in_front, size_t size)
      : context(context), size(size), room(in_front + size) {
    context.inflight.Take(size);
  }
  ~PlaneWork() { context.inflight.Give(size); }

  CallContext& context;
  const size_t size;
  std::span<std::byte> received() { return std::span(room).last(size); }
  Scratch<std::byte> room;
  size_t plane = 0;
  size_t block = 0;  // into wanted_
  PlaneEncodeWork encode;
  // Of a plane that came encoded.
  std::optional<PlaneDeclaration> declared;
  uint64_t sample = 0;
};

namespace {

// Visits the next `length` bytes of `data`, of which `skip` bytes of the first piece are used up.
template <typename Visit>
void ForPieces(size_t length, std::span<const std::span<const std::byte>>& data, size_t& skip,
               Visit visit) {
  while (length > 0) {
    const auto piece = data.front().subspan(skip);
    const size_t n = std::min(length, piece.size());
    if (n > 0) visit(piece.first(n));
    length -= n;
    skip += n;
    if (skip == data.front().size()) {
      data = data.subspan(1);
      skip = 0;
    }
  }
}

}  // namespace

absl::StatusOr<std::shared_ptr<PutCall>> PutCall::Create(CallContext& context,
                                                         std::shared_ptr<Session> session,
                                                         std::shared_ptr<const SpaceContext> space,
                                                         std::vector<BlockIntent> intents,
                                                         absl::Duration ttl, StagingSlot slot,
                                                         PutForm form) {
  std::shared_ptr<PutCall> call(
      new PutCall(context, std::move(session), std::move(space), ttl, std::move(slot), form));
  KVSTOW_RETURN_IF_ERROR(call->Admit(std::move(intents)));
  return call;
}

PutCall::~PutCall() { GiveStaged(); }

void PutCall::GiveStaged() { context_.staged.Give(std::exchange(staged_bytes_, 0)); }

absl::Status PutCall::Admit(std::vector<BlockIntent> intents) {
  intents_ = std::move(intents);
  const uint64_t estimate = space_->EstimatedRecordBytes();
  // Of planes on a device some may come in chunks, so their records are put together plane by
  // plane.
  if (!is_encoded() && !slot_.on_device()) {
    in_place_bytes_ = VerbatimRecordWriter::RecordBytes(space_->layout());
  }
  KVSTOW_ASSIGN_OR_RETURN(
      auto reserved,
      context_.store.Reserve(space_->id(), space_->layout().shard().index, intents_, estimate));
  using Kind = Store::ReserveAnswer::Kind;
  bool behind = !context_.inflight.below_limit();
  uint64_t shed = 0;
  for (size_t i = 0; i < reserved.size(); ++i) {
    PutAnswer answer{reserved[i].kind, reserved[i].refusal};
    if (answer.kind == Kind::kSend && (behind || !context_.staged.TryTake(estimate))) {
      // What follows hangs on this block, so nothing after it is taken either.
      behind = true;
      ++shed;
      answer = {Kind::kDeclined, Refusal::kBehind};
    } else if (answer.kind == Kind::kSend) {
      staged_bytes_ += estimate;
      WantedBlock block;
      block.index = static_cast<uint32_t>(i);
      block.record = std::make_unique<PlacedRecord>(space_->layout(), space_->fingerprint(),
                                                    intents_[i].first_position);
      wanted_.push_back(std::move(block));
      absl::MutexLock lock(&mu_);
      reservations_.push_back(std::move(reserved[i].reservation));
    }
    answers_.push_back(answer);
  }
  if (shed > 0) context_.stats.OnRefused(space_->tenant(), Refusal::kBehind, shed);
  return absl::OkStatus();
}

absl::Status PutCall::CheckSegment(const PlaneSegment& s) const {
  if (complete()) {
    return absl::InvalidArgumentError(
        "a chunk past the end: every plane of the blocks answered SEND has arrived");
  }
  const PlaneSpec& expected = plane(next_plane_);
  const uint32_t block = wanted_[next_block_].index;
  if (s.layer != expected.layer || s.kind != expected.kind || s.block != block ||
      s.offset != next_offset_) {
    return absl::InvalidArgumentError(
        absl::StrCat("a segment out of order: got layer ", s.layer, " ", Name(s.kind), " block ",
                     s.block, " offset ", s.offset, ", expected layer ", expected.layer, " ",
                     Name(expected.kind), " block ", block, " offset ", next_offset_));
  }
  KVSTOW_RETURN_IF_ERROR(CheckSize(s));
  if (s.length == 0 || s.length > s.plane_bytes - next_offset_) {
    return absl::InvalidArgumentError(absl::StrCat("a segment of ", s.length, " bytes at offset ",
                                                   s.offset, " of a plane of ", s.plane_bytes,
                                                   " bytes"));
  }
  return absl::OkStatus();
}

absl::Status PutCall::CheckSize(const PlaneSegment& s) const {
  const auto name = [&s] {
    return absl::StrCat("layer ", s.layer, " ", Name(s.kind), " block ", s.block);
  };
  const bool first = filling_ == nullptr;
  if (s.declared.has_value() != (is_encoded() && first)) {
    return absl::InvalidArgumentError(absl::StrCat(
        name(), s.declared ? ": declared twice, or not announced as encoded" : ": not declared",
        ". The first segment of each encoded plane declares it"));
  }
  const PlaneSpec& expected = plane(next_plane_);
  if (!is_encoded() && s.plane_bytes != expected.raw_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a plane of ", s.plane_bytes, " bytes for layer ", s.layer, " ", Name(s.kind),
        "; the space's layout says ", expected.raw_bytes, ". Check heads, dimension and dtype"));
  }
  if (!first && s.plane_bytes != filling_->size) {
    return absl::InvalidArgumentError(
        absl::StrCat(name(), ": first of ", filling_->size, " bytes, then of ", s.plane_bytes));
  }
  if (!is_encoded() || !first) return absl::OkStatus();
  const auto fault = FindFaultInSize(expected, settings(), s.plane_bytes, *s.declared);
  return fault ? Refuse(next_plane_, next_block_, *fault) : absl::OkStatus();
}

absl::Status PutCall::Refuse(size_t plane_index, size_t block, const PlaneFinding& finding) const {
  context_.stats.OnPlaneFault(space_->tenant(), finding.fault);
  const PlaneSpec& spec = plane(plane_index);
  return absl::InvalidArgumentError(absl::StrCat(
      "the encoded plane of layer ", spec.layer, " ", Name(spec.kind), " block ",
      wanted_[block].index, " was refused (", Name(finding.fault), "): ", finding.what));
}

absl::Status PutCall::CheckGoesOn() const {
  if (session_->ended()) {
    return absl::FailedPreconditionError("the session ended; open another one");
  }
  if (unwanted_.load(std::memory_order_relaxed)) {
    absl::MutexLock lock(&mu_);
    if (!failure_.ok()) return failure_;
  }
  return absl::OkStatus();
}

absl::Status PutCall::CheckInSlot(const PlaneSegment& s) const {
  if (s.staged_at <= slot_.bytes.size() && s.length <= slot_.bytes.size() - s.staged_at) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("a segment of ", s.length, " bytes at ",
                                                 s.staged_at, " of a staging slot of ",
                                                 slot_.bytes.size()));
}

absl::Status PutCall::Add(std::span<const PlaneSegment> segments,
                          std::span<const std::span<const std::byte>> data) {
  return AddFrom(Source::kOwn, segments, data);
}

absl::Status PutCall::AddFrom(Source source, std::span<const PlaneSegment> segments,
                              std::span<const std::span<const std::byte>> data) {
  KVSTOW_RETURN_IF_ERROR(CheckGoesOn());
  const CallPhases::Scope copy(&phases_, CallPhase::kCopy);
  uint64_t announced = 0, present = 0;
  for (const PlaneSegment& s : segments) announced += s.length;
  for (const auto& piece : data) present += piece.size();
  if (announced != present || segments.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("a chunk of ", present, " bytes whose ",
                                                   segments.size(), " segments speak of ",
                                                   announced));
  }
  size_t skip = 0;
  for (const PlaneSegment& s : segments) {
    KVSTOW_RETURN_IF_ERROR(CheckSegment(s));
    KVSTOW_RETURN_IF_ERROR(CopyInto(s, source, data, skip));
  }
  received_bytes_ += present;
  return absl::OkStatus();
}

absl::Status PutCall::AddStaged(std::span<const PlaneSegment> segments) {
  if (slot_.bytes.empty()) {
    return absl::InvalidArgumentError("staged planes in a call that borrowed no staging slot");
  }
  if (slot_.on_device()) return AddOnDevice(segments);
  std::vector<std::span<const std::byte>> data;
  data.reserve(segments.size());
  uint64_t bytes = 0;
  for (const PlaneSegment& s : segments) {
    KVSTOW_RETURN_IF_ERROR(CheckInSlot(s));
    data.push_back(slot_.bytes.subspan(s.staged_at, s.length));
    bytes += s.length;
  }
  // One message must not be worth more bytes than there are: what it brings in is bounded by what
  // the slot holds, as a chunk's is by its size.
  if (bytes > slot_.bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a staged chunk of ", bytes, " bytes out of a slot of ", slot_.bytes.size()));
  }
  KVSTOW_RETURN_IF_ERROR(AddFrom(Source::kShared, segments, data));
  segments_staged_ += segments.size();
  for (const PlaneSegment& s : segments) room_untold_ += SlotRing::Rounded(s.length);
  if (room_untold_ < SlotRing(slot_.bytes.size()).told_when_read()) return absl::OkStatus();
  room_untold_ = 0;
  if (on_consumed_) on_consumed_(segments_staged_);
  return absl::OkStatus();
}

// `skip` bytes of data[0] are used up.
absl::Status PutCall::CopyInto(const PlaneSegment& segment, Source source,
                               std::span<const std::span<const std::byte>>& data, size_t& skip) {
  WantedBlock& block = wanted_[next_block_];
  if (in_place_bytes_ > 0 && next_plane_ == 0 && next_offset_ == 0) PlaceRecord(block);
  if (block.in_place != nullptr) return CopyInPlace(*block.in_place, segment, source, data, skip);
  if (filling_ == nullptr) filling_ = BeginPlane(segment);
  std::byte* out = filling_->received().data() + next_offset_;
  ForPieces(segment.length, data, skip, [&out](std::span<const std::byte> piece) {
    std::memcpy(out, piece.data(), piece.size());
    out += piece.size();
  });
  next_offset_ += segment.length;
  if (next_offset_ < filling_->size) return absl::OkStatus();
  {
    absl::MutexLock lock(&mu_);
    ++encoding_;
  }
  phases_.Enter(CallPhase::kQueue);
  if (is_encoded()) {
    StartChecking(std::move(filling_));
  } else {
    StartEncoding(std::move(filling_));
  }
  filling_ = nullptr;
  GoToNextPlane();
  return absl::OkStatus();
}

void PutCall::GoToNextPlane() {
  next_offset_ = 0;
  if (++next_block_ == wanted_.size() && ++next_plane_ < plane_count()) next_block_ = 0;
}

void PutCall::PlaceRecord(WantedBlock& block) {
  absl::MutexLock lock(&mu_);
  if (cancelled_) return;
  auto room = context_.store.TakeRoom(reservations_[next_block_], in_place_bytes_);
  if (!room.ok() || room->empty()) return;  // the commit tries again
  block.in_place = std::make_unique<VerbatimRecordWriter>(space_->layout(), space_->fingerprint(),
                                                          intents_[block.index].first_position,
                                                          *std::move(room));
}

absl::Status PutCall::CopyInPlace(VerbatimRecordWriter& record, const PlaneSegment& segment,
                                  Source source, std::span<const std::span<const std::byte>>& data,
                                  size_t& skip) {
  absl::ReaderMutexLock in_place(&in_place_mu_);
  // Once it is set, whoever cancels waits for in_place_mu_ before the room goes.
  if (unwanted_.load()) return absl::CancelledError("nobody wants this plane any more");
  ForPieces(segment.length, data, skip,
            [&record, source](std::span<const std::byte> piece) { record.Append(piece, source); });
  next_offset_ += segment.length;
  if (next_offset_ == segment.plane_bytes) GoToNextPlane();
  return absl::OkStatus();
}

std::shared_ptr<PutCall::PlaneWork> PutCall::BeginPlane(const PlaneSegment& segment) {
  const size_t in_front = is_encoded() ? 0 : VerbatimOffset(plane(next_plane_));
  auto work = std::make_shared<PlaneWork>(context_, in_front, segment.plane_bytes);
  work->plane = next_plane_;
  work->block = next_block_;
  work->declared = segment.declared;
  // SplitMix64's increment: neighbours have different tiles, and nobody can tell which.
  work->sample = form_.sample_seed + ++planes_received_ * 0x9e3779b97f4a7c15u;
  work->encode.spec = &plane(work->plane);
  work->encode.settings = &settings();
  WantedBlock& block = wanted_[work->block];
  if (!block.rotary) block.rotary = space_->RotaryAt(intents_[block.index].first_position);
  work->encode.rotary = block.rotary->of_plane(work->plane);
  work->encode.owner = space_->scratch_owner();
  work->encode.unwanted = &unwanted_;
  work->encode.phases = &phases_;
  return work;
}

void PutCall::StartChecking(std::shared_ptr<PlaneWork> work) {
  context_.executor.Schedule(
      WorkPriority::kPut, [self = shared_from_this(), work = std::move(work)]() mutable {
        const absl::Status status = self->unwanted_.load(std::memory_order_relaxed)
                                        ? absl::CancelledError("nobody wants this plane any more")
                                        : self->CheckEncoded(*work);
        self->OnEncoded(std::move(work), status);
      });
}

absl::Status PutCall::CheckEncoded(PlaneWork& work) {
  const CallPhases::Scope busy(&phases_, CallPhase::kCodec);
  const PlaneEncodeWork& encode = work.encode;
  EncodedPlane& out = work.encode.encoded;
  const auto fault = FindFault(
      {encode.spec, encode.settings, encode.rotary, work.received(), &*work.declared, encode.owner},
      *CpuCodec(), work.sample, &out.report);
  if (fault) return Refuse(work.plane, work.block, *fault);
  out.bytes = std::move(work.room);
  context_.stats.OnClientCoded(space_->tenant(), CodecDirection::kEncode, encode.spec->raw_bytes);
  return absl::OkStatus();
}

void PutCall::StartEncoding(std::shared_ptr<PlaneWork> work) {
  work->encode.values = work->received();
  if (IsVerbatim(plane(work->plane), settings())) {
    EncodedPlane& out = work->encode.encoded;
    out.report = FinishVerbatim(plane(work->plane), work->room);
    out.bytes = std::move(work->room);
    OnEncoded(std::move(work), absl::OkStatus());
    return;
  }
  PlaneEncodeWork* const encode = &work->encode;
  context_.codec.Encode(encode, [self = shared_from_this(),
                                 work = std::move(work)](const absl::Status& status) mutable {
    self->OnEncoded(std::move(work), status);
  });
}

void PutCall::OnEncoded(std::shared_ptr<PlaneWork> work, const absl::Status& status) {
  phases_.Leave(CallPhase::kQueue);
  if (status.ok()) {
    EncodedPlane& encoded = work->encode.encoded;
    const uint32_t crc32c = work->declared ? work->declared->crc32c : Crc32c(encoded.bytes);
    SetPlane(work->block, [&](PlacedRecord& record) {
      record.SetPlane(work->plane, std::move(encoded), crc32c);
    });
  } else {
    absl::MutexLock lock(&mu_);
    failure_.Update(status);
    unwanted_ = true;
  }
  work.reset();  // before the call may end: nothing of it is in flight then
  OnPlanesDone(1);
}

void PutCall::SetPlane(size_t block, absl::FunctionRef<void(PlacedRecord&)> set) {
  absl::ReaderMutexLock in_place(&in_place_mu_);
  // Once it is set, whoever cancels waits for in_place_mu_ before the room goes.
  if (unwanted_.load()) return;
  WantedBlock& wanted = wanted_[block];
  {
    absl::MutexLock lock(&mu_);
    if (!std::exchange(wanted.asked_for_room, true)) {
      auto room = context_.store.TakeRoom(reservations_[block], space_->RoomForRecord());
      // Where there is none the commit tries again.
      if (room.ok()) wanted.record->SetRoom(*std::move(room));
    }
  }
  set(*wanted.record);
}

void PutCall::OnPlanesDone(size_t planes) {
  {
    absl::MutexLock lock(&mu_);
    encoding_ -= planes;
    if (!committing_ || encoding_ > 0 || cancelled_) return;
  }
  Store();
}

absl::Status PutCall::Commit(Done done) {
  if (!complete()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a commit before every plane arrived: next is layer ",
                     plane(next_plane_).layer, " ", Name(plane(next_plane_).kind), " block ",
                     wanted_[next_block_].index, " offset ", next_offset_));
  }
  absl::MutexLock lock(&mu_);
  // Kept, `done` would keep the transport's call and this one alive for ever.
  if (cancelled_) return absl::CancelledError("the call was cancelled");
  if (committing_) return absl::InvalidArgumentError("a second commit");
  committing_ = true;
  done_ = std::move(done);
  if (encoding_ > 0) return absl::OkStatus();  // OnPlanesDone goes on
  phases_.Enter(CallPhase::kQueue);
  context_.executor.Schedule(WorkPriority::kPut, [self = shared_from_this()] {
    self->phases_.Leave(CallPhase::kQueue);
    self->Store();
  });
  return absl::OkStatus();
}

void PutCall::Cancel() {
  // Destroyed outside the lock: one may hold the transport's last reference, the others call the
  // store.
  Done dropped;
  std::vector<kvstow::Store::Reservation> given_back;
  unwanted_ = true;
  absl::MutexLock in_place(&in_place_mu_);
  absl::MutexLock lock(&mu_);
  cancelled_ = true;
  dropped = std::move(done_);
  given_back = std::move(reservations_);
}

}  // namespace kvstow
