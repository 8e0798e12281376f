#include "server/core/get_call.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "codec/crc32c.h"
#include "codec/plane.h"
#include "server/core/status_macros.h"

namespace kvstow {
namespace {

// How far a call decodes ahead of its reader: enough to keep every worker busy, little enough that
// a stalled reader holds little.
constexpr size_t kWindowBytes = size_t{8} << 20;
// How many a thread prepares before it looks whether something else waits.
constexpr size_t kPlanesATurn = 16;
// What a plane counts at least: small ones cost something, too.
constexpr size_t kLeastCost = 4096;
// Larger planes are not checked on the transport's thread: others wait for it.
constexpr size_t kMostCheckedInPlace = size_t{1} << 20;

// A decoded plane, counted in flight while anybody refers to it.
struct DecodedPlane {
  DecodedPlane(ByteBudget& budget, size_t bytes) : budget(budget), values(bytes) {
    budget.Take(bytes);
  }
  ~DecodedPlane() { budget.Give(values.bytes().size()); }
  ByteBudget& budget;
  const UnfilledScratch values;
};

}  // namespace

absl::StatusOr<std::shared_ptr<GetCall>> GetCall::Create(CallContext& context,
                                                         std::shared_ptr<Session> session,
                                                         std::shared_ptr<const SpaceContext> space,
                                                         std::span<const BlockKey> keys,
                                                         std::span<const uint32_t> layers,
                                                         PlaneForm form, StagingSlot slot) {
  std::shared_ptr<GetCall> call(
      new GetCall(context, std::move(session), std::move(space), form, std::move(slot)));
  KVSTOW_RETURN_IF_ERROR(call->ChoosePlanes(layers));
  call->Hold(keys);
  call->checks_in_place_ = call->CanCheckInPlace();
  return call;
}

absl::Status GetCall::ChoosePlanes(std::span<const uint32_t> layers) {
  const PlaneLayout& layout = space_->layout();
  if (!std::is_sorted(layers.begin(), layers.end(), std::less_equal<>())) {
    return absl::InvalidArgumentError("layers must ascend without repeats");
  }
  for (uint32_t layer : layers) {
    if (!std::binary_search(layout.layers().begin(), layout.layers().end(), layer)) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", layer, " is not one of this shard's ", layout.layers().size()));
    }
  }
  for (size_t i = 0; i < layout.planes().size(); ++i) {
    if (layers.empty() ||
        std::binary_search(layers.begin(), layers.end(), layout.planes()[i].layer)) {
      planes_.push_back(i);
    }
  }
  return absl::OkStatus();
}

void GetCall::Hold(std::span<const BlockKey> keys) {
  answers_.resize(keys.size());
  for (uint32_t i = 0; i < keys.size(); ++i) {
    Store::Pin pin = context_.store.Acquire(space_->id(), space_->layout().shard().index, keys[i]);
    if (!pin) continue;
    answers_[i] = {true, pin.tier(), pin.first_position()};
    auto block = std::make_unique<HeldBlock>();
    block->index = i;
    block->pin = std::make_shared<const Store::Pin>(std::move(pin));
    held_.push_back(std::move(block));
  }
}

bool GetCall::CanCheckInPlace() const {
  const bool as_stored =
      form_ == PlaneForm::kEncoded || space_->layout().spec().codec.codec == CodecId::kRaw;
  return as_stored && staging_.bytes.empty() &&
         std::all_of(held_.begin(), held_.end(),
                     [](const auto& block) { return block->pin->tier() == TierKind::kHost; }) &&
         std::all_of(planes_.begin(), planes_.end(), [this](size_t plane) {
           return space_->layout().planes()[plane].raw_bytes <= kMostCheckedInPlace;
         });
}

absl::StatusOr<GetCall::RecordBytes> GetCall::BytesAt(const std::shared_ptr<const Store::Pin>& pin,
                                                      uint64_t offset, uint64_t size) {
  const auto view = pin->View(offset, size);
  if (!view.empty() || size == 0) return RecordBytes{view, pin};
  auto copy = std::make_shared<UnfilledScratch>(size);
  KVSTOW_RETURN_IF_ERROR(pin->Read(offset, copy->bytes()));
  return RecordBytes{copy->bytes(), copy};
}

