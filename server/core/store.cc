#include "server/core/store.h"

#include <algorithm>
#include <utility>

#include "server/core/store_impl.h"

namespace kvstow {

// ---- Pin ----

Store::Pin::Pin(Pin&& o) noexcept
    : store_(std::exchange(o.store_, nullptr)),
      block_(std::exchange(o.block_, nullptr)),
      slot_(o.slot_) {}

Store::Pin& Store::Pin::operator=(Pin&& o) noexcept {
  Pin taken = std::move(o);  // takes along what this one held
  std::swap(store_, taken.store_);
  std::swap(block_, taken.block_);
  std::swap(slot_, taken.slot_);
  return *this;
}

Store::Pin::~Pin() {
  if (store_ != nullptr) store_->impl_->Unpin(block_);
}

uint64_t Store::Pin::record_bytes() const { return block_->records()[slot_].bytes; }

TierKind Store::Pin::tier() const {
  return store_->impl_->tier(block_->records()[slot_].tier)->kind();
}

uint64_t Store::Pin::first_position() const { return block_->first_position; }

absl::Status Store::Pin::Read(uint64_t offset, std::span<std::byte> out) const {
  const Record& record = block_->records()[slot_];
  return store_->impl_->tier(record.tier)->Read(record.allocation, offset, out);
}

std::span<const std::byte> Store::Pin::View(uint64_t offset, uint64_t size) const {
  const Record& record = block_->records()[slot_];
  return store_->impl_->tier(record.tier)->View(record.allocation, offset, size);
}

std::span<const std::byte> Store::Pin::Head(uint64_t bytes) const {
  const Record& record = block_->records()[slot_];
  return store_->impl_->tier(record.tier)->Head(record.allocation, bytes);
}

RecordPlace Store::Pin::Locate() const {
  const auto& record = block_->records()[slot_];
  return store_->impl_->tier(record.tier)->Locate(record.allocation, record.bytes);
}

// ---- Reservation ----

Store::Reservation::Reservation(Reservation&& o) noexcept
    : store_(std::exchange(o.store_, nullptr)), pending_(std::exchange(o.pending_, nullptr)) {}

Store::Reservation& Store::Reservation::operator=(Reservation&& o) noexcept {
  Reservation taken = std::move(o);
  std::swap(store_, taken.store_);
  std::swap(pending_, taken.pending_);
  return *this;
}

Store::Reservation::~Reservation() {
  if (store_ != nullptr) store_->impl_->Abandon(std::unique_ptr<PendingCommit>(pending_));
}

const BlockIntent& Store::Reservation::intent() const { return pending_->intent; }

// ---- Store ----

Store::Store(StoreOptions options, std::vector<Tier*> tiers, const Clock* clock,
             RandomSource* random, StatsSink* stats, RecordMover* mover)
    : impl_(std::make_unique<Impl>(options, std::move(tiers), clock, random, stats, mover)) {}

Store::~Store() = default;

void Store::SetListener(std::function<void(const StoreEvent&)> listener) {
  impl_->SetListener(std::move(listener));
}

SpaceId Store::AddSpace(TenantId tenant, const Fingerprint& fingerprint,
                        std::vector<uint32_t> expected_shards, uint32_t block_tokens) {
  return impl_->AddSpace(tenant, fingerprint, std::move(expected_shards), block_tokens);
}

LookupMatch Store::Lookup(SpaceId space, std::span<const BlockKey> keys, const SessionId& owner,
                          const std::string& request_id, absl::Duration ttl) {
  return impl_->Lookup(space, keys, owner, request_id, ttl);
}

LeaseId Store::Lease(SpaceId space, std::span<const BlockKey> keys, const SessionId& owner,
                     absl::Duration ttl) {
  return impl_->Lease(space, keys, owner, ttl);
}

absl::Status Store::Renew(TenantId tenant, LeaseId lease, absl::Duration ttl) {
  return impl_->Renew(tenant, lease, ttl);
}

absl::Status Store::Release(TenantId tenant, LeaseId lease) {
  return impl_->Release(tenant, lease);
}

uint64_t Store::Prefetch(SpaceId space, std::span<const BlockKey> keys) {
  return impl_->Prefetch(space, keys);
}

void Store::ReleaseAll(const SessionId& owner) { impl_->ReleaseAll(owner); }

absl::StatusOr<std::vector<Store::ReserveAnswer>> Store::Reserve(
    SpaceId space, uint32_t shard, std::span<const BlockIntent> intents, uint64_t record_bytes) {
  return impl_->Reserve(this, space, shard, intents, record_bytes);
}

absl::StatusOr<std::vector<std::span<std::byte>>> Store::TakeRoom(const Reservation& reservation,
                                                                  uint64_t record_bytes) {
  return impl_->TakeRoom(reservation.pending_, record_bytes);
}

absl::Status Store::Commit(Reservation reservation,
                           std::span<const std::span<const std::byte>> pieces,
                           const RecordMeta& meta) {
  reservation.store_ = nullptr;
  return impl_->Commit(std::unique_ptr<PendingCommit>(std::exchange(reservation.pending_, nullptr)),
                       pieces, meta);
}

Store::Pin Store::Acquire(SpaceId space, uint32_t shard, const BlockKey& key) {
  Pin pin;
  pin.block_ = impl_->Acquire(space, shard, key, &pin.slot_);
  if (pin.block_ != nullptr) pin.store_ = this;
  return pin;
}

Store::Pin Store::Peek(SpaceId space, uint32_t shard, const BlockKey& key) {
  Pin pin;
  pin.block_ = impl_->Peek(space, shard, key, &pin.slot_);
  if (pin.block_ != nullptr) pin.store_ = this;
  return pin;
}

void Store::ReportDamage(const Pin& pin) { impl_->ReportDamage(pin.block_, pin.slot_); }

void Store::LoseTier(TierKind kind) { impl_->LoseTier(kind); }

uint64_t Store::Drop(SpaceId space, std::span<const BlockKey> keys) {
  return impl_->Drop(space, keys);
}

uint64_t Store::DropSpace(SpaceId space) { return impl_->DropSpace(space); }

absl::StatusOr<BlockInfo> Store::Inspect(SpaceId space, const BlockKey& key) const {
  return impl_->Inspect(space, key);
}

void Store::Maintain() { impl_->Maintain(); }

void Store::StartDraining() { impl_->StartDraining(); }

StoreSnapshot Store::Snapshot() const { return impl_->Snapshot(); }

}  // namespace kvstow
