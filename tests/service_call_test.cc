// Puts and Gets of the service that end in unusual ways.
#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "codec/crc32c.h"
#include "codec/plane.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/core/service.h"
#include "server/core/testing/fake_clock.h"
#include "server/core/testing/fake_random.h"
#include "server/core/testing/memory_tier.h"
#include "server/core/testing/recording_stats.h"
#include "server/core/testing/step_executor.h"
#include "server/core/testing/store_fixture.h"
#include "server/core/tiled_plane_codec.h"
#include "space/fingerprint.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/memory_area.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;

SpaceSpec Spec() {
  SpaceSpec spec;
  spec.model = {"service-call", "", ""};
  LayerGroup group;
  group.layers = {0};
  group.kv_heads = 1;
  group.k_dim = group.v_dim = 64;
  spec.groups = {group};
  return spec;
}

class ServiceCallTest : public ::testing::Test {
 protected:
  ServiceCallTest() {
    session_ = *service_.BeginSession(kDefaultTenant, "test");
    space_ = service_.OpenSpace(kDefaultTenant, session_->id(), Spec(), {})->handle;
  }
  std::shared_ptr<PutCall> SendAll() { return SendAll({&key_, 1}); }
  // The same values for each block of a prompt.
  std::shared_ptr<PutCall> SendAll(std::span<const BlockKey> keys) {
    std::vector<BlockIntent> intents;
    for (size_t b = 0; b < keys.size(); ++b) {
      intents.push_back({keys[b], b == 0 ? BlockKey{} : keys[b - 1], b * 128});
    }
    auto put = *service_.Put(kDefaultTenant, session_->id(), space_, intents, {});
    for (size_t p = 0; p < layout_.planes().size(); ++p) {
      const PlaneSpec& plane = layout_.planes()[p];
      const auto bytes = static_cast<uint32_t>(plane.raw_bytes);
      const std::span<const std::byte> data = block_[p];
      for (uint32_t b = 0; b < keys.size(); ++b) {
        const PlaneSegment segment = {plane.layer, plane.kind, b, 0, bytes, bytes};
        EXPECT_TRUE(put->Add({&segment, 1}, {&data, 1}).ok());
      }
    }
    return put;
  }
  bool Store() { return Store({&key_, 1}); }
  bool Store(std::span<const BlockKey> keys) {
    auto put = SendAll(keys);
    bool stored = false;
    EXPECT_TRUE(put->Commit([&](absl::StatusOr<PutResults> results) {
                     stored = results.ok() &&
                              std::ranges::all_of(results->blocks,
                                                  [](const auto& block) { return block.stored; });
                   })
                    .ok());
    executor_.RunAll();
    return stored;
  }
  std::shared_ptr<GetCall> Get() {
    return *service_.Get(kDefaultTenant, session_->id(), space_, {&key_, 1}, {},
                         PlaneForm::kDecoded);
  }
  // Of the first record.
  void DamageLastPlane() { FlipByte(store_.Snapshot().tiers[0].record_bytes - 100); }
  // Of the tier; what is put into an empty one begins at its first page.
  void FlipByte(uint64_t at) {
    static const Allocation all = {{0, 64}};
    std::byte byte{};
    ASSERT_TRUE(tier_.Read(all, at, {&byte, 1}).ok());
    byte ^= std::byte{1};
    ASSERT_TRUE(tier_.Write(all, at, {&byte, 1}).ok());
  }
  uint32_t Lookup() {
    return static_cast<uint32_t>(
        service_.Lookup(kDefaultTenant, session_->id(), space_, {&key_, 1}, "", {})->tiers.size());
  }

  FakeClock clock_;
  FakeRandom random_;
  RecordingStats stats_;
  StepExecutor executor_{2};
  MemoryTier tier_{64, 4096, 64};
  kvstow::Store store_{{}, {&tier_}, &clock_, &random_, &stats_};
  TiledPlaneCodec codec_{CpuCodec(), &executor_, &clock_, &stats_};
  Service service_{{}, {&store_, &codec_, &executor_, &clock_, &random_, &stats_}};
  std::shared_ptr<Session> session_;
  uint64_t space_ = 0;
  const PlaneLayout layout_ = *PlaneLayout::Create(Spec(), {});
  const BlockKey key_ =
      KeysOf(RootKey(FingerprintOf(Spec()), {}), std::vector<uint32_t>(128, 1), 128)[0];
  const std::vector<std::vector<std::byte>> block_ = MakeBlock(layout_, 1);
};

