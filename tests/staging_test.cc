// The daemon's shared memory, held by clients that mean no good: whatever they name, write and
// leave behind, the daemon goes on, and only their own KV suffers.
#include <sys/socket.h>
#include <sys/un.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gpu/api/testing/fake_device.h"
#include "gtest/gtest.h"
#include "staging/side_channel.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/raw_worker.h"
#include "tests/testing/staging_service.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;
using Answer = v1::PutResponse::Answer;
using grpc::StatusCode;

class StagingTest : public DaemonTest {
 protected:
  StagingTest() {
    config_.staging.budget_bytes = 8 << 20;
    config_.staging.session_bytes = 2 << 20;
  }
  void SetUp() override {
    StartDaemon();
    worker_ = std::make_unique<RawWorker>(target());
    worker_->OpenSmall();
  }
  void TearDown() override {
    worker_.reset();
    daemon_.reset();
  }

  absl::StatusOr<GrantedRegion> Ask(const std::string& session, uint64_t bytes = 2 << 20) {
    StagingRequest request;
    std::memcpy(request.session.data(), session.data(), request.session.size());
    request.bytes = bytes;
    return RequestRegion(SideChannelPath(config_.rpc.unix_socket), request, absl::Seconds(60));
  }
  GrantedRegion Region() {
    auto region = Ask(worker_->session());
    EXPECT_TRUE(region.ok()) << region.status();
    return *std::move(region);
  }

  static v1::StagingSlot Slot(uint32_t region, uint64_t offset, uint64_t bytes) {
    v1::StagingSlot slot;
    slot.set_region(region);
    slot.set_offset(offset);
    slot.set_bytes(bytes);
    return slot;
  }

  // A Put of one small block through a slot. `spoil` changes each staged message before it is sent.
  struct PutEnd {
    grpc::Status status;
    bool stored = false;
    uint64_t consumed = 0;
  };
  PutEnd Put(const BlockKey& key, const Planes& block, const v1::StagingSlot& slot,
             std::span<std::byte> memory,
             const std::function<void(v1::StagedChunk*)>& spoil = nullptr) {
    auto context = worker_->Context();
    auto stream = worker_->stub().Put(context.get());
    v1::PutRequest announce = worker_->Announce({key});
    *announce.mutable_announce()->mutable_slot() = slot;
    stream->Write(announce);
    v1::PutResponse response;
    PutEnd end;
    if (stream->Read(&response) && response.answers().answers(0).kind() == Answer::SEND) {
      stream->Write(Staged(block, memory, spoil));
      stream->Write(RawWorker::Commit());
    }
    stream->WritesDone();
    while (stream->Read(&response)) {
      if (response.has_consumed()) end.consumed = response.consumed().segments();
      if (response.has_results()) end.stored = response.results().results(0).stored();
    }
    end.status = stream->Finish();
    return end;
  }

  // All planes of the block in the slot, one behind the other.
  v1::PutRequest Staged(const Planes& block, std::span<std::byte> memory,
                        const std::function<void(v1::StagedChunk*)>& spoil) {
    v1::PutRequest message;
    size_t at = 0;
    const PlaneLayout layout = SmallLayout();
    for (size_t p = 0; p < layout.planes().size(); ++p) {
      const PlaneSpec& plane = layout.planes()[p];
      std::memcpy(memory.data() + at, block[p].data(), block[p].size());
      v1::Segment* s = message.mutable_staged()->add_segments();
      s->set_layer(plane.layer);
      s->set_kind(static_cast<v1::PlaneKind>(plane.kind));
      s->set_length(static_cast<uint32_t>(plane.raw_bytes));
      s->set_plane_bytes(static_cast<uint32_t>(plane.raw_bytes));
      s->set_staged_at(static_cast<uint32_t>(at));
      at += plane.raw_bytes;
    }
    if (spoil) spoil(message.mutable_staged());
    return message;
  }

  bool StillWorks() {
    const auto keys = SmallKeys(1, 77);
    const auto put = worker_->Put(keys, {MakeBlock(SmallLayout(), 77)});
    return put.status.ok() && worker_->Lookup(keys) == 1;
  }

  std::unique_ptr<RawWorker> worker_;
  const std::vector<BlockKey> keys_ = SmallKeys(1);
  const Planes block_ = MakeBlock(SmallLayout(), 1);
};

