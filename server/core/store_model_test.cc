// Random operations on a store, each compared with a model that knows no links, queues or counters:
// a map of keys, searched anew for every question. What the store evicts, or moves between tiers,
// is its own affair, but each eviction must have been allowed at that moment, and a move changes
// nothing that anybody sees but the tier.
#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "server/core/testing/store_fixture.h"

namespace kvstow {
namespace {

constexpr uint32_t kNodes = 40;  // in a forest that all spaces share
constexpr uint32_t kPages = 60;  // of all tiers
constexpr double kLeasedFraction = 0.5;

struct ModelRecord {
  uint32_t pages = 0;  // 0: absent
  bool reserved = false;
  std::byte content{};
};
struct ModelBlock {
  std::vector<ModelRecord> records;
  bool visible = false;
  uint64_t generation = 0;  // changes whenever the block goes
  absl::Time waiting_since;

  uint32_t pages() const {
    uint32_t sum = 0;
    for (const ModelRecord& r : records) sum += r.pages;
    return sum;
  }
  bool any_present() const { return pages() > 0; }
  bool whole() const {
    return std::all_of(records.begin(), records.end(), [](const auto& r) { return r.pages > 0; });
  }
  bool live() const {
    return any_present() ||
           std::any_of(records.begin(), records.end(), [](const auto& r) { return r.reserved; });
  }
};
// A block in one of its lives.
struct Life {
  size_t space;
  uint32_t node;
  uint64_t generation;
  auto operator<=>(const Life&) const = default;
};
struct ModelLease {
  size_t space;
  LeaseId id;
  absl::Time expiry;
  std::vector<Life> blocks;
};
struct HeldPin {
  Store::Pin pin;
  Life life;
  uint32_t block_pages;
  std::byte content;
  const std::byte* at;  // where its bytes lie
};
struct HeldReservation {
  Store::Reservation reservation;
  size_t space;
  uint32_t node, slot, promised;
};

class StoreModel {
 public:
  StoreModel(uint32_t seed, uint32_t fast_pages)
      : random_(seed),
        fast_pages_(fast_pages),
        world_(kPages - fast_pages,
               {.high_watermark = 0.9,
                .low_watermark = 0.7,
                .protected_fraction = 0.5,
                .incomplete_ttl = absl::Seconds(30),
                .max_lease_ttl = absl::Seconds(60),
                .max_leased_fraction = kLeasedFraction,
                .max_moving_bytes = 12 * kTestPage,
                .move_batch_bytes = 4 * kTestPage},
               fast_pages) {
    for (uint32_t i = 0; i < kNodes; ++i) {
      parent_[i] = i < 3 ? -1 : static_cast<int>(i - 3 - Pick(std::min(i - 2, 4u)));
      depth_[i] = i < 3 ? 0 : depth_[parent_[i]] + 1;
    }
    spaces_[0] = world_.space;
    spaces_[1] = world_.store.AddSpace(TenantId{1}, Fingerprint{1}, {4, 5}, kTestTokens);
    for (size_t s : {0, 1}) {
      for (auto& block : blocks_[s]) block.records.resize(s + 1);
    }
    world_.store.SetListener([this](const StoreEvent& event) { OnEvent(event); });
  }

  void Step() {
    const size_t s = Pick(2);
    switch (Pick(fast_pages_ > 0 ? 14 : 12)) {
      case 0:
      case 1:
        return Reserve(s);
      case 2:
      case 3:
      case 4:
        return EndReservation(/*commit=*/Pick(8) > 0);
      case 5:
        return Lookup(s);
      case 6:
        return Release();
      case 7:
        return Acquire(s);
      case 8:
        return Unpin();
      case 9:
        return Pick(3) == 0 ? Drop(s) : Damage();
      case 10:
        world_.clock.Advance(absl::Seconds(Pick(12)));
        return;
      case 11:
        return Maintain();
      case 12:
      case 13:
        return Copy();
    }
  }