// ---- Staging on a device ----

// Addresses that nobody may follow on the host.
class DeviceArea final : public StagingArea {
 public:
  std::span<std::byte> bytes() const override {
    return {reinterpret_cast<std::byte*>(uintptr_t{1} << 40), size_t{1} << 20};
  }
  bool on_device() const override { return true; }
};

TEST_F(ServiceCallTest, SlotsOnADeviceAreAlignedAndForDecodedPuts) {
  const uint32_t region = *session_->ShareStaging(std::make_shared<DeviceArea>());
  const auto put = service_.Put(kDefaultTenant, session_->id(), space_, {{key_, {}, 0}}, {},
                                SlotClaim{region, 0, 1 << 20}, PlaneForm::kEncoded);
  EXPECT_EQ(put.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(put.status().message()), ::testing::HasSubstr("or decoded"));
  EXPECT_TRUE(Store()) << "nothing is pending";
  for (const uint64_t offset : {1, 16, 63}) {
    const auto borrowed = session_->Borrow({region, offset, 1 << 16});
    EXPECT_EQ(borrowed.status().code(), absl::StatusCode::kInvalidArgument) << offset;
    EXPECT_THAT(std::string(borrowed.status().message()), ::testing::HasSubstr("multiple of 64"));
  }
  EXPECT_TRUE(session_->Borrow({region, 64, 1 << 16}).ok());
}

