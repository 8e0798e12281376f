// A Get whose staging lies on a device: in turns of many planes instead of plane by plane.
#include <algorithm>
#include <array>
#include <utility>

#include "codec/plane.h"
#include "server/core/get_call.h"

namespace kvstow {
namespace {

// Raw bytes of the first turn, about: enough to fill a device, little enough that the reader does
// not wait long for its first planes. Later ones are twice as long each, up to the most: where the
// worker's kernels take turns with the daemon's on the device, each turn here may wait for one of
// theirs.
constexpr size_t kFirstTurnBytes = size_t{128} << 20;
constexpr size_t kMostTurnBytes = size_t{512} << 20;
// Placed under one lock: whoever hands planes over needs it, too.
constexpr size_t kPlanesAtOnce = 128;

}  // namespace

void GetCall::PrepareTurns() {
  size_t wanted = 0;
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_ || held_.empty() || lacks_room_ || next_plane_ == planes_.size()) return;
    wanted = context_.device_reads->lanes() - runners_;
    runners_ += wanted;
  }
  for (; wanted > 0; --wanted) {
    phases_.Enter(CallPhase::kQueue);
    context_.device_reads->Schedule([self = shared_from_this()] {
      self->phases_.Leave(CallPhase::kQueue);
      self->RunTurn();
    });
  }
}

void GetCall::RunTurn() {
  LocateAll();
  const Turn turn = NextTurn();
  if (!turn.empty()) {
    ReadTurn(turn);
    Deliver();
  }
  {
    absl::MutexLock lock(&mu_);
    --runners_;
  }
  // As another turn, so that what other Gets scheduled meanwhile goes between.
  PrepareTurns();
}

void GetCall::LocateAll() { std::call_once(all_located_, &GetCall::Locate, this); }

void GetCall::Locate() {
  const CallPhases::Scope copy(&phases_, CallPhase::kCopy);
  std::vector<bool> pinned;
  for (const auto& block : held_) {
    const RecordPlace place = block->pin->Locate();
    for (const auto& piece : place.pieces) block->pieces.push_back({piece.data(), piece.size()});
    block->on_device = place.on_device;
    pinned.push_back(place.pinned);
    if (!MustFetchHead(*block)) Open(*block);
  }
  FetchHeads();
  for (size_t i = 0; i < held_.size(); ++i) {
    HeldBlock& block = *held_[i];
    if (!block.record.ok()) continue;
    block.stored = static_cast<uint32_t>(stored_.size());
    stored_.push_back({&*block.record, block.on_device, block.pieces, pinned[i]});
  }
}

bool GetCall::MustFetchHead(const HeldBlock& block) const {
  return block.on_device && block.pin->Head(HeadBytes(block)).empty();
}

// Of the records on the device, all with one wait.
void GetCall::FetchHeads() {
  std::vector<DeviceReads::Fetched> pieces;
  for (const auto& held : held_) {
    HeldBlock& block = *held;
    if (!MustFetchHead(block)) continue;
    block.head.resize(HeadBytes(block));
    std::span<std::byte> left = block.head;
    for (const RecordPiece& piece : block.pieces) {
      const size_t bytes = std::min(piece.size, left.size());
      if (bytes > 0) pieces.push_back({left.data(), piece.data, bytes});
      left = left.subspan(bytes);
    }
  }
  if (pieces.empty()) return;
  const absl::Status fetched = context_.device_reads->Fetch(pieces);
  for (const auto& held : held_) {
    HeldBlock& block = *held;
    if (!MustFetchHead(block)) continue;
    std::call_once(block.opened, [&] {
      if (fetched.ok()) {
        ParseHead(block, block.head);
      } else {
        block.record = fetched;
      }
    });
  }
}

GetCall::Turn GetCall::NextTurn() {
  absl::MutexLock lock(&turn_mu_);
  Turn turn;
  for (size_t bytes = 0; AddToTurn(&bytes, &turn);) {
  }
  return turn;
}

bool GetCall::AddToTurn(size_t* bytes, Turn* turn) {
  const auto slots = std::make_shared<std::array<Slot, kPlanesAtOnce>>();
  absl::MutexLock lock(&mu_);
  if (turn_bytes_ == 0) turn_bytes_ = kFirstTurnBytes;
  for (Slot& slot : *slots) {
    if (cancelled_ || next_plane_ == planes_.size()) return false;
    Job job = JobAtHand(std::shared_ptr<Slot>(slots, &slot));
    if (!PlaceOnDevice(job)) {
      lacks_room_ = true;
      return false;
    }
    GoOn();
    *bytes += space_->layout().planes()[job.plane].raw_bytes;
    window_.push_back(job.slot);
    turn->push_back(std::move(job));
    if (*bytes < turn_bytes_) continue;
    turn_bytes_ = std::min(2 * turn_bytes_, kMostTurnBytes);
    return false;
  }
  return true;
}

