// Store: reservations, commits, and when a block becomes visible.
#include <algorithm>
#include <array>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/core/store_impl.h"

namespace kvstow {
namespace {

// Whether an intent says the same of its block as what is already known of it.
bool Agrees(const Block& block, const BlockIntent& intent) {
  if (block.first_position != intent.first_position) return false;
  return block.parent == nullptr || block.parent->key == intent.parent;
}

}  // namespace

absl::StatusOr<std::vector<Store::ReserveAnswer>> Store::Impl::Reserve(
    Store* store, SpaceId space_id, uint32_t shard, std::span<const BlockIntent> intents,
    uint64_t record_bytes) {
  absl::MutexLock lock(&mu_);
  Space* space = index_.FindSpace(space_id);
  if (space == nullptr) return absl::InvalidArgumentError("unknown space");
  const size_t slot = space->SlotOf(shard);
  if (slot == space->shards.size()) {
    return absl::InvalidArgumentError(absl::StrCat("shard ", shard, " is not expected"));
  }
  if (absl::Status status = CheckIntents(*space, intents); !status.ok()) return status;

  const bool fits = FitsSomeTier(record_bytes);
  const uint64_t promised = fits ? LargestPhysical(record_bytes) : 0;
  std::vector<ReserveAnswer> answers(intents.size());
  for (size_t i = 0; i < intents.size(); ++i) {
    ReserveAnswer& answer = answers[i];
    answer = Judge(*space, slot, intents[i]);
    if (answer.kind == ReserveAnswer::Kind::kSend && !fits) answer = Declined(Refusal::kTooLarge);
    if (answer.kind == ReserveAnswer::Kind::kSend) {
      Refusal refusal = Refusal::kFull;
      auto pending = MakePending(space, slot, intents[i], record_bytes, promised, &refusal);
      if (pending == nullptr) {
        answer = Declined(refusal);
      } else {
        answer.reservation.store_ = store;
        answer.reservation.pending_ = pending.release();
      }
    }
    if (answer.kind == ReserveAnswer::Kind::kDeclined) {
      stats_->OnRefused(space->tenant, answer.refusal, 1);
    }
  }
  return answers;
}

absl::Status Store::Impl::CheckIntents(const Space& space,
                                       std::span<const BlockIntent> intents) const {
  absl::flat_hash_map<BlockKey, uint64_t> positions;
  for (const BlockIntent& intent : intents) {
    if (intent.first_position > 0) {
      const auto earlier = positions.find(intent.parent);
      const Block* parent =
          earlier == positions.end() ? index_.Find(&space, intent.parent) : nullptr;
      const bool known = earlier != positions.end() || (parent != nullptr && !parent->is_ghost());
      const uint64_t position = parent != nullptr            ? parent->first_position
                                : earlier != positions.end() ? earlier->second
                                                             : 0;
      if (known && intent.first_position - position != space.block_tokens) {
        return absl::InvalidArgumentError(
            absl::StrCat("block ", ShortHex(intent.key), " at position ", intent.first_position,
                         " does not follow its parent at ", position));
      }
    }
    if (!positions.emplace(intent.key, intent.first_position).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("block ", ShortHex(intent.key), " is announced twice"));
    }
    const Block* block = index_.Find(&space, intent.key);
    if (block != nullptr && !Agrees(*block, intent)) {
      return absl::InvalidArgumentError(absl::StrCat("block ", ShortHex(intent.key),
                                                     " is known with another parent or position"));
    }
  }
  return absl::OkStatus();
}

Store::ReserveAnswer Store::Impl::Declined(Refusal refusal) {
  ReserveAnswer answer;
  answer.kind = ReserveAnswer::Kind::kDeclined;
  answer.refusal = refusal;
  return answer;
}

Store::ReserveAnswer Store::Impl::Judge(const Space& space, uint32_t slot,
                                        const BlockIntent& intent) const {
  if (draining_) return Declined(Refusal::kDraining);
  ReserveAnswer answer;
  const Block* block = index_.Find(&space, intent.key);
  const Record::State state =
      block != nullptr ? block->records()[slot].state : Record::State::kAbsent;
  if (state == Record::State::kPresent) {
    answer.kind = ReserveAnswer::Kind::kExists;
    return answer;
  }
  if (state == Record::State::kReserved) return Declined(Refusal::kPending);
  if (intent.first_position > 0) {
    const Block* parent = index_.Find(&space, intent.parent);
    if (parent == nullptr || parent->is_ghost()) return Declined(Refusal::kNoParent);
  }
  answer.kind = ReserveAnswer::Kind::kSend;
  return answer;
}

