// What happens to the daemon when things go wrong around it: clients that vanish or stall, memory
// that rots, a store full of leased blocks, a shutdown that somebody holds up.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/eventually.h"
#include "tests/testing/find_record.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/raw_worker.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;
using Answer = v1::PutResponse::Answer;
using grpc::StatusCode;

class FaultTest : public DaemonTest {
 protected:
  void StartBoth() {
    StartDaemon();
    worker_ = std::make_unique<RawWorker>(target());
    worker_->OpenSmall();
  }
  void TearDown() override {
    worker_.reset();
    daemon_.reset();
  }
  std::vector<Planes> Blocks(size_t n, uint64_t seed = 1) const {
    std::vector<Planes> blocks;
    for (size_t i = 0; i < n; ++i) blocks.push_back(MakeBlock(layout_, seed * 1000 + i));
    return blocks;
  }
  void FlipByteOfFirstRecord(uint64_t offset) {
    const auto found = FindRecord(daemon_->host_tier(), 0);
    ASSERT_TRUE(found.has_value());
    const Allocation first = *found;
    std::byte byte;
    EXPECT_TRUE(daemon_->host_tier().Read(first, offset, {&byte, 1}).ok());
    byte ^= std::byte{0x40};
    EXPECT_TRUE(daemon_->host_tier().Write(first, offset, {&byte, 1}).ok());
  }

  const PlaneLayout layout_ = SmallLayout();
  const std::vector<BlockKey> keys_ = SmallKeys(3);
  std::unique_ptr<RawWorker> worker_;
};

TEST_F(FaultTest, ClientThatDisappearsMidPutLeavesNothing) {
  StartBoth();
  {
    RawWorker other(target());
    other.OpenSmall();
    auto context = other.Context();
    auto stream = other.stub().Put(context.get());
    stream->Write(other.Announce({keys_[0]}));
    v1::PutResponse response;
    ASSERT_TRUE(stream->Read(&response));
    stream->Write(RawWorker::ChunksOf(Blocks(1))[0]);
    EXPECT_EQ(worker_->Stats().pending_blocks(), 1u);
    context->TryCancel();
    stream->Finish();
  }
  EXPECT_TRUE(Eventually([&] { return worker_->Stats().pending_blocks() == 0; }));
  EXPECT_EQ(worker_->Lookup(keys_), 0u);
  EXPECT_EQ(worker_->Put({keys_[0]}, Blocks(1)).answers[0].kind(), Answer::SEND);
  EXPECT_EQ(worker_->Lookup(keys_), 1u);
  const auto stats = worker_->Stats();
  EXPECT_EQ(stats.inflight_bytes(), 0u);
}

TEST_F(FaultTest, SessionThatEndsMidPutStoresNothing) {
  StartBoth();
  RawWorker other(target());
  other.OpenSmall();
  auto context = other.Context();
  auto stream = other.stub().Put(context.get());
  stream->Write(other.Announce({keys_[0]}));
  v1::PutResponse response;
  ASSERT_TRUE(stream->Read(&response));
  other.EndSession();
  ASSERT_TRUE(Eventually([&] { return worker_->Stats().sessions() == 1; }));
  for (const auto& chunk : RawWorker::ChunksOf(Blocks(1))) {
    if (!stream->Write(chunk)) break;
  }
  stream->WritesDone();
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(worker_->Lookup(keys_), 0u);
}

TEST_F(FaultTest, ReaderThatStallsMidGetIsEndedAndHoldsUpNobody) {
  config_.rpc.stall_timeout = absl::Seconds(3);  // the Put before is slow under a sanitizer
  StartBoth();
  // Many blocks, raw on the wire, so that the transport's buffers cannot swallow the whole answer.
  const auto keys = SmallKeys(200);
  std::vector<Planes> blocks(200, Blocks(1)[0]);
  ASSERT_TRUE(worker_->Put(keys, blocks).status.ok());
  std::vector<BlockKey> asked;
  while (asked.size() < 1000) asked.insert(asked.end(), keys.begin(), keys.end());
  auto context = worker_->Context(110);
  auto stalled = worker_->StartGet(context.get(), asked);
  v1::GetResponse response;
  ASSERT_TRUE(stalled->Read(&response));
  // Others are served meanwhile, and what the stalled one holds stays bounded.
  EXPECT_EQ(worker_->Get({keys[0]}).planes.size(), layout_.planes().size());
  EXPECT_LT(worker_->Stats().inflight_bytes(), uint64_t{64} << 20);
  EXPECT_TRUE(Eventually([&] { return worker_->Stats().inflight_bytes() == 0; }))
      << "the stalled call was not ended";
  while (stalled->Read(&response)) {
  }
  EXPECT_EQ(stalled->Finish().error_code(), StatusCode::CANCELLED);
}

