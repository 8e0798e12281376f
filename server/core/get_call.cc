#include "server/core/get_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/core/status_macros.h"

namespace kvstow {
namespace {

// How far a call decodes ahead of its reader: enough to keep every worker busy, little enough that
// a stalled reader holds little.
constexpr size_t kWindowBytes = size_t{8} << 20;
// What a plane counts at least: small ones cost something, too.
constexpr size_t kLeastCost = 4096;

// A decoded plane, counted in flight while anybody refers to it.
struct DecodedPlane {
  DecodedPlane(ByteBudget& budget, size_t bytes)
      : budget(budget), size(bytes), values(new std::byte[bytes]) {
    budget.Take(size);
  }
  ~DecodedPlane() { budget.Give(size); }
  ByteBudget& budget;
  const size_t size;
  std::unique_ptr<std::byte[]> values;
};

}  // namespace

absl::StatusOr<std::shared_ptr<GetCall>> GetCall::Create(
    DataPath& path, std::shared_ptr<Session> session, std::shared_ptr<const SpaceContext> space,
    std::span<const BlockKey> keys, std::span<const uint32_t> layers, PlaneForm form) {
  std::shared_ptr<GetCall> call(new GetCall(path, std::move(session), std::move(space), form));
  KVSTOW_RETURN_IF_ERROR(call->ChoosePlanes(layers));
  call->Hold(keys);
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
    Store::Pin pin = path_.store.Acquire(space_->id(), space_->layout().shard().index, keys[i]);
    if (!pin) continue;
    answers_[i] = {true, pin.tier(), pin.first_position()};
    auto block = std::make_unique<HeldBlock>();
    block->index = i;
    block->pin = std::make_shared<const Store::Pin>(std::move(pin));
    held_.push_back(std::move(block));
  }
}

absl::StatusOr<GetCall::RecordBytes> GetCall::BytesAt(const std::shared_ptr<const Store::Pin>& pin,
                                                      uint64_t offset, uint64_t size) {
  const auto view = pin->View(offset, size);
  if (!view.empty() || size == 0) return RecordBytes{view, pin};
  auto copy = std::make_shared<std::vector<std::byte>>(size);
  KVSTOW_RETURN_IF_ERROR(pin->Read(offset, *copy));
  return RecordBytes{*copy, copy};
}

void GetCall::Open(HeldBlock& block) const {
  std::call_once(block.opened, [&] {
    const PlaneLayout& layout = space_->layout();
    const uint64_t size = block.pin->record_bytes();
    block.rotary = space_->RotaryAt(block.pin->first_position());
    const auto head =
        BytesAt(block.pin, 0, std::min<uint64_t>(RecordIndex::BytesFor(layout), size));
    if (!head.ok()) {
      block.record = head.status();
      return;
    }
    block.record = RecordIndex::Parse(head->bytes, layout, space_->fingerprint());
    if (!block.record.ok()) {
      block.record = absl::DataLossError(block.record.status().message());
    } else if (block.record->header().first_position != block.pin->first_position() ||
               block.record->header().record_bytes != size) {
      block.record = absl::DataLossError("another record lies where this one should");
    }
  });
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
  Deliver();
}

void GetCall::Prepare() {
  while (PrepareOne()) {
  }
}

// Schedules one more plane; false when the window is full or nothing is left.
bool GetCall::PrepareOne() {
  auto slot = std::make_shared<Slot>();
  size_t held, plane;
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_ || held_.empty() || next_plane_ == planes_.size()) return false;
    if (window_bytes_ >= kWindowBytes && !window_.empty()) return false;
    held = next_block_;
    plane = planes_[next_plane_];
    const PlaneSpec& spec = space_->layout().planes()[plane];
    slot->delivery.block = held_[held]->index;
    slot->delivery.layer = spec.layer;
    slot->delivery.plane_kind = spec.kind;
    if (++next_block_ == held_.size()) {
      next_block_ = 0;
      ++next_plane_;
    }
    slot->bytes = std::max(spec.raw_bytes, kLeastCost);
    window_.push_back(slot);
    window_bytes_ += slot->bytes;
  }
  path_.executor.Schedule(WorkPriority::kGet, [self = shared_from_this(), slot, held, plane] {
    self->Produce(slot, held, plane);
  });
  return true;
}