// A region on a device does not take the place of the one on the host.
TEST_F(ServiceCallTest, ASessionHasARegionOnEachSide) {
  const uint32_t on_device = *session_->ShareStaging(std::make_shared<DeviceArea>());
  EXPECT_TRUE(session_->Borrow({on_device, 0, 4096})->on_device());
  session_->DropStaging(/*on_device=*/false);
  EXPECT_TRUE(session_->Borrow({on_device, 0, 4096}).ok());
  session_->DropStaging(/*on_device=*/true);
  EXPECT_EQ(session_->Borrow({on_device, 0, 4096}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// ---- Staging on the host ----

// Gets of three blocks, six planes, through a slot that has room for some.
class StagedGetTest : public ServiceCallTest {
 protected:
  using Kind = PlaneDelivery::Kind;

  StagedGetTest() { EXPECT_TRUE(Store(keys_)); }
  void Begin(size_t planes) {
    const uint64_t bytes = planes * layout_.planes()[0].raw_bytes;
    const uint32_t region =
        *session_->ShareStaging(std::make_shared<MemoryArea>(MemoryArea::Where::kOnHost, bytes));
    get_ = *service_.Get(kDefaultTenant, session_->id(), space_, keys_, {}, PlaneForm::kDecoded,
                         SlotClaim{region, 0, bytes});
  }
  // K of a block; records lie one behind the other.
  void Damage(size_t block) { FlipByte(block * tier_.usage().used_bytes / keys_.size() + 300); }
  // What comes until there is nothing more to be had.
  std::vector<Kind> TakeAll() {
    do {
      if (!std::exchange(asked_, true)) {
        get_->Next([this](absl::StatusOr<PlaneDelivery> d) { Came(d->kind); });
      }
      executor_.RunAll();
    } while (!asked_ && came_.back() != Kind::kEnd);
    return std::exchange(came_, {});
  }
  void Came(Kind kind) {
    came_.push_back(kind);
    asked_ = false;
  }

  const std::vector<BlockKey> keys_ =
      KeysOf(RootKey(FingerprintOf(Spec()), {}), std::vector<uint32_t>(3 * 128, 1), 128);
  std::shared_ptr<GetCall> get_;
  bool asked_ = false;  // and nothing came
  std::vector<Kind> came_;
};

// Who hands planes over may hold them back, so it is told when nothing comes before the client has
// read them: else both sides would wait.
TEST_F(StagedGetTest, AFullSlotIsToldOnce) {
  Begin(4);
  EXPECT_THAT(TakeAll(), ::testing::ElementsAre(Kind::kPlane, Kind::kPlane, Kind::kPlane,
                                                Kind::kPlane, Kind::kNoRoom));
  EXPECT_THAT(TakeAll(), ::testing::IsEmpty());
  ASSERT_TRUE(get_->Consumed(1).ok());
  EXPECT_THAT(TakeAll(), ::testing::ElementsAre(Kind::kPlane, Kind::kNoRoom));
  ASSERT_TRUE(get_->Consumed(2).ok());
  EXPECT_THAT(TakeAll(), ::testing::ElementsAre(Kind::kPlane, Kind::kEnd));
}

// The news may be there before anybody asks.
TEST_F(StagedGetTest, AFullSlotIsToldWhoAsksLater) {
  Begin(4);
  get_->Next([this](absl::StatusOr<PlaneDelivery> d) { Came(d->kind); });
  executor_.RunAll();
  EXPECT_THAT(std::exchange(came_, {}), ::testing::ElementsAre(Kind::kPlane));
  std::deque<PlaneDelivery> ready;
  get_->TakeReady(64, &ready);
  EXPECT_EQ(ready.size(), 3u);
  EXPECT_THAT(TakeAll(), ::testing::ElementsAre(Kind::kNoRoom));
  ASSERT_TRUE(get_->Consumed(4).ok());
  EXPECT_THAT(TakeAll(), ::testing::ElementsAre(Kind::kPlane, Kind::kPlane, Kind::kEnd));
}

// The second block's V was placed, and its room is behind what the client has not read: the third
// one's goes there all the same.
TEST_F(StagedGetTest, SkippedPlanesHoldUpNobody) {
  Damage(1);
  Begin(5);
  EXPECT_THAT(TakeAll(), ::testing::ElementsAre(Kind::kPlane, Kind::kDamage, Kind::kPlane,
                                                Kind::kPlane, Kind::kPlane, Kind::kEnd));
}

// What the window has left when the slot is full is skipped: that frees nothing, and is told.
TEST_F(StagedGetTest, AFullSlotBehindSkippedPlanesIsTold) {
  Damage(1);
  Begin(4);
  EXPECT_THAT(TakeAll(), ::testing::ElementsAre(Kind::kPlane, Kind::kDamage, Kind::kPlane,
                                                Kind::kPlane, Kind::kNoRoom));
  ASSERT_TRUE(get_->Consumed(1).ok());
  EXPECT_THAT(TakeAll(), ::testing::ElementsAre(Kind::kPlane, Kind::kEnd));
}

// ---- Planes that the client encoded ----

struct ClientPlanes {
  std::vector<EncodedPlane> planes;
  std::vector<PlaneSegment> segments;  // whole planes
};
ClientPlanes EncodedByClient(const PlaneLayout& layout,
                             const std::vector<std::vector<std::byte>>& block) {
  ClientPlanes out;
  for (size_t p = 0; p < layout.planes().size(); ++p) {
    const PlaneSpec& plane = layout.planes()[p];
    PlaneEncodeJobs jobs = MakeEncodeJobs(plane, layout.spec().codec, nullptr, block[p]);
    EXPECT_TRUE(CpuCodec()->Encode(std::span(jobs.jobs)).ok());
    out.planes.push_back(AssemblePlane(plane, jobs));
    const auto& encoded = out.planes.back().bytes;
    const auto bytes = static_cast<uint32_t>(encoded.size());
    PlaneSegment segment = {plane.layer, plane.kind, 0, 0, bytes, bytes};
    segment.declared = PlaneDeclaration{.crc32c = Crc32c(encoded)};
    for (const TileEncodeJob& job : jobs.jobs) {
      segment.declared->tiles.push_back(job.report.sums);
    }
    out.segments.push_back(std::move(segment));
  }
  return out;
}

TEST_F(ServiceCallTest, EncodedPlanesAreCheckedBeforeTheyCount) {
  auto put = *service_.Put(kDefaultTenant, session_->id(), space_, {{key_, {}, 0}}, {}, {},
                           PlaneForm::kEncoded);
  const ClientPlanes sent = EncodedByClient(layout_, block_);
  uint64_t encoded_bytes = 0;
  for (size_t p = 0; p < sent.planes.size(); ++p) {
    const std::span<const std::byte> data = sent.planes[p].bytes;
    ASSERT_TRUE(put->Add({&sent.segments[p], 1}, {&data, 1}).ok());
    encoded_bytes += data.size();
  }
  EXPECT_EQ(service_.Snapshot().inflight_bytes, encoded_bytes);
  EXPECT_TRUE(stats_.totals().client_coded_bytes.empty()) << "nothing was checked yet";
  bool stored = false;
  ASSERT_TRUE(put->Commit([&](absl::StatusOr<PutResults> results) {
                   stored = results.ok() && results->blocks[0].stored;
                   EXPECT_EQ(service_.Snapshot().staged_bytes, 0u) << "room for the next Put";
                   EXPECT_EQ(service_.Snapshot().inflight_bytes, 0u);
                 })
                  .ok());
  EXPECT_FALSE(stored);
  EXPECT_GT(service_.Snapshot().staged_bytes, 0u);
  executor_.RunAll();
  EXPECT_TRUE(stored);
  EXPECT_EQ(put->received_bytes(), encoded_bytes);
  put.reset();
  EXPECT_EQ(service_.Snapshot().inflight_bytes, 0u);
  EXPECT_EQ(service_.Snapshot().staged_bytes, 0u) << "given back once";
  EXPECT_EQ(stats_.totals().client_coded_bytes.at(CodecDirection::kEncode), layout_.raw_bytes());
  EXPECT_EQ(stats_.totals().codec_bytes.size(), 0u) << "the daemon coded nothing";
  EXPECT_EQ(stats_.totals().encoded_records, 1u);
}

TEST_F(ServiceCallTest, ABadPlaneEndsItsCallAndIsCounted) {
  auto put = *service_.Put(kDefaultTenant, session_->id(), space_, {{key_, {}, 0}}, {}, {},
                           PlaneForm::kEncoded);
  ClientPlanes sent = EncodedByClient(layout_, block_);
  sent.segments[0].declared->crc32c ^= 1;
  std::span<const std::byte> data = sent.planes[0].bytes;
  ASSERT_TRUE(put->Add({&sent.segments[0], 1}, {&data, 1}).ok()) << "not looked at yet";
  executor_.RunAll();
  data = sent.planes[1].bytes;
  const absl::Status next = put->Add({&sent.segments[1], 1}, {&data, 1});
  EXPECT_TRUE(absl::IsInvalidArgument(next)) << next;
  EXPECT_THAT(std::string(next.message()), HasSubstr("layer 0 k block 0 was refused (checksum)"));
  put->Cancel();
  put.reset();
  EXPECT_EQ(stats_.totals().plane_faults.at(PlaneFault::kChecksum), 1u);
  EXPECT_EQ(service_.Snapshot().staged_bytes, 0u);
  EXPECT_EQ(Lookup(), 0u);
  EXPECT_TRUE(Store()) << "nothing is pending";
}

TEST_F(ServiceCallTest, EncodedPlanesOfACancelledPutAreNotLookedAt) {
  auto put = *service_.Put(kDefaultTenant, session_->id(), space_, {{key_, {}, 0}}, {}, {},
                           PlaneForm::kEncoded);
  ClientPlanes sent = EncodedByClient(layout_, block_);
  sent.segments[0].declared->crc32c ^= 1;
  const std::span<const std::byte> data = sent.planes[0].bytes;
  ASSERT_TRUE(put->Add({&sent.segments[0], 1}, {&data, 1}).ok());
  put->Cancel();
  executor_.RunAll();
  EXPECT_TRUE(stats_.totals().plane_faults.empty());
  EXPECT_EQ(service_.Snapshot().inflight_bytes, 0u);
}

// Of a Put whose token ids reach the events of its block, and nobody else.
class TokenIdsTest : public ServiceCallTest {
 protected:
  static TokenIds Ids(size_t n) { return std::make_shared<const std::vector<uint32_t>>(n, 7); }
  absl::StatusOr<std::shared_ptr<PutCall>> Announce(TokenIds ids) {
    return service_.Put(kDefaultTenant, session_->id(), space_, {{key_, {}, 0, std::move(ids)}},
                        {});
  }
  void Store(PutCall& put) {
    for (size_t p = 0; p < layout_.planes().size(); ++p) {
      const PlaneSpec& plane = layout_.planes()[p];
      const auto bytes = static_cast<uint32_t>(plane.raw_bytes);
      const PlaneSegment segment = {plane.layer, plane.kind, 0, 0, bytes, bytes};
      const std::span<const std::byte> data = block_[p];
      ASSERT_TRUE(put.Add({&segment, 1}, {&data, 1}).ok());
    }
    ASSERT_TRUE(put.Commit([](absl::StatusOr<PutResults> results) {
                     EXPECT_TRUE(results.ok() && results->blocks[0].stored);
                   })
                    .ok());
    executor_.RunAll();
  }
};

TEST_F(TokenIdsTest, ReachFollowersAndNotWatchers) {
  const auto follower = service_.Follow(kDefaultTenant, "", 10);
  const auto of_model = service_.Follow(kDefaultTenant, "service-call", 10);
  const auto of_another = service_.Follow(kDefaultTenant, "another", 10);
  const auto another_tenants = service_.Follow(TenantId{1}, "", 10);
  const auto watching = *service_.Watch(kDefaultTenant, session_->id(), space_);
  const TokenIds ids = Ids(128);
  Store(**Announce(ids));
  EXPECT_EQ(follower->Next(nullptr)->event->token_ids, ids);
  EXPECT_EQ(of_model->Next(nullptr)->event->token_ids, ids);
  EXPECT_FALSE(of_another->Next(nullptr));
  EXPECT_FALSE(another_tenants->Next(nullptr));
  const auto seen = watching.watcher->Next(nullptr);
  EXPECT_EQ(seen->event->key, key_);
  EXPECT_EQ(seen->event->token_ids, nullptr);
  EXPECT_EQ(ids.use_count(), 1) << "kept by nobody once they are told";
  EXPECT_EQ(service_.Drop(kDefaultTenant, session_->id(), space_, {&key_, 1}).value(), 1u);
  EXPECT_EQ(follower->Next(nullptr)->event->kind, StoreEvent::Kind::kRemoved);
  for (const auto& f : {follower, of_model, of_another, another_tenants}) service_.Unfollow(f);
  service_.Unwatch(watching);
}

TEST_F(TokenIdsTest, AreNotKeptWhereNobodyIsTold) {
  const auto another_tenants = service_.Follow(TenantId{1}, "", 10);
  const TokenIds ids = Ids(128);
  const auto put = *Announce(ids);
  EXPECT_EQ(ids.use_count(), 1);
  service_.Unfollow(another_tenants);
}

TEST_F(TokenIdsTest, AreAllOrNone) {
  for (const size_t n : {1u, 127u, 129u, 256u}) {
    const auto put = Announce(Ids(n));
    ASSERT_EQ(put.status().code(), absl::StatusCode::kInvalidArgument) << n;
    EXPECT_EQ(put.status().message(),
              absl::StrCat("block 0 has ", n,
                           " token_ids; a block of this space has 128. Send all of them, or none"));
  }
}

TEST_F(ServiceCallTest, AFollowerThatFallsBehindLosesTheOldest) {
  const auto follower = service_.Follow(kDefaultTenant, "", 1);
  ASSERT_TRUE(Store());
  ASSERT_EQ(service_.DropAll(kDefaultTenant, session_->id(), space_).value(), 1u);
  int woken = 0;
  const auto item = follower->Next([&] { ++woken; });
  EXPECT_EQ(item->lost, 1u);
  EXPECT_EQ(item->event->kind, StoreEvent::Kind::kRemoved);
  EXPECT_FALSE(follower->Next([&] { ++woken; }));
  ASSERT_TRUE(Store());
  EXPECT_EQ(woken, 1);
  service_.Unfollow(follower);
}

TEST_F(ServiceCallTest, HitsSavePrefillAtTheRateThatWasDeclared) {
  ASSERT_TRUE(Store());
  const auto look_up = [&](double rate, absl::Duration ttl) {
    const auto session = *service_.BeginSession(kDefaultTenant, "worker", rate);
    const uint64_t space = service_.OpenSpace(kDefaultTenant, session->id(), Spec(), {})->handle;
    EXPECT_TRUE(service_.Lookup(kDefaultTenant, session->id(), space, {&key_, 1}, "", ttl).ok());
  };
  look_up(0, absl::Seconds(1));
  EXPECT_TRUE(stats_.totals().prefill_saved.empty()) << "nobody said how fast they are";
  look_up(64, absl::ZeroDuration());
  EXPECT_EQ(stats_.totals().prefill_saved[kDefaultTenant], absl::ZeroDuration());
  look_up(64, absl::Seconds(1));
  EXPECT_EQ(stats_.totals().prefill_saved[kDefaultTenant], absl::Seconds(2));
  look_up(256, absl::Seconds(1));
  EXPECT_EQ(stats_.totals().prefill_saved[kDefaultTenant], absl::Seconds(2.5));
}

TEST_F(ServiceCallTest, APrefillRateIsANumberOfTokensASecond) {
  for (const double bad : {-1.0, 0.5, 2e9, std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    const auto session = service_.BeginSession(kDefaultTenant, "worker", bad);
    EXPECT_EQ(session.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(session.status().message()),
                ::testing::HasSubstr("prefill_tokens_per_second"));
  }
}

// The store outlives the service, and tells of moves until the last has ended.
TEST(ServiceLifeTest, RecordsMayArriveWhenTheServiceHasGone) {
  StoreWorld world(30, {.high_watermark = 0.8, .low_watermark = 0.5}, 10);
  TiledPlaneCodec codec(CpuCodec(), &world.executor, &world.clock, &world.stats);
  auto service = std::make_unique<Service>(
      ServiceLimits{}, Service::Parts{&world.store, &codec, &world.executor, &world.clock,
                                      &world.random, &world.stats});
  ASSERT_EQ(world.Put(TestChain('a', 10)), 10u);
  world.store.Maintain();
  service.reset();
  world.executor.RunAll();
  EXPECT_GT((world.stats.totals().moved[{TierKind::kGpu, TierKind::kHost}]), 0u);
}

// A transport's callback holds the transport's call, which holds the GetCall.
TEST_F(ServiceCallTest, GetKeepsNothingAfterCancel) {
  ASSERT_TRUE(Store());
  const auto held = std::make_shared<int>();
  auto get = Get();
  get->Cancel();
  get->Next([held](absl::StatusOr<PlaneDelivery>) { FAIL() << "it was cancelled"; });
  executor_.RunAll();
  EXPECT_EQ(held.use_count(), 1);
  const std::weak_ptr<GetCall> gone = get;
  get.reset();
  EXPECT_TRUE(gone.expired());
  EXPECT_EQ(service_.Snapshot().inflight_bytes, 0u);
}

TEST_F(ServiceCallTest, PutKeepsNothingAfterCancel) {
  const auto held = std::make_shared<int>();
  auto put = SendAll();
  put->Cancel();
  EXPECT_TRUE(absl::IsCancelled(
      put->Commit([held](absl::StatusOr<PutResults>) { FAIL() << "it was cancelled"; })));
  executor_.RunAll();
  EXPECT_EQ(held.use_count(), 1);
  put.reset();
  EXPECT_EQ(service_.Snapshot().staged_bytes, 0u);
  EXPECT_EQ(Lookup(), 0u);
}

// A later plane is found damaged before an earlier one was prepared: what the client is told
// comes before it misses anything.
TEST_F(ServiceCallTest, DamageIsToldBeforeAnythingIsMissing) {
  ASSERT_TRUE(Store());
  DamageLastPlane();
  auto get = Get();
  std::vector<PlaneDelivery> deliveries;
  const auto take = [&](absl::StatusOr<PlaneDelivery> d) { deliveries.push_back(*std::move(d)); };
  get->Next(take);
  executor_.RunAllBackwards();
  get->Next(take);
  executor_.RunAll();
  ASSERT_EQ(deliveries.size(), 2u);
  EXPECT_EQ(deliveries[0].kind, PlaneDelivery::Kind::kDamage);
  const PlaneSpec& damaged = layout_.planes().back();
  EXPECT_EQ(deliveries[0].layer, damaged.layer) << "it names the plane that is damaged";
  EXPECT_EQ(deliveries[0].plane_kind, damaged.kind);
  EXPECT_EQ(deliveries[1].kind, PlaneDelivery::Kind::kEnd);
  EXPECT_EQ(stats_.totals().checksum_failures, 1u);
  EXPECT_EQ(Lookup(), 0u);
}

// What cannot be read now may be read later: it is a miss, and stays.
TEST_F(ServiceCallTest, UnreadableIsNotDamaged) {
  ASSERT_TRUE(Store());
  tier_.set_failing(true);
  std::vector<PlaneDelivery::Kind> kinds;
  auto get = Get();
  for (int i = 0; i < 2; ++i) {
    get->Next([&](absl::StatusOr<PlaneDelivery> delivery) { kinds.push_back(delivery->kind); });
    executor_.RunAll();
  }
  EXPECT_THAT(kinds,
              ::testing::ElementsAre(PlaneDelivery::Kind::kDamage, PlaneDelivery::Kind::kEnd));
  EXPECT_EQ(stats_.totals().checksum_failures, 0u);
  tier_.set_failing(false);
  EXPECT_EQ(Lookup(), 1u);
}

TEST_F(ServiceCallTest, WhatCannotBeWrittenIsNotStored) {
  tier_.set_failing(true);
  EXPECT_FALSE(Store());
  EXPECT_EQ(Lookup(), 0u);
  EXPECT_EQ(tier_.usage().used_bytes, 0u);
  tier_.set_failing(false);
  EXPECT_TRUE(Store());
}

// ---- Records written in place ----

class InPlacePutTest : public ServiceCallTest {
 protected:
  InPlacePutTest() {
    SpaceSpec spec = Spec();
    spec.codec.codec = CodecId::kRaw;
    space_ = service_.OpenSpace(kDefaultTenant, session_->id(), spec, {})->handle;
  }
  uint64_t used() const { return tier_.usage().used_bytes; }
};

TEST_F(InPlacePutTest, NothingIsVisibleBeforeTheCommit) {
  const auto put = SendAll();
  EXPECT_GT(used(), layout_.raw_bytes());
  executor_.RunAll();
  EXPECT_EQ(Lookup(), 0u);
  EXPECT_EQ(store_.Snapshot().tiers[0].blocks, 0u);
}

TEST_F(InPlacePutTest, GetGivesWhatWasPut) {
  ASSERT_TRUE(Store());
  auto get = Get();
  for (const auto& plane : block_) {
    bool came = false;
    get->Next([&](absl::StatusOr<PlaneDelivery> delivery) {
      ASSERT_TRUE(delivery.ok()) << delivery.status();
      came = std::ranges::equal(delivery->bytes, plane);
    });
    executor_.RunAll();
    EXPECT_TRUE(came);
  }
}

// Without a slot planes that go out as they are stored are checked by who asks for them.
TEST_F(InPlacePutTest, GetNeedsNoOtherThread) {
  ASSERT_TRUE(Store());
  DamageLastPlane();
  for (const PlaneForm form : {PlaneForm::kDecoded, PlaneForm::kEncoded}) {
    const auto get = *service_.Get(kDefaultTenant, session_->id(), space_, {&key_, 1}, {}, form);
    std::vector<PlaneDelivery::Kind> kinds;
    const auto take = [&](absl::StatusOr<PlaneDelivery> d) { kinds.push_back(d->kind); };
    for (size_t p = 0; p <= block_.size(); ++p) get->Next(take);
    using Kind = PlaneDelivery::Kind;
    // The first Get finds the damage, and takes the block out of the store.
    if (form == PlaneForm::kDecoded) {
      EXPECT_THAT(kinds, ::testing::ElementsAre(Kind::kPlane, Kind::kDamage, Kind::kEnd));
    } else {
      EXPECT_THAT(kinds, ::testing::Each(Kind::kEnd));
    }
  }
  EXPECT_EQ(stats_.totals().checksum_failures, 1u);
}

// Without a slot the values are borrowed where they are stored: as long as somebody has them, they
// stay there.
TEST_F(InPlacePutTest, WhatWasGivenOutOutlivesItsBlock) {
  ASSERT_TRUE(Store());
  auto get = Get();
  PlaneDelivery first;
  get->Next([&](absl::StatusOr<PlaneDelivery> delivery) { first = *std::move(delivery); });
  executor_.RunAll();
  get->Cancel();
  get.reset();
  ASSERT_TRUE(service_.DropAll(kDefaultTenant, session_->id(), space_).ok());
  EXPECT_EQ(Lookup(), 0u);
  EXPECT_GT(used(), 0u);
  EXPECT_TRUE(std::ranges::equal(first.bytes, block_[0]));
  first = {};
  EXPECT_EQ(used(), 0u);
}

TEST_F(InPlacePutTest, CancelGivesTheRoomBackAndTakesNoMore) {
  const auto put = SendAll();
  put->Cancel();
  EXPECT_EQ(used(), 0u);
  EXPECT_TRUE(Store());  // the block is nobody's
}

TEST_F(InPlacePutTest, BytesAfterTheCancelGoNowhere) {
  auto put = *service_.Put(kDefaultTenant, session_->id(), space_, {{key_, {}, 0}}, {});
  const PlaneSpec& plane = layout_.planes()[0];
  const auto bytes = static_cast<uint32_t>(plane.raw_bytes);
  const PlaneSegment half = {plane.layer, plane.kind, 0, 0, bytes / 2, bytes};
  const std::span<const std::byte> data = std::span(block_[0]).first(bytes / 2);
  ASSERT_TRUE(put->Add({&half, 1}, {&data, 1}).ok());
  put->Cancel();
  const PlaneSegment rest = {plane.layer, plane.kind, 0, bytes / 2, bytes / 2, bytes};
  EXPECT_EQ(put->Add({&rest, 1}, {&data, 1}).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(used(), 0u);
}

// Whoever takes the room next has it alone: for a race detector to judge.
TEST_F(InPlacePutTest, ACancelBesideACopyWaitsForIt) {
  for (int i = 0; i < 20; ++i) {
    auto put = *service_.Put(kDefaultTenant, session_->id(), space_, {{key_, {}, 0}}, {});
    std::thread sender([&] {
      const PlaneSpec& plane = layout_.planes()[0];
      const auto bytes = static_cast<uint32_t>(plane.raw_bytes);
      const PlaneSegment segment = {plane.layer, plane.kind, 0, 0, bytes, bytes};
      const std::span<const std::byte> data = block_[0];
      put->Add({&segment, 1}, {&data, 1}).IgnoreError();
    });
    put->Cancel();
    const auto room = tier_.Allocate(tier_.usage().capacity_bytes - used());
    ASSERT_TRUE(room.ok());
    const std::vector<std::byte> bytes(4096, std::byte{1});
    EXPECT_TRUE(tier_.Write(*room, 0, bytes).ok());
    sender.join();
    tier_.Free(*room);
    put.reset();
    EXPECT_EQ(used(), 0u);
  }
}

TEST_F(InPlacePutTest, ACallThatGoesLeavesNothing) {
  SendAll();
  EXPECT_EQ(used(), 0u);
  EXPECT_EQ(store_.Snapshot().pending_blocks, 0u);
}

TEST_F(InPlacePutTest, WhereThereIsNoRoomTheCommitTriesAgain) {
  std::vector<Allocation> all;
  auto put = *service_.Put(kDefaultTenant, session_->id(), space_, {{key_, {}, 0}}, {});
  for (auto a = tier_.Allocate(1); a.ok(); a = tier_.Allocate(1)) all.push_back(*a);
  for (size_t p = 0; p < layout_.planes().size(); ++p) {
    const PlaneSpec& plane = layout_.planes()[p];
    const auto bytes = static_cast<uint32_t>(plane.raw_bytes);
    const PlaneSegment segment = {plane.layer, plane.kind, 0, 0, bytes, bytes};
    const std::span<const std::byte> data = block_[p];
    ASSERT_TRUE(put->Add({&segment, 1}, {&data, 1}).ok());
  }
  for (const Allocation& a : all) tier_.Free(a);
  bool stored = false;
  ASSERT_TRUE(put->Commit([&](absl::StatusOr<PutResults> results) {
                   stored = results.ok() && results->blocks[0].stored;
                 })
                  .ok());
  executor_.RunAll();
  EXPECT_TRUE(stored);
}

}  // namespace
}  // namespace kvstow::testing