  void Check() {
    uint64_t used = 0, visible = 0, incomplete = 0, records = 0;
    uint64_t leased[2] = {}, physical[2] = {};
    for (size_t s : {0, 1}) {
      for (uint32_t n = 0; n < kNodes; ++n) {
        const ModelBlock& block = blocks_[s][n];
        physical[s] += block.pages();
        visible += block.visible;
        incomplete += !block.visible && block.any_present();
        for (const auto& r : block.records) records += r.pages > 0;
        if (LeasesOn(s, n) > 0) leased[s] += block.pages();
        ASSERT_TRUE(!block.visible || parent_[n] < 0 || blocks_[s][parent_[n]].visible);
        const auto info = world_.store.Inspect(spaces_[s], KeyOf(n));
        ASSERT_EQ(info.ok(), block.any_present());
        if (!info.ok()) continue;
        ASSERT_EQ(info->visible, block.visible);
        ASSERT_EQ(info->leases, LeasesOn(s, n));
      }
    }
    // Bytes that only pins keep.
    std::map<Life, uint32_t> gone;
    for (const HeldPin& pin : pins_) {
      if (blocks_[pin.life.space][pin.life.node].generation != pin.life.generation) {
        gone[pin.life] = pin.block_pages;
      }
      std::byte content{};
      EXPECT_TRUE(pin.pin.Read(pin.pin.record_bytes() - 1, {&content, 1}).ok());
      ASSERT_EQ(content, pin.content) << "pinned bytes have changed";
      ASSERT_EQ(pin.pin.View(0, 1).data(), pin.at) << "pinned bytes have moved";
    }
    for (const auto& [life, pages] : gone) physical[life.space] += pages;
    used = physical[0] + physical[1];

    const StoreSnapshot snapshot = world_.store.Snapshot();
    // What moves is in both tiers meanwhile.
    ASSERT_TRUE(Still() ? world_.used_pages() == used : world_.used_pages() >= used);
    ASSERT_TRUE(!Still() || snapshot.moving_bytes == 0);
    ASSERT_LE(world_.slow_pages(), kPages - fast_pages_);
    ASSERT_LE(world_.fast_pages(), fast_pages_);
    ASSERT_EQ(snapshot.visible_blocks, visible);
    ASSERT_EQ(snapshot.incomplete_blocks, incomplete);
    ASSERT_EQ(snapshot.pending_blocks, reservations_.size());
    ASSERT_EQ(snapshot.leases, leases_.size());
    uint64_t in_tiers = 0, charged = 0;
    for (const TierSnapshot& tier : snapshot.tiers) in_tiers += tier.blocks;
    ASSERT_EQ(in_tiers, records);
    for (const TenantSnapshot& tenant : snapshot.tenants) {
      const auto s = static_cast<size_t>(tenant.tenant);
      ASSERT_EQ(tenant.leased_bytes, leased[s] * kTestPage);
      ASSERT_LE(tenant.leased_bytes, kLeasedFraction * kPages * kTestPage);
      ASSERT_TRUE(!Still() || tenant.physical_bytes == physical[s] * kTestPage);
      charged += tenant.physical_bytes;
    }
    ASSERT_EQ(charged, world_.used_pages() * kTestPage);
    const auto totals = world_.stats.totals();
    ASSERT_EQ(totals.removed_blocks.count(RemovalReason::kDropped) > 0, dropped_records_ > 0);
    if (dropped_records_ > 0) {
      ASSERT_EQ(totals.removed_blocks.at(RemovalReason::kDropped), dropped_records_);
    }
    ASSERT_EQ(world_.stats.removed(RemovalReason::kIncomplete), expired_records_);
  }

  // Everything that holds something lets go; what is left can go.
  void Finish() {
    reservations_.clear();
    pins_.clear();
    leases_.clear();
    for (const SessionId& session : {SessionId{{0}}, SessionId{{1}}}) {
      world_.store.ReleaseAll(session);
    }
    event_reason_ = RemovalReason::kDropped;
    for (const SpaceId space : spaces_) world_.store.DropSpace(space);
    world_.executor.RunAll();
    EXPECT_EQ(world_.used_pages(), 0u);
    auto moved = world_.stats.totals().moved;
    EXPECT_EQ(fast_pages_ > 0, (moved[{TierKind::kGpu, TierKind::kHost}] > 0));
    EXPECT_EQ(fast_pages_ > 0, (moved[{TierKind::kHost, TierKind::kGpu}] > 0));
    EXPECT_EQ(world_.store.Snapshot().visible_blocks, 0u);
  }