void GetCall::Open(HeldBlock& block) const {
  std::call_once(block.opened, [&] {
    if (const auto kept = block.pin->Head(HeadBytes(block)); !kept.empty()) {
      return ParseHead(block, kept);
    }
    const auto head = BytesAt(block.pin, 0, HeadBytes(block));
    if (head.ok()) {
      ParseHead(block, head->bytes);
    } else {
      block.record = head.status();
    }
  });
}

uint64_t GetCall::HeadBytes(const HeldBlock& block) const {
  return std::min<uint64_t>(RecordIndex::BytesFor(space_->layout()), block.pin->record_bytes());
}

void GetCall::ParseHead(HeldBlock& block, std::span<const std::byte> head) const {
  block.record = RecordIndex::Parse(head, space_->layout(), space_->fingerprint());
  if (!block.record.ok()) {
    block.record = absl::DataLossError(block.record.status().message());
  } else if (block.record->header().first_position != block.pin->first_position() ||
             block.record->header().record_bytes != block.pin->record_bytes()) {
    block.record = absl::DataLossError("another record lies where this one should");
  }
}

void GetCall::Next(OnPlane on_plane) {
  if (session_->ended()) {
    on_plane(absl::FailedPreconditionError("the session ended; open another one"));
    return;
  }
  {
    absl::MutexLock lock(&mu_);
    // Kept, it would keep the transport's call and this one alive for ever.
    if (cancelled_) return;
    waiting_ = std::move(on_plane);
  }
  Prepare();
  while (Outgoing* const plane = NextInPlace()) Produce(*plane);
  Deliver();
}

void GetCall::TakeReady(size_t most, std::deque<PlaneDelivery>* planes) {
  if (session_->ended()) return;
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_) return;
    while (most > 0 && FrontReady() && !window_.empty() && !window_.front().failed) {
      planes->push_back(TakeFront());
      --most;
    }
  }
  Prepare();
}

bool GetCall::MustOpenFirst() {
  {
    absl::MutexLock lock(&mu_);
    if (records_ == Records::kOpened) return false;
    if (records_ == Records::kOpening || cancelled_) return true;
    records_ = Records::kOpening;
  }
  phases_.Enter(CallPhase::kQueue);
  context_.executor.Schedule(WorkPriority::kGet, [self = shared_from_this()] {
    self->phases_.Leave(CallPhase::kQueue);
    self->OpenAll();
  });
  return true;
}

void GetCall::OpenAll() {
  {
    const CallPhases::Scope copy(&phases_, CallPhase::kCopy);
    for (const auto& block : held_) Open(*block);
  }
  {
    absl::MutexLock lock(&mu_);
    records_ = Records::kOpened;
  }
  Prepare();
  Deliver();
}

void GetCall::Prepare() {
  if (checks_in_place_) return;
  if (staging_.on_device()) return PrepareTurns();
  if (MustOpenFirst()) return;
  while (Outgoing* const plane = NextPlane(Runner::kNew)) Schedule(plane);
}

void GetCall::Schedule(Outgoing* plane) {
  phases_.Enter(CallPhase::kQueue);
  context_.executor.Schedule(WorkPriority::kGet, [self = shared_from_this(), plane] {
    self->phases_.Leave(CallPhase::kQueue);
    self->Run(plane);
  });
}

void GetCall::Run(Outgoing* plane) {
  // What others scheduled meanwhile has its turn now and then.
  for (size_t planes = 0; planes < kPlanesATurn; ++planes) {
    Produce(*plane);
    plane = NextPlane(Runner::kRunning);
    if (plane == nullptr) return Deliver();  // there may be no room, which is news
  }
  Schedule(plane);
}

GetCall::Outgoing* GetCall::NextPlane(Runner runner) {
  absl::MutexLock lock(&mu_);
  if (runner == Runner::kNew && runners_ == context_.executor.concurrency()) return nullptr;
  Outgoing* const plane = NextPlaneLocked();
  if (plane != nullptr && runner == Runner::kNew) ++runners_;
  if (plane == nullptr && runner == Runner::kRunning) --runners_;
  return plane;
}