// By a client that got the record encoded and found it damaged: the daemon looks for itself.
TEST_F(FaultTest, InspectDropsWhatIsDamagedWhenAsked) {
  StartBoth();
  ASSERT_TRUE(worker_->Put(keys_, Blocks(3)).status.ok());
  EXPECT_TRUE(worker_->Inspect(keys_[0], /*drop_damaged=*/true).records(0).intact());
  EXPECT_TRUE(worker_->Inspect(keys_[0]).found());
  FlipByteOfFirstRecord(worker_->Inspect(keys_[0]).records(0).record_bytes() - 100);
  EXPECT_FALSE(worker_->Inspect(keys_[0], /*drop_damaged=*/true).records(0).intact());
  EXPECT_FALSE(worker_->Inspect(keys_[0]).found());
  EXPECT_EQ(worker_->Stats().checksum_failures(), 1u);
}

TEST_F(FaultTest, FlippedByteIsAMissCountedAndDropped) {
  StartBoth();
  ASSERT_TRUE(worker_->Put(keys_, Blocks(3)).status.ok());
  const uint64_t bytes = worker_->Inspect(keys_[0]).records(0).record_bytes();
  FlipByteOfFirstRecord(bytes - 100);  // in the last plane
  EXPECT_FALSE(worker_->Inspect(keys_[0]).records(0).intact());
  const auto get = worker_->Get(keys_);
  ASSERT_TRUE(get.status.ok()) << get.status.error_message();
  ASSERT_EQ(get.damage.size(), 1u);
  EXPECT_EQ(get.damage[0].block(), 0u);
  EXPECT_EQ(get.damage[0].layer(), 1u);
  EXPECT_EQ(get.damage[0].kind(), v1::PLANE_V);
  EXPECT_EQ(get.planes.count({1, v1::PLANE_V, 0}), 0u) << "a damaged plane was delivered";
  for (uint32_t block : {1u, 2u}) {
    for (const PlaneSpec& plane : layout_.planes()) {
      EXPECT_TRUE(get.planes.contains({plane.layer, static_cast<int>(plane.kind), block}));
    }
  }
  EXPECT_EQ(worker_->Lookup(keys_), 0u);
  const auto stats = worker_->Stats();
  EXPECT_EQ(stats.checksum_failures(), 1u);
  EXPECT_EQ(stats.removed_blocks().at("damaged"), 3u) << "its children cannot be hit any more";
}

TEST_F(FaultTest, FlippedByteInTheHeaderToo) {
  StartBoth();
  ASSERT_TRUE(worker_->Put({keys_[0]}, Blocks(1)).status.ok());
  FlipByteOfFirstRecord(40);
  const auto get = worker_->Get({keys_[0]});
  ASSERT_EQ(get.damage.size(), 1u);
  EXPECT_TRUE(get.planes.empty());
  EXPECT_EQ(worker_->Lookup({keys_[0]}), 0u);
}