 private:
  using Kind = Store::ReserveAnswer::Kind;

  uint32_t Pick(uint32_t n) { return random_() % n; }
  absl::Time Now() const { return world_.clock.Now(); }
  static BlockKey KeyOf(uint32_t node) { return TestKey('n', node); }
  static uint32_t NodeOf(const BlockKey& key) { return key[1]; }
  static uint32_t ShardOf(size_t s, uint32_t slot) { return s == 0 ? 0 : 4 + slot; }

  // From a root down to a random node.
  std::vector<uint32_t> Path() {
    std::vector<uint32_t> path;
    for (int n = Pick(kNodes); n >= 0; n = parent_[n]) path.insert(path.begin(), n);
    return path;
  }
  std::vector<BlockKey> KeysOf(const std::vector<uint32_t>& path) const {
    std::vector<BlockKey> keys;
    for (uint32_t n : path) keys.push_back(KeyOf(n));
    return keys;
  }
  uint32_t LeasesOn(size_t s, uint32_t n) const {
    uint32_t count = 0;
    for (const ModelLease& lease : leases_) {
      count += std::count(lease.blocks.begin(), lease.blocks.end(),
                          Life{s, n, blocks_[s][n].generation});
    }
    return count;
  }
  bool Pinned(size_t s, uint32_t n) const {
    return std::any_of(pins_.begin(), pins_.end(), [&](const HeldPin& pin) {
      return pin.life == Life{s, n, blocks_[s][n].generation};
    });
  }
  // Whether this block and all below it may go.
  bool Evictable(size_t s, uint32_t n) const {
    const ModelBlock& block = blocks_[s][n];
    if (!block.visible || LeasesOn(s, n) > 0 || Pinned(s, n)) return false;
    for (uint32_t c = 0; c < kNodes; ++c) {
      if (parent_[c] == static_cast<int>(n) && blocks_[s][c].live() && !Evictable(s, c)) {
        return false;
      }
    }
    return true;
  }
  uint64_t RoomPages() const {
    uint64_t room = kPages - world_.used_pages();
    for (size_t s : {0, 1}) {
      for (uint32_t n = 0; n < kNodes; ++n) room += Evictable(s, n) ? blocks_[s][n].pages() : 0;
    }
    return room;
  }
  // No record is on its way: then it is known what the store has room for.
  bool Still() const { return world_.executor.queue_depth() == 0; }
  // Whether one tier has, or could be made to have, room for that.
  bool SomeTierHasRoom(uint64_t pages) const {
    uint64_t room[] = {fast_pages_ - world_.fast_pages(),
                       kPages - fast_pages_ - world_.slow_pages()};
    for (size_t s : {0, 1}) {
      for (uint32_t n = 0; n < kNodes; ++n) {
        if (!Evictable(s, n)) continue;
        const auto info = world_.store.Inspect(spaces_[s], KeyOf(n));
        for (const auto& shard : info->shards) {
          room[static_cast<size_t>(shard.tier)] += shard.physical_bytes / kTestPage;
        }
      }
    }
    return std::max(room[0], room[1]) >= pages;
  }
  uint64_t PromisedPages() const {
    uint64_t pages = 0;
    for (const HeldReservation& held : reservations_) pages += held.promised;
    return pages;
  }
  void Reveal(size_t s, uint32_t n) {
    ModelBlock& block = blocks_[s][n];
    if (block.visible || !block.whole()) return;
    if (parent_[n] >= 0 && !blocks_[s][parent_[n]].visible) return;
    block.visible = true;
    for (uint32_t c = 0; c < kNodes; ++c) {
      if (parent_[c] == static_cast<int>(n)) Reveal(s, c);
    }
  }
  uint32_t Clear(ModelBlock& block) {
    uint32_t records = 0;
    for (ModelRecord& r : block.records) records += std::exchange(r.pages, 0) > 0;
    block.visible = false;
    ++block.generation;
    return records;
  }
  void ExpireLeases() {
    std::erase_if(leases_, [&](const ModelLease& lease) { return lease.expiry <= Now(); });
  }