GetCall::Outgoing* GetCall::NextInPlace() {
  absl::MutexLock lock(&mu_);
  if (!checks_in_place_ || !waiting_ || FrontReady()) return nullptr;
  return NextPlaneLocked();
}

GetCall::Outgoing* GetCall::NextPlaneLocked() { return WindowIsFull() ? nullptr : PlaceNext(); }

GetCall::Outgoing* GetCall::PlaceNext() {
  if (cancelled_ || held_.empty() || next_plane_ == planes_.size()) return nullptr;
  Outgoing& plane = window_.emplace_back();
  plane.held = next_block_;
  plane.plane = planes_[next_plane_];
  const PlaneSpec& spec = space_->layout().planes()[plane.plane];
  plane.delivery.block = held_[plane.held]->index;
  plane.delivery.layer = spec.layer;
  plane.delivery.plane_kind = spec.kind;
  if (!Place(plane)) {
    window_.pop_back();
    lacks_room_ = true;
    return nullptr;
  }
  window_bytes_ += plane.bytes;
  if (++next_block_ == held_.size()) {
    next_block_ = 0;
    ++next_plane_;
  }
  return &plane;
}

size_t GetCall::PlacedBytes(const Outgoing& plane) const {
  const HeldBlock& block = *held_[plane.held];
  const bool known = form_ == PlaneForm::kEncoded && !staging_.bytes.empty() && block.record.ok();
  return known ? block.record->planes()[plane.plane].bytes
               : space_->layout().planes()[plane.plane].raw_bytes;
}

bool GetCall::Place(Outgoing& plane) {
  if (!staging_.on_device()) return PlaceOnHost(plane);
  if (!PlaceOnDevice(plane)) return false;
  // Without a piece it is prepared on the heap, where a call has no more than one without a slot.
  if (!plane.piece) plane.bytes = std::max(PlacedBytes(plane), kLeastCost);
  return true;
}

bool GetCall::WindowIsFull() const { return window_bytes_ >= kWindowBytes && !window_.empty(); }

bool GetCall::PlaceOnHost(Outgoing& plane) {
  const size_t bytes = PlacedBytes(plane);
  plane.bytes = std::max(bytes, kLeastCost);
  // What nobody will read takes no room.
  if (staging_.bytes.empty() || !ring_.fits(bytes) || IsUnwantedLocked(*held_[plane.held])) {
    return true;
  }
  plane.piece = ring_.Take(bytes);
  return plane.piece.has_value();
}

std::span<std::byte> GetCall::StagedBytes(const Outgoing& plane, size_t bytes) const {
  return staging_.bytes.subspan(plane.piece->offset, bytes);
}

void GetCall::Produce(Outgoing& plane) {
  HeldBlock& block = *held_[plane.held];
  if (IsUnwanted(block)) return Finish(plane, absl::CancelledError());
  auto encoded = [&] {
    const CallPhases::Scope copy(&phases_, CallPhase::kCopy);
    Open(block);
    return Fetch(block, plane.plane);
  }();
  if (!encoded.ok()) return Finish(plane, encoded.status());
  if (const auto copied = StageVerbatim(plane, *encoded)) return Finish(plane, *copied);
  const absl::Status intact = Check(block, plane.plane, *encoded);
  if (!intact.ok()) return Finish(plane, intact);
  if (form_ == PlaneForm::kEncoded) {
    DeliverEncoded(plane, *std::move(encoded));
  } else if (DeliverVerbatim(plane, *encoded)) {
    Finish(plane, absl::OkStatus());
  } else {
    Decode(plane, *std::move(encoded));
  }
}

bool GetCall::IsUnwanted(const HeldBlock& block) {
  absl::MutexLock lock(&mu_);
  return IsUnwantedLocked(block);
}

bool GetCall::IsUnwantedLocked(const HeldBlock& block) const {
  return cancelled_ || block.damaged_plane;
}

absl::StatusOr<GetCall::RecordBytes> GetCall::Fetch(HeldBlock& block, size_t plane) const {
  KVSTOW_RETURN_IF_ERROR(block.record.status());
  const DirectoryEntry& entry = block.record->planes()[plane];
  if (entry.offset + entry.bytes > block.pin->record_bytes()) {
    return absl::DataLossError("the plane lies beyond the record");
  }
  return BytesAt(block.pin, entry.offset, entry.bytes);
}

