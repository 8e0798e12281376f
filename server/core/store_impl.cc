#include "server/core/store_impl.h"

#include <algorithm>
#include <utility>

namespace kvstow {
namespace {

uint64_t RandomSeed(RandomSource* random) {
  uint64_t seed = 0;
  random->Fill(std::as_writable_bytes(std::span(&seed, 1)));
  return seed;
}

uint64_t CapacityOf(const std::vector<Tier*>& tiers) {
  uint64_t bytes = 0;
  for (const Tier* tier : tiers) bytes += tier->usage().capacity_bytes;
  return bytes;
}

}  // namespace

Store::Impl::Impl(const StoreOptions& options, std::vector<Tier*> tiers, const Clock* clock,
                  RandomSource* random, StatsSink* stats, RecordMover* mover)
    : options_(options),
      tiers_(std::move(tiers)),
      clock_(clock),
      stats_(stats),
      mover_(mover),
      capacity_bytes_(CapacityOf(tiers_)),
      lost_(tiers_.size()),
      queues_(ProtectedCaps(), static_cast<uint64_t>(options.protected_fraction * capacity_bytes_),
              tiers_.size()),
      index_(RandomSeed(random), &queues_, tiers_.size()),
      leases_(random),
      ledger_(tiers_.size()),
      fast_(mover != nullptr ? tiers_.size() - 1 : 0),
      promotions_(options.max_promotions) {
  if (fast_.empty()) return;
  queues_.SetOnCooled([this](Block* block) {
    mu_.AssertHeld();
    OnCooled(block);
  });
}

std::vector<uint64_t> Store::Impl::ProtectedCaps() const {
  std::vector<uint64_t> caps;
  for (size_t t = 0; t < options_.quotas.size(); ++t) {
    double quota = 0;
    for (size_t i = 0; i < tiers_.size(); ++i) {
      quota += static_cast<double>(QuotaOf(TenantId(t), i));
    }
    caps.push_back(static_cast<uint64_t>(options_.protected_fraction * quota));
  }
  return caps;
}

Store::Impl::~Impl() {
  absl::MutexLock lock(&mu_);
  draining_ = true;
  mu_.Await(absl::Condition(this, &Impl::NothingMoves));
  while (auto lease = leases_.TakeExpired(absl::InfiniteFuture())) EndLease(*std::move(lease));
  for (const auto& space : index_.spaces()) {
    for (Block* block : space->blocks) FreeRecords(block);
  }
}

void Store::Impl::SetListener(std::function<void(const StoreEvent&)> listener) {
  absl::MutexLock lock(&mu_);
  listener_ = std::move(listener);
}

SpaceId Store::Impl::AddSpace(TenantId tenant, const Fingerprint& fingerprint,
                              std::vector<uint32_t> expected_shards, uint32_t block_tokens) {
  if (expected_shards.empty()) expected_shards = {0};
  std::sort(expected_shards.begin(), expected_shards.end());
  expected_shards.erase(std::unique(expected_shards.begin(), expected_shards.end()),
                        expected_shards.end());
  absl::MutexLock lock(&mu_);
  const SpaceId id =
      index_.AddSpace(tenant, fingerprint, std::move(expected_shards), block_tokens)->id;
  for (FastTier& tier : fast_) {
    tier.queues.resize(queues_.tenants());
    tier.leaving.resize(queues_.tenants());
  }
  return id;
}

void Store::Impl::StartDraining() {
  absl::MutexLock lock(&mu_);
  draining_ = true;
}

StoreEvent Store::Impl::EventOf(const Block& block, StoreEvent::Kind kind) const {
  StoreEvent event;
  event.kind = kind;
  event.space = block.space->id;
  event.key = block.key;
  if (block.parent != nullptr) event.parent = block.parent->key;
  event.first_position = block.first_position;
  event.block_tokens = block.space->block_tokens;
  event.tier = tiers_[block.tier]->kind();
  return event;
}

void Store::Impl::Emit(const StoreEvent& event) {
  if (listener_ != nullptr) listener_(event);
}

}  // namespace kvstow