  void OnEvent(const StoreEvent& event) {
    const size_t s = event.space == spaces_[0] ? 0 : 1;
    const uint32_t n = NodeOf(event.key);
    ModelBlock& block = blocks_[s][n];
    EXPECT_EQ(event.first_position, depth_[n] * kTestTokens);
    EXPECT_EQ(event.parent, parent_[n] < 0 ? BlockKey{} : KeyOf(parent_[n]));
    if (event.kind == StoreEvent::Kind::kStored) return stored_events_.push_back({s, n, 0});
    EXPECT_TRUE(block.visible);
    if (event.kind == StoreEvent::Kind::kMoved) return;
    for (uint32_t c = 0; c < kNodes; ++c) {
      EXPECT_FALSE(parent_[c] == static_cast<int>(n) && blocks_[s][c].visible);
    }
    if (event.reason == RemovalReason::kEvicted) {
      EXPECT_TRUE(may_evict_);
      EXPECT_TRUE(Evictable(s, n));
    } else {
      EXPECT_EQ(event.reason, event_reason_);
    }
    const uint32_t records = Clear(block);
    if (event.reason == RemovalReason::kDropped) dropped_records_ += records;
  }

  void Reserve(size_t s) {
    const std::vector<uint32_t> path = Path();
    std::vector<BlockIntent> intents = TestIntents(KeysOf(path), Pick(path.size()));
    const uint32_t slot = s == 0 ? 0 : Pick(2), estimate = 1 + Pick(8);
    auto answers =
        world_.store.Reserve(spaces_[s], ShardOf(s, slot), intents, estimate * kTestPage);
    ASSERT_TRUE(answers.ok()) << answers.status();
    for (size_t i = 0; i < intents.size(); ++i) {
      const uint32_t n = NodeOf(intents[i].key);
      ModelRecord& record = blocks_[s][n].records[slot];
      Store::ReserveAnswer& answer = (*answers)[i];
      std::optional<Refusal> refusal;
      if (record.reserved) {
        refusal = Refusal::kPending;
      } else if (record.pages == 0 && parent_[n] >= 0 && !blocks_[s][parent_[n]].live()) {
        refusal = Refusal::kNoParent;
      }
      if (record.pages > 0) {
        ASSERT_EQ(answer.kind, Kind::kExists);
        continue;
      }
      if (!refusal.has_value()) {
        record.reserved = true;
        const bool full =
            Still() ? RoomPages() < PromisedPages() + estimate || !SomeTierHasRoom(estimate)
                    : answer.kind == Kind::kDeclined;
        if (full) {
          refusal = Refusal::kFull;
          record.reserved = false;
        }
      }
      if (refusal.has_value()) {
        ASSERT_EQ(answer.kind, Kind::kDeclined);
        ASSERT_EQ(answer.refusal, *refusal);
        continue;
      }
      ASSERT_EQ(answer.kind, Kind::kSend);
      reservations_.push_back({std::move(answer.reservation), s, n, slot, estimate});
    }
  }