absl::Status GetCall::Check(const HeldBlock& block, size_t plane, const RecordBytes& encoded) {
  const CallPhases::Scope copy(&phases_, CallPhase::kCopy);
  return CheckPlane(block.record->planes()[plane], encoded.bytes);
}

std::optional<absl::Status> GetCall::StageVerbatim(Outgoing& plane, const RecordBytes& encoded) {
  const PlaneSpec& spec = space_->layout().planes()[plane.plane];
  if (form_ != PlaneForm::kDecoded || !plane.piece ||
      !HoldsVerbatim(spec, space_->layout().spec().codec, encoded.bytes)) {
    return std::nullopt;
  }
  const CallPhases::Scope copy(&phases_, CallPhase::kCopy);
  const auto table = encoded.bytes.first(VerbatimOffset(spec));
  const std::span<std::byte> staged = StagedBytes(plane, spec.raw_bytes);
  plane.delivery.bytes = staged;
  return CheckPlaneSum(held_[plane.held]->record->planes()[plane.plane],
                       CopyAndSum(encoded.bytes.subspan(table.size()), staged, Crc32c(table)));
}

void GetCall::DeliverEncoded(Outgoing& plane, RecordBytes encoded) {
  PlaneDelivery& delivery = plane.delivery;
  delivery.crc32c = held_[plane.held]->record->planes()[plane.plane].crc32c;
  delivery.bytes = encoded.bytes;
  if (plane.piece) {
    const CallPhases::Scope copy(&phases_, CallPhase::kCopy);
    const std::span<std::byte> staged = StagedBytes(plane, encoded.bytes.size());
    std::memcpy(staged.data(), encoded.bytes.data(), staged.size());
    delivery.bytes = staged;
  } else {
    delivery.owner = std::move(encoded.owner);
  }
  context_.stats.OnClientCoded(space_->tenant(), CodecDirection::kDecode,
                               space_->layout().planes()[plane.plane].raw_bytes);
  Finish(plane, absl::OkStatus());
}

bool GetCall::DeliverVerbatim(Outgoing& plane, const RecordBytes& encoded) const {
  const PlaneSpec& spec = space_->layout().planes()[plane.plane];
  if (plane.piece || !HoldsVerbatim(spec, space_->layout().spec().codec, encoded.bytes)) {
    return false;
  }
  plane.delivery.bytes = encoded.bytes.subspan(VerbatimOffset(spec));
  plane.delivery.owner = encoded.owner;
  return true;
}

void GetCall::Decode(Outgoing& plane, RecordBytes encoded) {
  const PlaneSpec& spec = space_->layout().planes()[plane.plane];
  std::span<std::byte> values;
  if (plane.piece) {
    values = StagedBytes(plane, spec.raw_bytes);
  } else {
    auto decoded = std::make_shared<DecodedPlane>(context_.inflight, spec.raw_bytes);
    values = decoded->values.bytes();
    plane.delivery.owner = std::move(decoded);
  }
  plane.delivery.bytes = values;
  HeldBlock& block = *held_[plane.held];
  std::call_once(block.rotary_made,
                 [&] { block.rotary = space_->RotaryAt(block.pin->first_position()); });
  auto work = std::make_unique<PlaneDecodeWork>(
      PlaneDecodeWork{.spec = &spec,
                      .rotary = block.rotary.of_plane(plane.plane),
                      .encoded = encoded.bytes,
                      .owner = space_->scratch_owner(),
                      .phases = &phases_,
                      .values = values});
  PlaneDecodeWork* const todo = work.get();
  phases_.Enter(CallPhase::kQueue);
  context_.codec.Decode(todo, [self = shared_from_this(), &plane, work = std::move(work),
                               bytes = std::move(encoded)](const absl::Status& status) {
    self->phases_.Leave(CallPhase::kQueue);
    self->Finish(plane, status);
  });
}

void GetCall::Finish(Outgoing& plane, const absl::Status& status) {
  const HeldBlock& block = *held_[plane.held];
  bool damaged = false;
  {
    absl::MutexLock lock(&mu_);
    damaged = MarkFinished(plane, status);
  }
  if (damaged) context_.store.ReportDamage(*block.pin);
  Deliver();
}