std::unique_ptr<PendingCommit> Store::Impl::MakePending(Space* space, uint32_t slot,
                                                        const BlockIntent& intent,
                                                        uint64_t record_bytes, uint64_t promised,
                                                        Refusal* refusal) {
  Block* block = index_.Find(space, intent.key);
  if (block == nullptr) block = index_.Create(space, intent.key, intent.first_position);
  if (block->is_ghost() && !block->is_root()) {
    index_.SetParent(block, index_.Find(space, intent.parent));
  }
  block->records()[slot].state = Record::State::kReserved;
  ++block->reserved;
  ++reservations_;
  promised_bytes_ += promised;
  TenantAccount& account = ledger_.tenant(space->tenant);
  account.promised_bytes += promised;
  auto pending = std::make_unique<PendingCommit>(
      PendingCommit{.intent = intent, .block = block, .slot = slot, .promised_bytes = promised});
  // Asked only now: the new block keeps its ancestors, which are no room to be made any more.
  const bool has_room = RoomBytes() >= promised_bytes_;
  const bool within_quota = QuotaRoom(space->tenant) >= account.promised_bytes;
  if (has_room && within_quota &&
      (tiers_.size() == 1 || FindRoom(space->tenant, record_bytes).has_value())) {
    return pending;
  }
  *refusal = has_room && !within_quota ? Refusal::kQuota : Refusal::kFull;
  Forget(*pending);
  return nullptr;
}

void Store::Impl::Forget(const PendingCommit& pending) {
  const TenantId tenant = pending.block->space->tenant;
  if (pending.placement) GiveRoomBack(tenant, *pending.placement);
  pending.block->records()[pending.slot].state = Record::State::kAbsent;
  --pending.block->reserved;
  --reservations_;
  promised_bytes_ -= pending.promised_bytes;
  ledger_.tenant(tenant).promised_bytes -= pending.promised_bytes;
  index_.Tidy(pending.block);
}

void Store::Impl::GiveRoomBack(TenantId tenant, const Placement& placement) {
  Tier* const tier = tiers_[placement.tier];
  ledger_.tenant(tenant).tier_bytes[placement.tier] -= tier->PhysicalBytes(placement.bytes);
  tier->Free(placement.allocation);
}

void Store::Impl::Abandon(std::unique_ptr<PendingCommit> pending) {
  absl::MutexLock lock(&mu_);
  Forget(*pending);
}

std::optional<Refusal> Store::Impl::Place(PendingCommit* pending, uint64_t record_bytes) {
  const TenantId tenant = pending->block->space->tenant;
  Refusal refusal;
  pending->placement = MakeRoom(tenant, record_bytes, &refusal);
  if (!pending->placement) return refusal;
  promised_bytes_ -= pending->promised_bytes;
  ledger_.tenant(tenant).promised_bytes -= std::exchange(pending->promised_bytes, 0);
  return std::nullopt;
}

absl::StatusOr<std::vector<std::span<std::byte>>> Store::Impl::TakeRoom(PendingCommit* pending,
                                                                        uint64_t record_bytes) {
  absl::MutexLock lock(&mu_);
  // The first room would be nobody's.
  if (pending->placement) return absl::FailedPreconditionError("the block has room already");
  const uint64_t promised = pending->promised_bytes;
  if (const auto refusal = Place(pending, record_bytes)) {
    return absl::ResourceExhaustedError(Name(*refusal));
  }
  const Placement& placement = *pending->placement;
  auto room = tiers_[placement.tier]->Room(placement.allocation, record_bytes);
  if (!room.empty()) return room;
  const TenantId tenant = pending->block->space->tenant;
  GiveRoomBack(tenant, placement);
  pending->placement.reset();
  pending->promised_bytes = promised;
  promised_bytes_ += promised;
  ledger_.tenant(tenant).promised_bytes += promised;
  return room;
}

absl::Status Store::Impl::Commit(std::unique_ptr<PendingCommit> pending,
                                 std::span<const std::span<const std::byte>> pieces,
                                 const RecordMeta& meta) {
  uint64_t bytes = 0;
  for (const auto& piece : pieces) bytes += piece.size();
  const TenantId tenant = pending->block->space->tenant;
  std::optional<Placement> outgrown;
  {
    absl::MutexLock lock(&mu_);
    if (pending->placement && meta.record_bytes > pending->placement->bytes) {
      outgrown = std::exchange(pending->placement, std::nullopt);
    }
    if (pending->placement) {
      Trim(tenant, meta.record_bytes, &*pending->placement);
    } else if (const auto refusal = Place(pending.get(), bytes)) {
      stats_->OnRefused(tenant, *refusal, 1);
      if (outgrown) GiveRoomBack(tenant, *outgrown);
      Forget(*pending);
      return absl::ResourceExhaustedError(
          absl::StrCat("no room for a record of ", bytes, " bytes: ", Name(*refusal)));
    }
  }
  // Nobody else knows of these pages yet.
  const absl::Status written = WritePieces(*pending->placement, pieces);
  absl::MutexLock lock(&mu_);
  if (outgrown) GiveRoomBack(tenant, *outgrown);
  if (written.ok()) {
    Publish(*pending, meta);
  } else {
    // The pages hold what was there before: another block's record, maybe.
    stats_->OnRefused(tenant, Refusal::kFull, 1);
    Forget(*pending);
  }
  return written;
}