TEST_F(StagingTest, PutAndGetThroughASlot) {
  GrantedRegion region = Region();
  const auto memory = region.memory.bytes();
  // A slot that its planes fill: less than a quarter of one the daemon may keep to itself.
  const PutEnd put =
      Put(keys_[0], block_, Slot(region.region, 0, SmallLayout().raw_bytes()), memory);
  ASSERT_TRUE(put.status.ok()) << put.status.error_message();
  EXPECT_TRUE(put.stored);
  EXPECT_EQ(put.consumed, SmallLayout().planes().size());

  auto context = worker_->Context();
  auto stream = worker_->stub().Get(context.get());
  v1::GetRequest open = worker_->Open(keys_);
  *open.mutable_open()->mutable_slot() = Slot(region.region, 1 << 20, 1 << 20);
  stream->Write(open);
  v1::GetResponse response;
  size_t planes = 0;
  const auto slot = memory.subspan(1 << 20);
  while (stream->Read(&response)) {
    EXPECT_FALSE(response.has_chunk()) << "bytes in the stream that fit the slot";
    const v1::StagedPlanes& staged = response.staged();
    for (int i = 0; i < staged.blocks_size(); ++i) {
      EXPECT_LT(Nmse(block_[planes++], slot.subspan(staged.staged_at(i), staged.plane_bytes(i))),
                0.1);
    }
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(planes, block_.size());
}

// A message costs as much as the copying of some planes, so a layer has one of its own only where
// somebody waits for it, or does not know that it could be otherwise.
TEST_F(StagingTest, LayersShareAMessageWhereTheyMay) {
  GrantedRegion region = Region();
  const auto keys = SmallKeys(2, 9);
  ASSERT_TRUE(worker_->Put(keys, {block_, block_}).status.ok());
  const auto get = [&](bool together) {
    v1::GetRequest open = worker_->Open(keys);
    *open.mutable_open()->mutable_slot() = Slot(region.region, 0, 2 << 20);
    open.mutable_open()->set_layers_together(together);
    auto context = worker_->Context();
    auto stream = worker_->stub().Get(context.get());
    stream->Write(open);
    std::vector<v1::StagedPlanes> told;
    for (v1::GetResponse response; stream->Read(&response);) {
      if (response.has_staged()) told.push_back(response.staged());
    }
    EXPECT_TRUE(stream->Finish().ok());
    return told;
  };
  std::vector<uint32_t> layers;
  size_t mixed = 0;
  for (const v1::StagedPlanes& planes : get(true)) {
    ASSERT_EQ(planes.layers_size(), planes.blocks_size());
    layers.insert(layers.end(), planes.layers().begin(), planes.layers().end());
    mixed += planes.layers(0) != *planes.layers().rbegin() ? 1 : 0;
  }
  EXPECT_EQ(layers, (std::vector<uint32_t>{0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_GT(mixed, 0u);

  layers.clear();
  for (const v1::StagedPlanes& planes : get(false)) {
    EXPECT_EQ(planes.layers_size(), 0);
    layers.insert(layers.end(), planes.blocks_size(), planes.layer());
  }
  EXPECT_EQ(layers, (std::vector<uint32_t>{0, 0, 0, 0, 1, 1, 1, 1}));
}

TEST_F(StagingTest, SlotsOutsideTheRegionAreRefused) {
  GrantedRegion region = Region();
  const auto memory = region.memory.bytes();
  const uint64_t size = memory.size();
  const struct {
    v1::StagingSlot slot;
    StatusCode code;
  } cases[] = {
      {Slot(region.region, 0, size + 1), StatusCode::INVALID_ARGUMENT},
      {Slot(region.region, size, 1), StatusCode::INVALID_ARGUMENT},
      {Slot(region.region, ~uint64_t{0}, 2), StatusCode::INVALID_ARGUMENT},
      {Slot(region.region, 1, ~uint64_t{0}), StatusCode::INVALID_ARGUMENT},
      {Slot(region.region, 0, 0), StatusCode::INVALID_ARGUMENT},
      {Slot(region.region, 0, 4), StatusCode::INVALID_ARGUMENT},
      {Slot(region.region, 0, 63), StatusCode::INVALID_ARGUMENT},
      {Slot(region.region, 0, 4095), StatusCode::INVALID_ARGUMENT},
      {Slot(region.region + 1, 0, 4096), StatusCode::FAILED_PRECONDITION},
      {Slot(0, 0, 4096), StatusCode::FAILED_PRECONDITION},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(Put(keys_[0], block_, c.slot, memory).status.error_code(), c.code)
        << c.slot.ShortDebugString();
    auto context = worker_->Context();
    auto stream = worker_->stub().Get(context.get());
    v1::GetRequest open = worker_->Open(keys_);
    *open.mutable_open()->mutable_slot() = c.slot;
    stream->Write(open);
    v1::GetResponse response;
    EXPECT_FALSE(stream->Read(&response));
    EXPECT_EQ(stream->Finish().error_code(), c.code) << c.slot.ShortDebugString();
  }
  EXPECT_TRUE(StillWorks());
}

// A region is a session's: to another one its number means nothing.
TEST_F(StagingTest, RegionsOfOthersCannotBeNamed) {
  GrantedRegion region = Region();
  RawWorker other(target());
  other.OpenSmall();
  v1::PutRequest announce = other.Announce({keys_[0]});
  *announce.mutable_announce()->mutable_slot() = Slot(region.region, 0, 4096);
  auto context = other.Context();
  auto stream = other.stub().Put(context.get());
  stream->Write(announce);
  v1::PutResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::FAILED_PRECONDITION);
}

TEST_F(StagingTest, SegmentsOutsideTheSlotAreRefused) {
  GrantedRegion region = Region();
  const auto slot = Slot(region.region, 0, 512 << 10);
  using Spoil = std::function<void(v1::StagedChunk*)>;
  const Spoil spoils[] = {
      [](auto* c) { c->mutable_segments(0)->set_staged_at(512 << 10); },
      [](auto* c) { c->mutable_segments(0)->set_staged_at((512 << 10) - 1); },
      [](auto* c) { c->mutable_segments(0)->set_staged_at(~0u); },
      [](auto* c) { c->mutable_segments(0)->set_length(~0u); },
      [](auto* c) { c->mutable_segments(1)->set_kind(static_cast<v1::PlaneKind>(9)); },
      [](auto* c) { c->clear_segments(); },
      // The same bytes over and over.
      [](auto* c) {
        while (c->segments_size() < 1000) *c->add_segments() = c->segments(0);
      },
      [](auto* c) { *c->add_segments() = c->segments(0); },
  };
  for (const Spoil& spoil : spoils) {
    const PutEnd put = Put(keys_[0], block_, slot, region.memory.bytes(), spoil);
    EXPECT_EQ(put.status.error_code(), StatusCode::INVALID_ARGUMENT) << put.status.error_message();
    EXPECT_FALSE(put.stored);
  }
  EXPECT_EQ(worker_->Lookup(keys_), 0u);
  EXPECT_TRUE(StillWorks());
}

TEST_F(StagingTest, StagedPlanesNeedASlot) {
  auto context = worker_->Context();
  auto stream = worker_->stub().Put(context.get());
  stream->Write(worker_->Announce({keys_[0]}));
  v1::PutResponse response;
  ASSERT_TRUE(stream->Read(&response));
  std::vector<std::byte> anywhere(SmallLayout().raw_bytes());
  stream->Write(Staged(block_, anywhere, nullptr));
  EXPECT_FALSE(stream->Read(&response));
  const grpc::Status end = stream->Finish();
  EXPECT_EQ(end.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(end.error_message(), HasSubstr("no staging slot"));
}

TEST_F(StagingTest, ConsumedMoreThanSentIsRefused) {
  GrantedRegion region = Region();
  // More than the slot holds, so that the call is there when the lie comes.
  const auto keys = SmallKeys(20, 4);
  ASSERT_TRUE(worker_->Put(keys, std::vector<Planes>(20, block_)).status.ok());
  for (const bool opened : {false, true}) {
    auto context = worker_->Context();
    auto stream = worker_->stub().Get(context.get());
    v1::GetRequest open = worker_->Open(keys);
    *open.mutable_open()->mutable_slot() = Slot(region.region, 0, 256 << 10);
    v1::GetRequest consumed;
    consumed.mutable_consumed()->set_segments(1000);
    if (opened) stream->Write(open);
    stream->Write(consumed);
    v1::GetResponse response;
    while (stream->Read(&response)) {
    }
    EXPECT_EQ(stream->Finish().error_code(), StatusCode::INVALID_ARGUMENT);
  }
  EXPECT_TRUE(StillWorks());
}

// It may store nonsense, but what it stores is whole, and nobody else's.
TEST_F(StagingTest, WritingWhileTheDaemonReads) {
  GrantedRegion region = Region();
  const auto memory = region.memory.bytes();
  std::atomic<bool> stop{false};
  std::thread scribbler([&] {
    for (uint32_t i = 0; !stop; ++i) {
      volatile std::byte& b = memory[(i * 2654435761u) % memory.size()];
      b = static_cast<std::byte>(i);
    }
  });
  const auto keys = SmallKeys(20, 5);
  for (const BlockKey& key : keys) {
    // Each is its own prompt's first block.
    const PutEnd put = Put(key, block_, Slot(region.region, 0, 1 << 20), memory);
    EXPECT_TRUE(put.status.ok()) << put.status.error_message();
  }
  for (const BlockKey& key : keys) {
    const auto inspection = worker_->Inspect(key);
    ASSERT_TRUE(inspection.found());
    EXPECT_TRUE(inspection.records(0).intact()) << inspection.records(0).problem();
  }
  // And while it writes.
  for (const BlockKey& key : keys) {
    auto context = worker_->Context();
    auto stream = worker_->stub().Get(context.get());
    v1::GetRequest open = worker_->Open({key});
    *open.mutable_open()->mutable_slot() = Slot(region.region, 1 << 20, 1 << 20);
    stream->Write(open);
    v1::GetResponse response;
    while (stream->Read(&response)) {
    }
    EXPECT_TRUE(stream->Finish().ok());
  }
  stop = true;
  scribbler.join();
  EXPECT_TRUE(StillWorks());
}

// A reader that takes nothing out of its slot is a stalled reader.
TEST_F(StagingTest, ReaderThatConsumesNothingIsEnded) {
  TearDown();
  config_.rpc.stall_timeout = absl::Seconds(2);
  SetUp();
  GrantedRegion region = Region();
  const auto keys = SmallKeys(20, 9);
  ASSERT_TRUE(worker_->Put(keys, std::vector<Planes>(20, block_)).status.ok());
  auto context = worker_->Context();
  auto stream = worker_->stub().Get(context.get());
  v1::GetRequest open = worker_->Open(keys);
  *open.mutable_open()->mutable_slot() = Slot(region.region, 0, 128 << 10);
  stream->Write(open);
  v1::GetResponse response;
  while (stream->Read(&response)) {
  }
  EXPECT_FALSE(stream->Finish().ok());
  EXPECT_TRUE(StillWorks());
}

TEST_F(StagingTest, TheSideChannelRefusesWhatItMust) {
  EXPECT_EQ(Ask(std::string(16, 'x')).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Ask(worker_->session(), 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Ask(worker_->session(), ~uint64_t{0})->memory.bytes().size(), 2u << 20)
      << "more than a session's share is cut to it";
}

TEST_F(StagingTest, WithoutStagingNobodyListens) {
  TearDown();
  config_.staging.budget_bytes = 0;
  SetUp();
  EXPECT_EQ(Ask(worker_->session()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(StillWorks());
}

// ---- The listener by itself ----

TEST_F(StagingListenerTest, TenThousandSessionsShareTheBudget) {
  std::vector<SessionId> sessions;
  std::vector<GrantedRegion> regions;
  for (int i = 0; i < 10'000; ++i) {
    sessions.push_back(Begin());
    auto region = Ask(sessions.back());
    if (region.ok()) {
      regions.push_back(*std::move(region));
    } else {
      EXPECT_EQ(region.status().code(), absl::StatusCode::kResourceExhausted);
    }
  }
  EXPECT_EQ(regions.size(), 16u);
  EXPECT_EQ(listener_->used_bytes(), 1u << 20);
  for (const SessionId& id : sessions) service_.EndSession(id);
  EXPECT_EQ(listener_->used_bytes(), 0u) << "the clients' mappings keep nothing of the budget";
  EXPECT_TRUE(Ask(Begin()).ok());
}

// Which costs a page each, however few bytes they ask for, and no descriptor once it is handed
// over.
TEST_F(StagingListenerTest, DeviceMemoryCountsByThePage) {
  constexpr size_t kPage = 64 << 10;
  gpu::FakeDevice device;
  device.set_shared_page(kPage);
  StagingOptions options = options_;
  options.device_budget_bytes = 16 * kPage;
  listener_.reset();
  listener_ = *StagingListener::Start(socket_, options, &service_, tenants_.get(), &clock_,
                                      &random_, &device);
  const auto ask = [&](const SessionId& session) {
    return RequestDeviceRegion(
        SideChannelPath(socket_), {session.bytes, 1, device.uuid()}, absl::Seconds(60),
        [&](const OwnedFd& memory, uint64_t bytes, const StagingProbe& probe) {
          EXPECT_EQ(bytes, kPage);
          const auto mapped = *device.Import(memory.get(), bytes);
          const StagingProbe answer = probe.Answer();
          std::memcpy(mapped->bytes().data() + probe.bytes.size(), answer.bytes.data(),
                      answer.bytes.size());
          return absl::OkStatus();
        });
  };
  const auto descriptors = [] {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return std::distance(begin(all), end(all));
  };
  std::vector<SessionId> sessions;
  for (int i = 0; i < 20; ++i) sessions.push_back(Begin());
  ASSERT_TRUE(ask(sessions[0]).ok());
  const auto before = descriptors();
  for (int i = 1; i < 20; ++i) {
    const auto region = ask(sessions[i]);
    EXPECT_EQ(region.status().code(),
              i < 16 ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(listener_->used_device_bytes(), 16 * kPage);
  EXPECT_LE(descriptors(), before + 1) << "one, perhaps, of a connection that is just closed";
  for (const SessionId& id : sessions) service_.EndSession(id);
  EXPECT_EQ(listener_->used_device_bytes(), 0u);
}

TEST_F(StagingListenerTest, AnotherRegionTakesThePlaceOfTheFirst) {
  const SessionId id = Begin();
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(Ask(id).ok());
  EXPECT_EQ(listener_->used_bytes(), 64u << 10);
  const auto session = *service_.FindSession(id);
  EXPECT_FALSE(session->Borrow({1, 0, 4096}).ok());
  // What a call has borrowed stays as long as the call.
  auto slot = session->Borrow({100, 0, 4096});
  ASSERT_TRUE(slot.ok());
  ASSERT_TRUE(Ask(id).ok());
  EXPECT_EQ(listener_->used_bytes(), 128u << 10);
  std::memset(slot->bytes.data(), 1, slot->bytes.size());
  slot = absl::CancelledError();
  EXPECT_EQ(listener_->used_bytes(), 64u << 10);
}

TEST_F(StagingListenerTest, ARegionIsReplacedWithAFullBudget) {
  std::vector<SessionId> sessions;
  std::vector<GrantedRegion> regions;
  for (int i = 0; i < 16; ++i) {
    sessions.push_back(Begin());
    regions.push_back(*Ask(sessions.back()));
  }
  EXPECT_FALSE(Ask(Begin()).ok());
  EXPECT_TRUE(Ask(sessions[3]).ok()) << "its own old region is no reason to refuse it";
}

TEST_F(StagingListenerTest, GuestsThatKeepSilentHoldUpNobody) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = SideChannelPath(socket_);
  std::memcpy(address.sun_path, path.data(), path.size());
  std::vector<OwnedFd> silent;
  for (int i = 0; i < 40; ++i) {
    silent.emplace_back(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(silent.back().get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)),
              0);
  }
  EXPECT_TRUE(Ask(Begin()).ok());
}

TEST_F(StagingListenerTest, TwoDaemonsCannotShareASideChannel) {
  const auto second =
      StagingListener::Start(socket_, options_, &service_, tenants_.get(), &clock_, &random_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use"));
  EXPECT_TRUE(Ask(Begin()).ok());
  listener_.reset();
  EXPECT_TRUE(
      StagingListener::Start(socket_, options_, &service_, tenants_.get(), &clock_, &random_).ok());
}

TEST_F(StagingListenerTest, NothingOfASessionThatEnded) {
  const SessionId id = Begin();
  service_.EndSession(id);
  EXPECT_EQ(Ask(id).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(listener_->used_bytes(), 0u);
}

}  // namespace
}  // namespace kvstow::testing
