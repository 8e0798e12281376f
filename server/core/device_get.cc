// A Get whose staging lies on a device: in turns of many planes instead of plane by plane.
#include <algorithm>
#include <utility>

#include "codec/plane.h"
#include "server/core/get_call.h"

namespace kvstow {
namespace {

// Raw bytes of a turn, about: enough to fill a device; the sooner planes are handed over, the
// sooner the reader has its first ones and their room in the slot comes back. Of encoded planes a
// turn is little more than the wait for it, so these are longer.
constexpr size_t kEncodedTurnBytes = size_t{128} << 20;
constexpr size_t kDecodedTurnBytes = size_t{64} << 20;
// Placed under one lock: whoever hands planes over needs it, too.
constexpr size_t kPlanesAtOnce = 128;
// Located by one lane before it asks for more.
constexpr size_t kBlocksAtOnce = 16;
// Located by the thread that begins the call, before the lanes are awake.
constexpr size_t kPortionsAtBegin = 4;
constexpr size_t kCacheLine = 64;

}  // namespace

void GetCall::Start() {
  Prepare();
  if (!staging_.on_device()) return;
  const CallPhases::Scope copy(&phases_, CallPhase::kCopy);
  for (size_t i = 0; i < kPortionsAtBegin && LocateSome(); ++i) {
  }
}

void GetCall::PrepareTurns() {
  size_t wanted = 0;
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_ || held_.empty() || lacks_room_ || next_plane_ == planes_.size()) return;
    if (WindowIsFull()) return;  // of planes that the slot does not hold; Next comes again
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

// Reading the heads of a long prompt takes longer than a turn, so the lanes that run share it.
void GetCall::LocateAll() {
  const CallPhases::Scope copy(&phases_, CallPhase::kCopy);
  while (LocateSome()) {
  }
  for (size_t done; (done = located_.load()) < held_.size();) located_.wait(done);
  std::call_once(all_stored_, &GetCall::ListStored, this);
}

bool GetCall::LocateSome() {
  const size_t begin = next_to_locate_.fetch_add(kBlocksAtOnce);
  if (begin >= held_.size()) return false;
  const size_t end = std::min(begin + kBlocksAtOnce, held_.size());
  for (size_t b = begin; b < end; ++b) Locate(*held_[b]);
  for (size_t b = begin; b < end; ++b) ReadHead(*held_[b]);
  located_.fetch_add(end - begin);
  located_.notify_all();
  return true;
}

void GetCall::Locate(HeldBlock& block) const {
  const RecordPlace place = block.pin->Locate();
  for (const auto& piece : place.pieces) block.pieces.push_back({piece.data(), piece.size()});
  block.on_device = place.on_device;
  block.pinned = place.pinned;
  if (!place.on_device) return;
  block.kept_head = block.pin->Head(HeadBytes(block));
  // Nobody has looked at it for long: from here on it comes while others are located.
  for (size_t at = 0; at < block.kept_head.size(); at += kCacheLine) {
    __builtin_prefetch(block.kept_head.data() + at);
  }
}

void GetCall::ReadHead(HeldBlock& block) const {
  if (!block.on_device) return Open(block);
  if (block.kept_head.empty()) return;  // FetchHeads does
  std::call_once(block.opened, [&] { ParseHead(block, block.kept_head); });
}

void GetCall::ListStored() {
  FetchHeads();
  for (const auto& block : held_) {
    if (!block->record.ok()) continue;
    block->stored = static_cast<uint32_t>(stored_.size());
    stored_.push_back({&*block->record, block->on_device, block->pieces, block->pinned});
  }
}

// Of the records on the device, all with one wait.
void GetCall::FetchHeads() {
  std::vector<DeviceReads::Fetched> pieces;
  for (const auto& held : held_) {
    HeldBlock& block = *held;
    if (!LacksHead(block)) continue;
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
    if (!LacksHead(block)) continue;
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
  absl::MutexLock lock(&mu_);
  const size_t most = form_ == PlaneForm::kEncoded ? kEncodedTurnBytes : kDecodedTurnBytes;
  for (size_t i = 0; i < kPlanesAtOnce; ++i) {
    Outgoing* const plane = NextPlaneLocked();
    if (plane == nullptr) return false;
    turn->push_back(plane);
    *bytes += space_->layout().planes()[plane->plane].raw_bytes;
    if (*bytes >= most) return false;
  }
  return true;
}

// False when there is no room now. What gets no piece, being too large or of a damaged record, is
// prepared like a plane of a call without a slot.
bool GetCall::PlaceOnDevice(Outgoing& plane) {
  const HeldBlock& block = *held_[plane.held];
  if (form_ == PlaneForm::kEncoded) return PlaceEncoded(plane);
  if (!block.record.ok() || IsUnwantedLocked(block)) return true;
  const size_t bytes = space_->layout().planes()[plane.plane].raw_bytes;
  if (!ring_.fits(bytes)) return true;
  plane.piece = ring_.Take(bytes);
  if (!plane.piece) return false;
  plane.delivery.bytes = StagedBytes(plane, bytes);
  return true;
}

// K and V of a layer lie side by side in the record; side by side in the slot, too, they are one
// copy.
bool GetCall::PlaceEncoded(Outgoing& plane) {
  HeldBlock& block = *held_[plane.held];
  if (next_block_ == 0) pairs_planes_ = PairsFit(plane.plane);
  const auto kept = std::exchange(block.kept_place, std::nullopt);
  if (!kept && (!block.record.ok() || IsUnwantedLocked(block))) return true;
  const DirectoryEntry& entry = block.record->planes()[plane.plane];
  if (kept) {
    plane.piece = kept;
  } else if (pairs_planes_) {
    const size_t own = RoundUpToTile(entry.bytes);
    plane.piece = ring_.Take(own + block.record->planes()[plane.plane + 1].bytes);
    if (!plane.piece) return false;
    plane.keeps_piece = true;
    block.kept_place = SlotRing::Piece{plane.piece->ticket, plane.piece->offset + own};
  } else if (ring_.fits(entry.bytes)) {
    plane.piece = ring_.Take(entry.bytes);
    if (!plane.piece) return false;
  } else {
    return true;
  }
  plane.delivery.crc32c = entry.crc32c;
  plane.delivery.bytes = StagedBytes(plane, entry.bytes);
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
  std::vector<Outgoing*> staged;  // of `planes`
  for (Outgoing* const plane : turn) {
    if (!plane->piece) {
      Produce(*plane);
      continue;
    }
    planes.push_back({held_[plane->held]->stored, static_cast<uint32_t>(plane->plane),
                      staging_.bytes.data() + plane->piece->offset});
    staged.push_back(plane);
  }
  if (planes.empty()) return;
  phases_.Enter(CallPhase::kCodec);
  const absl::Status read = context_.device_reads->Read(space_, stored_, form_, planes);
  phases_.Leave(CallPhase::kCodec);
  FinishTurn(staged, planes, read);
}

void GetCall::FinishTurn(std::span<Outgoing* const> staged,
                         std::span<const DeviceReads::Plane> planes, const absl::Status& read) {
  std::vector<const HeldBlock*> damaged;
  {
    absl::MutexLock lock(&mu_);
    for (size_t i = 0; i < planes.size(); ++i) {
      const HeldBlock& block = *held_[staged[i]->held];
      absl::Status status = read;
      if (planes[i].damaged) status = absl::DataLossError("the plane failed its checksum");
      if (MarkFinished(*staged[i], status)) damaged.push_back(&block);
    }
  }
  for (const HeldBlock* block : damaged) context_.store.ReportDamage(*block->pin);
}

}  // namespace kvstow