void GetCall::Produce(const std::shared_ptr<Slot>& slot, size_t held, size_t plane) {
  HeldBlock& block = *held_[held];
  if (IsUnwanted(block)) {
    Finish(*slot, block, absl::CancelledError());
    return;
  }
  Open(block);
  auto encoded = Fetch(block, plane);
  if (!encoded.ok()) {
    Finish(*slot, block, encoded.status());
  } else if (form_ == PlaneForm::kEncoded) {
    slot->delivery.bytes = encoded->bytes;
    slot->delivery.owner = std::move(encoded->owner);
    Finish(*slot, block, absl::OkStatus());
  } else {
    Decode(slot, held, plane, *std::move(encoded));
  }
}

bool GetCall::IsUnwanted(const HeldBlock& block) {
  absl::MutexLock lock(&mu_);
  return cancelled_ || block.damaged;
}

absl::StatusOr<GetCall::RecordBytes> GetCall::Fetch(HeldBlock& block, size_t plane) const {
  KVSTOW_RETURN_IF_ERROR(block.record.status());
  const DirectoryEntry& entry = block.record->planes()[plane];
  if (entry.offset + entry.bytes > block.pin->record_bytes()) {
    return absl::DataLossError("the plane lies beyond the record");
  }
  KVSTOW_ASSIGN_OR_RETURN(RecordBytes encoded, BytesAt(block.pin, entry.offset, entry.bytes));
  KVSTOW_RETURN_IF_ERROR(CheckPlane(entry, encoded.bytes));
  return encoded;
}

void GetCall::Decode(const std::shared_ptr<Slot>& slot, size_t held, size_t plane,
                     RecordBytes encoded) {
  const PlaneSpec& spec = space_->layout().planes()[plane];
  auto decoded = std::make_shared<DecodedPlane>(path_.inflight, spec.raw_bytes);
  slot->delivery.bytes = {decoded->values.get(), decoded->size};
  auto work = std::make_unique<PlaneDecodeWork>(
      PlaneDecodeWork{.spec = &spec,
                      .rotary = held_[held]->rotary.of_plane(plane),
                      .encoded = encoded.bytes,
                      .values = {decoded->values.get(), decoded->size}});
  slot->delivery.owner = std::move(decoded);
  PlaneDecodeWork* const todo = work.get();
  path_.codec.Decode(todo, [self = shared_from_this(), slot, held, work = std::move(work),
                            bytes = std::move(encoded)](const absl::Status& status) {
    self->Finish(*slot, *self->held_[held], status);
  });
}

void GetCall::Finish(Slot& slot, HeldBlock& block, const absl::Status& status) {
  const bool unwanted = absl::IsCancelled(status);
  {
    absl::MutexLock lock(&mu_);
    slot.delivery.kind = status.ok() ? PlaneDelivery::Kind::kPlane : PlaneDelivery::Kind::kDamage;
    // Two planes of one block may fail at the same time on two threads: one of them tells.
    slot.skip = unwanted || (!status.ok() && block.damaged);
    if (!status.ok() && !unwanted) block.damaged = true;
    slot.ready = true;
  }
  if (absl::IsDataLoss(status) && !slot.skip) path_.store.ReportDamage(*block.pin);
  Deliver();
}

std::shared_ptr<GetCall::Slot> GetCall::PopFront() {
  std::shared_ptr<Slot> slot = std::move(window_.front());
  window_.pop_front();
  window_bytes_ -= slot->bytes;
  return slot;
}

// Hands the first plane of the window over if it is ready and somebody waits for it.
void GetCall::Deliver() {
  OnPlane on_plane;
  PlaneDelivery delivery;
  bool window_ran_dry = false;
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_ || !waiting_) return;
    while (!window_.empty() && window_.front()->ready && window_.front()->skip) PopFront();
    const bool end = window_.empty() && (held_.empty() || next_plane_ == planes_.size());
    window_ran_dry = window_.empty() && !end;
    if (window_.empty() ? !end : !window_.front()->ready) {
      // Nothing to hand over yet; Produce comes back here.
    } else {
      if (!end) delivery = std::move(PopFront()->delivery);
      on_plane = std::exchange(waiting_, nullptr);
    }
  }
  // Only skipped planes were in the window, so nobody else prepares the next.
  if (window_ran_dry) Prepare();
  if (on_plane) on_plane(std::move(delivery));
}

void GetCall::Cancel() {
  OnPlane dropped;  // destroyed outside the lock: it may hold the transport's last reference
  absl::MutexLock lock(&mu_);
  cancelled_ = true;
  dropped = std::move(waiting_);
}

}  // namespace kvstow