bool GetCall::MarkFinished(Outgoing& plane, const absl::Status& status) {
  plane.failed = !status.ok();
  plane.ready = true;
  if (status.ok() || absl::IsCancelled(status)) return false;
  // Two planes of one block may fail at the same time on two threads: one of them reports it.
  HeldBlock& block = *held_[plane.held];
  const bool first = !block.damaged_plane;
  if (first) block.damaged_plane = plane.plane;
  return first && absl::IsDataLoss(status);
}

GetCall::Outgoing GetCall::PopFront() {
  Outgoing plane = std::move(window_.front());
  window_.pop_front();
  window_bytes_ -= plane.bytes;
  return plane;
}

bool GetCall::AtEnd() const {
  return window_.empty() && (held_.empty() || next_plane_ == planes_.size());
}

void GetCall::GiveBack(const Outgoing& plane) {
  if (plane.piece && !plane.keeps_piece) ring_.Give(plane.piece->ticket);
}

bool GetCall::FrontReady() {
  while (!window_.empty() && window_.front().ready && held_[window_.front().held]->told) {
    GiveBack(PopFront());
    GotRoom();
  }
  return window_.empty() ? AtEnd() || MustTellNoRoom() : window_.front().ready;
}

bool GetCall::MustTellNoRoom() const {
  return window_.empty() && lacks_room_ && !told_no_room_ && !staging_.on_device();
}

void GetCall::GotRoom() { lacks_room_ = told_no_room_ = false; }

PlaneDelivery GetCall::TakeFront() {
  if (window_.empty()) {
    PlaneDelivery news;
    told_no_room_ = !AtEnd();
    if (told_no_room_) news.kind = PlaneDelivery::Kind::kNoRoom;
    return news;
  }
  Outgoing plane = PopFront();
  PlaneDelivery& delivery = plane.delivery;
  if (plane.failed) {
    // Be it the damaged plane or, earlier in the order, one that was not prepared any more: the
    // client is told before it misses anything, and of the plane that is damaged.
    HeldBlock& block = *held_[plane.held];
    block.told = true;
    const PlaneSpec& damaged = space_->layout().planes()[block.damaged_plane.value_or(plane.plane)];
    delivery.layer = damaged.layer;
    delivery.plane_kind = damaged.kind;
    delivery.kind = PlaneDelivery::Kind::kDamage;
    delivery.bytes = {};
    GiveBack(plane);
    GotRoom();
  } else {
    delivery.kind = PlaneDelivery::Kind::kPlane;
    if (plane.piece) {
      delivery.staged_at = static_cast<uint32_t>(plane.piece->offset);
      unread_.push_back(plane.keeps_piece ? std::nullopt : std::optional(plane.piece->ticket));
    }
  }
  return std::move(delivery);
}

void GetCall::Deliver() {
  if (HandOver()) return;
  // Perhaps only skipped planes were in the window; then nobody else prepares the next. That there
  // is no room for it is news again.
  Prepare();
  HandOver();
}

bool GetCall::HandOver() {
  OnPlane on_plane;
  PlaneDelivery delivery;
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_ || !waiting_) return true;
    if (!FrontReady()) return !window_.empty();
    delivery = TakeFront();
    on_plane = std::exchange(waiting_, nullptr);
  }
  on_plane(std::move(delivery));
  return true;
}

absl::Status GetCall::Consumed(uint64_t planes) {
  {
    absl::MutexLock lock(&mu_);
    if (planes < consumed_ || planes - consumed_ > unread_.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("consumed says ", planes, " staged planes after ", consumed_,
                       "; the call has sent ", consumed_ + unread_.size()));
    }
    for (; consumed_ < planes; ++consumed_) {
      if (unread_.front()) ring_.Give(*unread_.front());
      unread_.pop_front();
      GotRoom();
    }
    if (cancelled_ || !waiting_) return absl::OkStatus();
  }
  Prepare();
  Deliver();
  return absl::OkStatus();
}

void GetCall::Cancel() {
  OnPlane dropped;  // destroyed outside the lock: it may hold the transport's last reference
  absl::MutexLock lock(&mu_);
  cancelled_ = true;
  dropped = std::move(waiting_);
}

}  // namespace kvstow