  void EndReservation(bool commit) {
    if (reservations_.empty()) return;
    std::swap(reservations_[Pick(reservations_.size())], reservations_.back());
    HeldReservation held = std::move(reservations_.back());
    reservations_.pop_back();
    ModelBlock& block = blocks_[held.space][held.node];
    if (!commit) {
      block.records[held.slot].reserved = false;
      return;
    }
    // Mostly what was estimated, at times more.
    const uint32_t pages = held.promised + (Pick(6) == 0 ? Pick(20) : 0);
    const std::vector<std::byte> bytes(pages * kTestPage, static_cast<std::byte>(random_()));
    const std::span<const std::byte> pieces[] = {bytes};
    ExpireLeases();
    const bool known = Still();
    bool fits = SomeTierHasRoom(pages);
    may_evict_ = true;
    stored_events_.clear();
    const absl::Status status = world_.store.Commit(std::move(held.reservation), pieces, {});
    may_evict_ = false;
    if (known) {
      ASSERT_EQ(status.ok(), fits) << status;
    }
    fits = status.ok();
    ModelRecord& record = block.records[held.slot];
    record.reserved = false;
    if (!fits) return;
    if (!block.any_present()) block.waiting_since = Now();
    record.pages = pages;
    record.content = bytes[0];
    std::set<Life> before, revealed;
    for (uint32_t n = 0; n < kNodes; ++n) {
      if (blocks_[held.space][n].visible) before.insert({held.space, n, 0});
    }
    Reveal(held.space, held.node);
    for (uint32_t n = 0; n < kNodes; ++n) {
      const Life life{held.space, n, 0};
      if (blocks_[held.space][n].visible && !before.contains(life)) revealed.insert(life);
    }
    ASSERT_EQ(std::set<Life>(stored_events_.begin(), stored_events_.end()), revealed);
    ASSERT_EQ(stored_events_.size(), revealed.size());
  }

  void Lookup(size_t s) {
    const std::vector<uint32_t> path = Path();
    uint32_t prefix = 0;
    while (prefix < path.size() && blocks_[s][path[prefix]].visible) ++prefix;
    const absl::Duration ttl = absl::Seconds(Pick(4) == 0 ? 0 : 1 + Pick(80));
    const LookupMatch match = world_.store.Lookup(spaces_[s], KeysOf(path),
                                                  SessionId{{static_cast<uint8_t>(s)}}, "", ttl);
    ASSERT_EQ(match.tiers.size(), prefix);
    if (ttl == absl::ZeroDuration() || prefix == 0) {
      ASSERT_EQ(match.lease, kNoLease);
      return;
    }
    ModelLease lease{s, match.lease, Now() + std::min(ttl, absl::Seconds(60)), {}};
    for (uint32_t i = 0; i < prefix; ++i) {
      lease.blocks.push_back({s, path[i], blocks_[s][path[i]].generation});
    }
    leases_.push_back(lease);
    uint64_t leased = 0;
    for (uint32_t n = 0; n < kNodes; ++n) leased += LeasesOn(s, n) > 0 ? blocks_[s][n].pages() : 0;
    ASSERT_EQ(match.lease_refused, leased > kLeasedFraction * kPages);
    if (match.lease_refused) leases_.pop_back();
  }

  void Release() {
    if (leases_.empty()) return;
    const ModelLease lease = leases_[Pick(leases_.size())];
    const TenantId tenant{static_cast<uint32_t>(lease.space)};
    if (Pick(3) == 0) {
      ASSERT_EQ(world_.store.Renew(tenant, lease.id, absl::Seconds(20)).ok(), lease.expiry > Now());
      for (ModelLease& l : leases_) {
        if (l.id == lease.id && l.expiry > Now()) l.expiry = Now() + absl::Seconds(20);
      }
    } else {
      ASSERT_EQ(world_.store.Release(tenant, lease.id).ok(), lease.expiry > Now());
      std::erase_if(leases_, [&](const ModelLease& l) { return l.id == lease.id; });
    }
    ExpireLeases();
  }

  void Acquire(size_t s) {
    const uint32_t n = Pick(kNodes), slot = s == 0 ? 0 : Pick(2);
    const ModelBlock& block = blocks_[s][n];
    Store::Pin pin = world_.store.Acquire(spaces_[s], ShardOf(s, slot), KeyOf(n));
    ASSERT_EQ(static_cast<bool>(pin), block.visible);
    if (!pin) return;
    ASSERT_EQ(pin.record_bytes(), block.records[slot].pages * kTestPage);
    const std::byte* at = pin.View(0, 1).data();
    pins_.push_back(
        {std::move(pin), {s, n, block.generation}, block.pages(), block.records[slot].content, at});
  }
  void Unpin() {
    if (pins_.empty()) return;
    std::swap(pins_[Pick(pins_.size())], pins_.back());
    pins_.pop_back();
  }