TEST_F(FaultTest, FullStoreOfLeasedBlocksDeclinesAndCounts) {
  config_.host_tier_bytes = 1 << 20;
  config_.store.max_leased_fraction = 1;
  StartBoth();
  // About 27 KiB a record: fewer than 40 fit.
  const auto keys = SmallKeys(60);
  std::vector<Planes> blocks(1);
  size_t stored = 0;
  bool full = false;
  for (size_t i = 0; i < keys.size() && !full; ++i) {
    blocks[0] = MakeBlock(layout_, i);
    const auto put =
        worker_->Put({keys[i]}, blocks, 128 * i, i == 0 ? BlockKey{} : keys[i - 1], 600'000);
    ASSERT_TRUE(put.status.ok()) << put.status.error_message();
    if (put.answers[0].kind() == Answer::DECLINED) {
      EXPECT_EQ(put.answers[0].refusal(), v1::REFUSAL_FULL);
      full = true;
    } else if (!put.results.results(0).stored()) {
      EXPECT_EQ(put.results.results(0).refusal(), v1::REFUSAL_FULL);
      full = true;
    } else {
      ++stored;
    }
  }
  EXPECT_TRUE(full);
  EXPECT_GT(stored, 20u);
  EXPECT_EQ(worker_->Lookup(keys), stored) << "a leased block was evicted";
  EXPECT_EQ(worker_->Stats().refused_blocks().at("full"), 1u);
}

TEST_F(FaultTest, FullStoreEvictsWhatNobodyHolds) {
  config_.host_tier_bytes = 1 << 20;
  StartBoth();
  for (uint32_t prompt = 0; prompt < 20; ++prompt) {
    const auto put = worker_->Put(SmallKeys(5, prompt), Blocks(5, prompt));
    ASSERT_TRUE(put.status.ok());
    for (const auto& result : put.results.results()) EXPECT_TRUE(result.stored());
  }
  EXPECT_EQ(worker_->Lookup(SmallKeys(5, 19)), 5u);
  EXPECT_EQ(worker_->Lookup(SmallKeys(5, 0)), 0u);
  const auto stats = worker_->Stats();
  EXPECT_GT(stats.removed_blocks().at("evicted"), 40u);
  EXPECT_LE(stats.tiers(0).physical_bytes(), stats.tiers(0).capacity_bytes());
}

TEST_F(FaultTest, DropDuringGetDeliversWhatWasPromised) {
  StartBoth();
  const auto keys = SmallKeys(200);
  std::vector<Planes> blocks(200, Blocks(1)[0]);
  ASSERT_TRUE(worker_->Put(keys, blocks).status.ok());
  auto context = worker_->Context();
  auto stream = worker_->StartGet(context.get(), keys);
  v1::GetResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(worker_->Drop({keys[0]}), 200u);
  EXPECT_EQ(worker_->Lookup(keys), 0u);
  uint64_t bytes = 0;
  while (stream->Read(&response)) {
    EXPECT_FALSE(response.has_damage());
    bytes += response.chunk().data().size();
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(bytes, 200 * layout_.raw_bytes()) << "blocks are held until the call ends";
  EXPECT_TRUE(Eventually([&] { return worker_->Stats().tiers(0).physical_bytes() == 0; }))
      << "dropped bytes were not given back";
}

TEST_F(FaultTest, PutsAreShedWhenTooMuchIsStaged) {
  config_.limits.max_staged_bytes = 48 << 10;
  StartBoth();
  const auto put = worker_->Put(keys_, Blocks(3));
  ASSERT_TRUE(put.status.ok()) << put.status.error_message();
  EXPECT_EQ(put.answers[0].kind(), Answer::SEND);
  EXPECT_EQ(put.answers[2].kind(), Answer::DECLINED);
  EXPECT_EQ(put.answers[2].refusal(), v1::REFUSAL_BEHIND);
  EXPECT_GE(worker_->Stats().refused_blocks().at("behind"), 1u);
  EXPECT_GE(worker_->Lookup(keys_), 1u);
}

// Together they have as many bytes in flight as there may be, of planes that none of them has
// whole.
TEST_F(FaultTest, PartsOfPlanesHoldUpNobody) {
  const auto plane_bytes = static_cast<uint32_t>(layout_.planes()[0].raw_bytes);
  config_.limits.max_inflight_bytes = 2 * plane_bytes;
  StartBoth();
  struct Stream {
    std::vector<BlockKey> keys;
    std::unique_ptr<grpc::ClientContext> context;
    std::unique_ptr<grpc::ClientReaderWriter<v1::PutRequest, v1::PutResponse>> stream;
  };
  std::vector<Stream> streams;
  v1::PutResponse response;
  for (uint32_t seed = 1; seed <= 2; ++seed) {
    Stream& s = streams.emplace_back(Stream{SmallKeys(1, seed), worker_->Context(), nullptr});
    s.stream = worker_->stub().Put(s.context.get());
    s.stream->Write(worker_->Announce(s.keys));
    ASSERT_TRUE(s.stream->Read(&response));
    ASSERT_EQ(response.answers().answers(0).kind(), Answer::SEND);
  }
  const auto chunks = RawWorker::ChunksOf(Blocks(1));
  const std::string& plane = chunks[0].chunk().data();
  for (uint32_t part = 0; part < 4; ++part) {
    const uint32_t at = part * plane_bytes / 4;
    for (Stream& s : streams) {
      s.stream->Write(RawWorker::ChunkOf(chunks[0].chunk().segments(0).layer(),
                                         chunks[0].chunk().segments(0).kind(), 0, at, plane_bytes,
                                         plane.substr(at, plane_bytes / 4)));
    }
    if (part == 0) {
      EXPECT_TRUE(Eventually([&] { return worker_->Stats().inflight_bytes() == 2 * plane_bytes; }));
    }
  }
  for (Stream& s : streams) {
    for (size_t i = 1; i < chunks.size(); ++i) s.stream->Write(chunks[i]);
    s.stream->Write(RawWorker::Commit());
    s.stream->WritesDone();
    EXPECT_TRUE(s.stream->Read(&response));
    EXPECT_TRUE(s.stream->Finish().ok());
    EXPECT_EQ(worker_->Lookup(s.keys), 1u);
  }
}

TEST_F(FaultTest, TooManyBulkStreamsAreRefused) {
  config_.rpc.max_bulk_streams = 1;
  StartBoth();
  auto context = worker_->Context();
  auto stream = worker_->stub().Put(context.get());
  stream->Write(worker_->Announce({keys_[0]}));
  v1::PutResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(worker_->Get(keys_).status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  context->TryCancel();
  stream->Finish();
  EXPECT_TRUE(Eventually([&] { return worker_->Get(keys_).status.ok(); }));
}

TEST_F(FaultTest, ShutdownWithAStuckClientEndsByItsDeadline) {
  StartBoth();
  auto context = worker_->Context(120);
  auto stream = worker_->stub().Put(context.get());
  stream->Write(worker_->Announce({keys_[0]}));
  v1::PutResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(daemon_->Shutdown(absl::Milliseconds(200)), 1u);
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::UNAVAILABLE);
}

TEST_F(FaultTest, ShutdownLetsARunningPutFinish) {
  StartBoth();
  v1::SessionRequest hello;
  auto session_context = worker_->Context(60);
  auto session = worker_->stub().Session(session_context.get(), hello);
  v1::SessionEvent event;
  ASSERT_TRUE(session->Read(&event));
  auto context = worker_->Context(60);
  auto stream = worker_->stub().Put(context.get());
  stream->Write(worker_->Announce({keys_[0]}));
  v1::PutResponse response;
  ASSERT_TRUE(stream->Read(&response));
  size_t cut_off = 99;
  std::thread shutdown([&] { cut_off = daemon_->Shutdown(absl::Seconds(60)); });
  ASSERT_TRUE(session->Read(&event));
  EXPECT_TRUE(event.draining());
  for (const auto& chunk : RawWorker::ChunksOf(Blocks(1))) stream->Write(chunk);
  stream->Write(RawWorker::Commit());
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_TRUE(response.results().results(0).stored()) << "an acknowledged block was lost";
  EXPECT_TRUE(stream->Finish().ok());
  shutdown.join();
  EXPECT_EQ(cut_off, 0u);
  EXPECT_FALSE(session->Read(&event));
  EXPECT_EQ(session->Finish().error_code(), StatusCode::UNAVAILABLE);
}

TEST_F(FaultTest, SecondDaemonOnTheSameSocketIsRefused) {
  StartBoth();
  const auto second = Daemon::Start(config_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use by a running process"));
  EXPECT_EQ(worker_->Lookup(keys_), 0u) << "the first one must go on";
}

TEST_F(FaultTest, StaleSocketOfAKilledDaemonIsReplaced) {
  StartBoth();
  worker_.reset();
  const std::string path = config_.rpc.unix_socket;
  daemon_.reset();
  // What kill -9 leaves: a socket nobody listens at.
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  unlink(path.c_str());
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  close(fd);
  StartBoth();
  EXPECT_EQ(worker_->Lookup(keys_), 0u);
}

TEST_F(FaultTest, FileInPlaceOfTheSocketIsLeftAlone) {
  fclose(fopen(config_.rpc.unix_socket.c_str(), "w"));
  const auto daemon = Daemon::Start(config_);
  EXPECT_THAT(std::string(daemon.status().message()), HasSubstr("is no socket"));
  EXPECT_TRUE(std::filesystem::exists(config_.rpc.unix_socket));
}

}  // namespace
}  // namespace kvstow::testing
