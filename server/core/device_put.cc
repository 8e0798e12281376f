// A Put whose staging lies on a device: in turns of many planes instead of plane by plane.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/core/put_call.h"
#include "server/core/status_macros.h"

namespace kvstow {
namespace {

// Raw bytes of a turn, about: enough to fill a device.
constexpr size_t kTurnBytes = size_t{32} << 20;

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
      ++encoding_;
    }
    received_bytes_ += s.length;
    GoToNextPlane();
  }
  PrepareTurns();
  return absl::OkStatus();
}

void PutCall::PrepareTurns() {
  size_t more = 0;
  {
    absl::MutexLock lock(&mu_);
    const size_t turns = (unread_bytes_ + kTurnBytes - 1) / kTurnBytes;
    const size_t useful = waiting_.empty() ? 0 : std::max<size_t>(turns, 1);
    more = std::min(useful, context_.device_writes->lanes());
    more -= std::min(more, turns_);
    turns_ += more;
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
  const std::vector<StagedPlane> turn = NextTurn();
  absl::Status status;
  if (!turn.empty() && !unwanted_.load(std::memory_order_relaxed)) status = EncodeTurn(turn);
  {
    absl::MutexLock lock(&mu_);
    --turns_;
    failure_.Update(status);
    if (!failure_.ok()) unwanted_ = true;
  }
  // As another turn, so that what other Puts scheduled meanwhile goes between.
  PrepareTurns();
  if (!turn.empty()) OnPlanesDone(turn.size());
}

std::vector<PutCall::StagedPlane> PutCall::NextTurn() {
  std::vector<StagedPlane> turn;
  absl::MutexLock lock(&mu_);
  for (size_t bytes = 0; !waiting_.empty() && bytes < kTurnBytes; waiting_.pop_front()) {
    bytes += plane(waiting_.front().plane).raw_bytes;
    turn.push_back(waiting_.front());
  }
  return turn;
}

absl::Status PutCall::EncodeTurn(std::span<const StagedPlane> turn) {
  std::vector<DeviceWrites::Plane> planes(turn.size());
  uint64_t bytes = 0;
  for (size_t i = 0; i < turn.size(); ++i) {
    planes[i].plane = static_cast<uint32_t>(turn[i].plane);
    planes[i].first_position = intents_[wanted_[turn[i].block].index].first_position;
    planes[i].values = slot_.bytes.data() + turn[i].staged_at;
    bytes += plane(turn[i].plane).raw_bytes;
  }
  const absl::Time begin = context_.clock.Now();
  const CallPhases::Scope codec(&phases_, CallPhase::kCodec);
  size_t taken = 0;
  const absl::Status status = context_.device_writes->Write(
      space_, planes,
      [&](size_t some) {
        NoteTaken(turn.subspan(taken, some));
        taken += some;
      },
      [&](std::span<const DeviceWrites::Plane> encoded) {
        const StagedPlane* staged = turn.data() + (encoded.data() - planes.data());
        for (const DeviceWrites::Plane& one : encoded) Keep(*staged++, one);
      });
  if (status.ok()) {
    context_.stats.OnCodec(CodecDirection::kEncode, "cuda", bytes, context_.clock.Now() - begin);
  }
  return status;
}

void PutCall::NoteTaken(std::span<const StagedPlane> planes) {
  uint64_t segments = 0;
  {
    absl::MutexLock lock(&mu_);
    for (const StagedPlane& staged : planes) {
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
