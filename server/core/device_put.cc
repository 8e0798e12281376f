// A Put whose staging lies on a device: in turns of many planes instead of plane by plane.
#include <algorithm>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/core/put_call.h"
#include "server/core/status_macros.h"

namespace kvstow {
namespace {

// Of one turn, before others have theirs. What one leaves to do on the host is done while the next
// one is encoded.
constexpr size_t kBatchesOfTurn = 4;

}  // namespace

absl::Status PutCall::CheckStagedOnDevice(std::span<const PlaneSegment> segments) {
  KVSTOW_RETURN_IF_ERROR(CheckGoesOn());
  uint64_t bytes = 0;
  for (const PlaneSegment& s : segments) {
    KVSTOW_RETURN_IF_ERROR(CheckInSlot(s));
    if (s.length != s.plane_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("a part of a plane, ", s.length, " of ", s.plane_bytes,
                       " bytes, in a slot on a device: planes lie there whole"));
    }
    bytes += s.length;
  }
  absl::MutexLock lock(&mu_);
  // What waits for its turn is so much at most, whatever a client says.
  unread_bytes_ += bytes;
  if (unread_bytes_ > slot_.bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("staged planes of ", unread_bytes_,
                     " bytes that were not consumed yet, in a slot of ", slot_.bytes.size()));
  }
  return absl::OkStatus();
}

absl::Status PutCall::AddOnDevice(std::span<const PlaneSegment> segments) {
  KVSTOW_RETURN_IF_ERROR(CheckStagedOnDevice(segments));
  for (const PlaneSegment& s : segments) {
    KVSTOW_RETURN_IF_ERROR(CheckSegment(s));
    {
      absl::MutexLock lock(&mu_);
      waiting_.push_back({segments_staged_++, next_plane_, next_block_, s.staged_at});
      waiting_bytes_ += s.length;
      ++encoding_;
    }
    received_bytes_ += s.length;
    GoToNextPlane();
  }
  PrepareTurns();
  return absl::OkStatus();
}

// The planes of one turn, in the order of their encoding, and as the writer has them.
class PutCall::Turn {
 public:
  size_t size() const { return staged_.size(); }
  const StagedPlane& operator[](size_t i) const { return staged_[i]; }

  void Add(const StagedPlane& staged) { staged_.push_back(staged); }
  // What was added since the last call. Stays where it is.
  std::span<DeviceWrites::Plane> TakeNew(absl::FunctionRef<DeviceWrites::Plane(size_t)> describe) {
    std::vector<DeviceWrites::Plane> planes;
    for (; described_ < size(); ++described_) planes.push_back(describe(described_));
    return planes_.emplace_back(std::move(planes));
  }
  size_t batches() const { return planes_.size(); }

 private:
  std::vector<StagedPlane> staged_;
  std::deque<std::vector<DeviceWrites::Plane>> planes_;  // by batch
  size_t described_ = 0;
};

// As many as whole batches wait; one for less only where none is there that will take it.
void PutCall::PrepareTurns() {
  size_t more = 0;
  {
    absl::MutexLock lock(&mu_);
    const size_t least = turns_ == 0 && !waiting_.empty() ? 1 : 0;
    const size_t useful = std::max(waiting_bytes_ / DeviceWrites::kBatchBytes, least);
    more = useful - std::min(useful, turns_coming_);
    more = std::min(more, context_.device_writes->lanes() - turns_);
    turns_ += more;
    turns_coming_ += more;
  }
  for (; more > 0; --more) {
    phases_.Enter(CallPhase::kQueue);
    context_.device_writes->Schedule([self = shared_from_this()] {
      self->phases_.Leave(CallPhase::kQueue);
      self->RunTurn();
    });
  }
}

void PutCall::RunTurn() {
  {
    absl::MutexLock lock(&mu_);
    --turns_coming_;
  }
  Turn turn;
  NextBatch(&turn);
  absl::Status status;
  size_t taken = 0;
  if (turn.size() > 0 && !unwanted_.load(std::memory_order_relaxed)) {
    status = EncodeTurn(&turn, &taken);
  }
  {
    absl::MutexLock lock(&mu_);
    --turns_;
    failure_.Update(status);
    if (!failure_.ok()) unwanted_ = true;
  }
  // What nobody will read is the client's again, too: it may wait for the room, and hears with its
  // next message why the call has failed.
  NoteTaken(turn, taken, turn.size() - taken);
  // As another turn, so that what other Puts scheduled meanwhile goes between.
  PrepareTurns();
  if (turn.size() > 0) OnPlanesDone(turn.size());
}

void PutCall::NextBatch(Turn* turn) {
  absl::MutexLock lock(&mu_);
  for (size_t bytes = 0; !waiting_.empty() && bytes < DeviceWrites::kBatchBytes;
       waiting_.pop_front()) {
    const size_t raw = plane(waiting_.front().plane).raw_bytes;
    bytes += raw;
    waiting_bytes_ -= raw;
    turn->Add(waiting_.front());
  }
}

absl::Status PutCall::EncodeTurn(Turn* turn, size_t* taken) {
  uint64_t bytes = 0;
  const auto describe = [&](size_t i) {
    const StagedPlane& staged = (*turn)[i];
    DeviceWrites::Plane out;
    out.plane = static_cast<uint32_t>(staged.plane);
    out.first_position = intents_[wanted_[staged.block].index].first_position;
    out.values = slot_.bytes.data() + staged.staged_at;
    bytes += plane(staged.plane).raw_bytes;
    return out;
  };
  const auto next = [&] {
    const bool goes_on =
        turn->batches() < kBatchesOfTurn && !unwanted_.load(std::memory_order_relaxed);
    if (turn->batches() > 0 && goes_on) NextBatch(turn);
    return turn->TakeNew(describe);
  };
  size_t kept = 0;
  const absl::Time begin = context_.clock.Now();
  const CallPhases::Scope codec(&phases_, CallPhase::kCodec);
  const absl::Status status = context_.device_writes->Write(
      space_, next,
      [&](size_t some) {
        NoteTaken(*turn, *taken, some);
        *taken += some;
      },
      [&](std::span<const DeviceWrites::Plane> encoded) {
        for (const DeviceWrites::Plane& one : encoded) Keep((*turn)[kept++], one);
      });
  if (status.ok()) {
    context_.stats.OnCodec(CodecDirection::kEncode, "cuda", bytes, context_.clock.Now() - begin);
  }
  return status;
}

void PutCall::NoteTaken(const Turn& turn, size_t first, size_t count) {
  if (count == 0) return;
  uint64_t segments = 0;
  {
    absl::MutexLock lock(&mu_);
    for (size_t i = first; i < first + count; ++i) {
      const StagedPlane& staged = turn[i];
      unread_bytes_ -= plane(staged.plane).raw_bytes;
      const auto at = static_cast<size_t>(staged.number - segments_read_);
      if (read_.size() <= at) read_.resize(at + 1);
      read_[at] = true;
    }
    for (; !read_.empty() && read_.front(); read_.pop_front()) ++segments_read_;
    segments = segments_read_;
  }
  if (on_consumed_) on_consumed_(segments);
}

void PutCall::Keep(const StagedPlane& staged, const DeviceWrites::Plane& plane) {
  SetPlane(staged.block, [&](PlacedRecord& record) {
    record.SetPlane(staged.plane, {plane.encoded, plane.summary.bytes}, plane.summary);
  });
}

}  // namespace kvstow