  void CollectRecords(size_t s, uint32_t n, std::set<uint32_t>* out) const {
    if (!blocks_[s][n].live()) return;
    if (blocks_[s][n].any_present()) out->insert(n);
    for (uint32_t c = 0; c < kNodes; ++c) {
      if (parent_[c] == static_cast<int>(n)) CollectRecords(s, c, out);
    }
  }
  void Drop(size_t s) {
    const uint32_t n = Pick(kNodes);
    std::set<uint32_t> expected;
    if (blocks_[s][n].any_present()) CollectRecords(s, n, &expected);
    event_reason_ = RemovalReason::kDropped;
    ASSERT_EQ(world_.store.Drop(spaces_[s], std::vector{KeyOf(n)}), expected.size());
    for (uint32_t gone : expected) {
      ASSERT_FALSE(blocks_[s][gone].visible) << "no event";
      if (blocks_[s][gone].any_present()) dropped_records_ += Clear(blocks_[s][gone]);
    }
  }
  void Damage() {
    if (pins_.empty()) return;
    const HeldPin& pin = pins_[Pick(pins_.size())];
    const auto [s, n, generation] = pin.life;
    std::set<uint32_t> expected;
    if (blocks_[s][n].generation == generation) CollectRecords(s, n, &expected);
    event_reason_ = RemovalReason::kDamaged;
    world_.store.ReportDamage(pin.pin);
    for (uint32_t gone : expected) {
      ASSERT_FALSE(blocks_[s][gone].visible) << "no event";
      if (blocks_[s][gone].any_present()) Clear(blocks_[s][gone]);
    }
  }

  void Maintain() {
    ExpireLeases();
    for (auto& space : blocks_) {
      for (ModelBlock& block : space) {
        if (!block.visible && block.any_present() &&
            block.waiting_since + absl::Seconds(30) <= Now()) {
          expired_records_ += Clear(block);
        }
      }
    }
    may_evict_ = true;
    world_.store.Maintain();
    may_evict_ = false;
    if (fast_pages_ > 0) return;
    ASSERT_TRUE(world_.used_pages() <= 0.9 * kPages || RoomPages() == kPages - world_.used_pages());
  }

  // Some of the copies under way end, well or not.
  void Copy() {
    world_.mover.SetFailing(Pick(4) == 0);
    may_evict_ = true;
    for (uint32_t i = 1 + Pick(8); i > 0 && world_.executor.RunOne(); --i) {
    }
    may_evict_ = false;
  }

  std::mt19937 random_;
  const uint32_t fast_pages_;
  StoreWorld world_;
  int parent_[kNodes];
  uint32_t depth_[kNodes];
  SpaceId spaces_[2];
  ModelBlock blocks_[2][kNodes];
  std::vector<HeldReservation> reservations_;
  std::vector<HeldPin> pins_;
  std::vector<ModelLease> leases_;
  std::vector<Life> stored_events_;
  bool may_evict_ = false;
  RemovalReason event_reason_ = RemovalReason::kEvicted;
  uint64_t dropped_records_ = 0, expired_records_ = 0;
};

// Seed, and pages of the fast tier.
class StoreModelTest : public testing::TestWithParam<std::tuple<uint32_t, uint32_t>> {};

TEST_P(StoreModelTest, AgreesAfterEveryStep) {
  const auto [seed, fast_pages] = GetParam();
  SCOPED_TRACE(testing::Message() << "seed " << seed << ", fast pages " << fast_pages);
  StoreModel model(seed, fast_pages);
  for (int step = 0; step < 4000; ++step) {
    SCOPED_TRACE(testing::Message() << "step " << step);
    model.Step();
    model.Check();
    if (testing::Test::HasFailure()) return;
  }
  model.Finish();
}

INSTANTIATE_TEST_SUITE_P(OneTier, StoreModelTest,
                         testing::Combine(testing::Range(1u, 13u), testing::Values(0)));
INSTANTIATE_TEST_SUITE_P(TwoTiers, StoreModelTest,
                         testing::Combine(testing::Range(1u, 13u), testing::Values(20)));

}  // namespace
}  // namespace kvstow