void Store::Impl::Trim(TenantId tenant, uint64_t record_bytes, Placement* placement) {
  if (record_bytes == 0 || record_bytes == placement->bytes) return;
  Tier* const tier = tiers_[placement->tier];
  const uint64_t needed = tier->PhysicalBytes(record_bytes);
  const uint64_t surplus = tier->PhysicalBytes(placement->bytes) - needed;
  placement->bytes = record_bytes;
  if (surplus == 0) return;
  Allocation kept, rest;
  auto pages = static_cast<uint32_t>(needed / tier->PhysicalBytes(1));
  for (const PageRun& run : placement->allocation) {
    const uint32_t count = std::min(pages, run.count);
    if (count > 0) kept.push_back({run.first, count});
    if (count < run.count) rest.push_back({run.first + count, run.count - count});
    pages -= count;
  }
  placement->allocation = std::move(kept);
  tier->Free(rest);
  ledger_.tenant(tenant).tier_bytes[placement->tier] -= surplus;
}

absl::Status Store::Impl::WritePieces(const Placement& placement,
                                      std::span<const std::span<const std::byte>> pieces) const {
  uint64_t offset = 0;
  for (const auto& piece : pieces) {
    absl::Status s = tiers_[placement.tier]->Write(placement.allocation, offset, piece);
    if (!s.ok()) return s;
    offset += piece.size();
  }
  return options_.overwrite_slack ? OverwriteSlack(placement) : absl::OkStatus();
}

absl::Status Store::Impl::OverwriteSlack(const Placement& placement) const {
  static constexpr std::array<std::byte, 4096> kZeros{};
  Tier* const tier = tiers_[placement.tier];
  for (uint64_t at = placement.bytes, end = tier->PhysicalBytes(at); at < end;) {
    const uint64_t n = std::min<uint64_t>(kZeros.size(), end - at);
    if (absl::Status s = tier->Write(placement.allocation, at, std::span(kZeros).first(n)); !s.ok())
      return s;
    at += n;
  }
  return absl::OkStatus();
}

void Store::Impl::Publish(const PendingCommit& pending, const RecordMeta& meta) {
  const Placement& placement = *pending.placement;
  Block* block = pending.block;
  Record& record = block->records()[pending.slot];
  record.allocation = placement.allocation;
  record.bytes = placement.bytes;
  record.raw_bytes = meta.raw_bytes;
  record.physical_bytes = tiers_[placement.tier]->PhysicalBytes(placement.bytes);
  record.tier = static_cast<uint8_t>(placement.tier);
  record.state = Record::State::kPresent;
  block->physical_bytes += record.physical_bytes;
  block->tier = std::max(block->tier, record.tier);
  --block->reserved;
  ++block->present;
  --reservations_;
  ledger_.AddRecord(record);
  waiting_.Add(block, clock_->Now(), {meta.k, meta.v, pending.intent.token_ids});
  Reveal(block);
}

void Store::Impl::Reveal(Block* block) {
  std::vector<Block*> candidates = {block};
  while (!candidates.empty()) {
    block = candidates.back();
    candidates.pop_back();
    const bool whole = block->present == block->records().size();
    if (!whole || !(block->is_root() || block->parent->visible)) continue;
    RevealOne(block);
    for (Block* child = block->first_child; child != nullptr; child = child->next_sibling) {
      candidates.push_back(child);
    }
  }
}

void Store::Impl::RevealOne(Block* block) {
  BlockNews news = waiting_.Remove(block);
  block->last_use = ++tick_;
  block->last_use_nanos = absl::ToUnixNanos(clock_->Now());
  index_.MakeVisible(block);
  Track(block);
  const TenantId tenant = block->space->tenant;
  ++ledger_.tenant(tenant).visible_blocks;
  for (const Record& record : block->records()) {
    stats_->OnStored(tenant, tiers_[record.tier]->kind(), 1, record.physical_bytes);
  }
  StoreEvent event = EventOf(*block, StoreEvent::Kind::kStored);
  event.k = news.k;
  event.v = news.v;
  event.token_ids = std::move(news.token_ids);
  Emit(event);
}

}  // namespace kvstow