// False when there is no room now. What gets no piece, being too large or of a damaged record, is
// prepared like a plane of a call without a slot.
bool GetCall::PlaceOnDevice(const Job& job) {
  HeldBlock& block = *held_[job.held];
  if (form_ == PlaneForm::kEncoded) return PlaceEncoded(job);
  if (!block.record.ok() || IsUnwantedLocked(block)) return true;
  const size_t bytes = space_->layout().planes()[job.plane].raw_bytes;
  if (!ring_.fits(bytes)) return true;
  job.slot->piece = ring_.Take(bytes);
  job.slot->delivery.bytes =
      job.slot->piece ? StagedBytes(*job.slot, bytes) : std::span<std::byte>();
  return job.slot->piece.has_value();
}

// K and V of a layer lie side by side in the record; side by side in the slot, too, they are one
// copy.
bool GetCall::PlaceEncoded(const Job& job) {
  HeldBlock& block = *held_[job.held];
  Slot& slot = *job.slot;
  if (next_block_ == 0) pairs_planes_ = PairsFit(job.plane);
  const auto kept = std::exchange(block.kept_place, std::nullopt);
  if (!kept && (!block.record.ok() || IsUnwantedLocked(block))) return true;
  const DirectoryEntry& entry = block.record->planes()[job.plane];
  if (kept) {
    slot.piece = kept;
  } else if (pairs_planes_) {
    const size_t own = RoundUpToTile(entry.bytes);
    slot.piece = ring_.Take(own + block.record->planes()[job.plane + 1].bytes);
    if (!slot.piece) return false;
    slot.keeps_piece = true;
    block.kept_place = SlotRing::Piece{slot.piece->ticket, slot.piece->offset + own};
  } else if (ring_.fits(entry.bytes)) {
    slot.piece = ring_.Take(entry.bytes);
    if (!slot.piece) return false;
  } else {
    return true;
  }
  slot.delivery.crc32c = entry.crc32c;
  slot.delivery.bytes = StagedBytes(slot, entry.bytes);
  return true;
}

// Whether this plane and the next may lie in one piece, block by block. Such a piece comes back
// with the second plane, which travels when the first one of every block has: all of them must find
// room beside what both sides may hold back (staging/slot_ring.h).
bool GetCall::PairsFit(size_t plane) const {
  const auto& planes = space_->layout().planes();
  const bool followed = next_plane_ + 1 < planes_.size() && planes_[next_plane_ + 1] == plane + 1 &&
                        planes[plane + 1].layer == planes[plane].layer;
  if (!followed) return false;
  size_t all = 0;
  for (const auto& block : held_) {
    if (!block->record.ok()) continue;
    const auto& entries = block->record->planes();
    const size_t both = RoundUpToTile(entries[plane].bytes) + entries[plane + 1].bytes;
    if (!ring_.fits(both)) return false;
    all += SlotRing::Rounded(both);
  }
  return all <= ring_.bytes() / 2;
}

void GetCall::ReadTurn(const Turn& turn) {
  std::vector<DeviceReads::Plane> planes;
  std::vector<const Job*> jobs;  // of `planes`
  for (const Job& job : turn) {
    if (!job.slot->piece) {
      Produce(job);
      continue;
    }
    planes.push_back({held_[job.held]->stored, static_cast<uint32_t>(job.plane),
                      staging_.bytes.data() + job.slot->piece->offset});
    jobs.push_back(&job);
  }
  if (planes.empty()) return;
  phases_.Enter(CallPhase::kCodec);
  const absl::Status read = context_.device_reads->Read(space_, stored_, form_, planes);
  phases_.Leave(CallPhase::kCodec);
  FinishTurn(jobs, planes, read);
}

void GetCall::FinishTurn(std::span<const Job* const> jobs,
                         std::span<const DeviceReads::Plane> planes, const absl::Status& read) {
  std::vector<const HeldBlock*> damaged;
  {
    absl::MutexLock lock(&mu_);
    for (size_t i = 0; i < planes.size(); ++i) {
      HeldBlock& block = *held_[jobs[i]->held];
      absl::Status status = read;
      if (planes[i].damaged) status = absl::DataLossError("the plane failed its checksum");
      if (MarkFinished(*jobs[i]->slot, block, status)) damaged.push_back(&block);
    }
  }
  for (const HeldBlock* block : damaged) context_.store.ReportDamage(*block->pin);
}

}  // namespace kvstow
