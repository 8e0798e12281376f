// The worker library against a scripted daemon: it works when the daemon does, and returns by its
// deadline with "no match" whatever else the daemon does.
#include "kvstow/client.h"

#include <gmock/gmock.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "absl/time/clock.h"
#include "client/convert.h"
#include "client/testing/fake_daemon.h"
#include "gtest/gtest.h"

namespace kvstow {
namespace {

using client::testing::FakeDaemon;
using client::testing::SmallSpec;

constexpr absl::Duration kShort = absl::Milliseconds(100);
// What a loaded machine may add to a deadline.
constexpr absl::Duration kSlack = absl::Seconds(5);

class Stopwatch {
 public:
  absl::Duration elapsed() const { return absl::Now() - start_; }

 private:
  const absl::Time start_ = absl::Now();
};

std::vector<std::byte> PlaneBytes(const PlaneSpec& plane, size_t block) {
  std::vector<std::byte> bytes(plane.raw_bytes);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>(i * 7 + plane.layer * 31 + block * 57 +
                                      static_cast<int>(plane.kind) * 101);
  }
  return bytes;
}

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() { Connect(); }

  void Connect() {
    ClientOptions options;
    options.target = daemon_.target();
    options.lookup_deadline = absl::Seconds(20);
    options.get_deadline = absl::Seconds(20);
    options.put_deadline = absl::Seconds(20);
    options.control_deadline = absl::Seconds(20);
    options.connect_wait = absl::Seconds(20);
    options.breaker_failures = breaker_failures_;
    options.breaker_cooldown = absl::Hours(1);
    client_ = Client::Create(options);
    space_ = client_->OpenSpace(client::FromProto(SmallSpec()).value()).value();
    keys_ = space_->Keys(std::vector<uint32_t>(128 * 3, 5));
  }

  PutBlocksRequest PutRequest() {
    PutBlocksRequest request;
    request.keys = keys_;
    request.source = [this](const PlaneSpec& plane, size_t block) -> std::span<const std::byte> {
      ++source_calls_;
      plane_ = PlaneBytes(plane, block);
      return plane_;
    };
    return request;
  }

  GetBlocksRequest GetRequest() {
    GetBlocksRequest request;
    request.keys = keys_;
    request.destination = [this](const PlaneSpec& plane, size_t block) {
      auto& bytes = got_[{plane.layer, plane.kind, block}];
      bytes.assign(plane.raw_bytes, std::byte{0});
      return std::span<std::byte>(bytes);
    };
    return request;
  }

  void PutAll() { ASSERT_EQ(space_->PutBlocks(PutRequest()).stored, 3u); }

  void ExpectGot(size_t blocks) {
    for (const PlaneSpec& plane : space_->layout().planes()) {
      for (size_t b = 0; b < blocks; ++b) {
        EXPECT_EQ((got_.at({plane.layer, plane.kind, b})), PlaneBytes(plane, b));
      }
    }
  }

  // Until the client noticed; the test's own timeout bounds the wait.
  void AwaitHealth(const std::function<bool(const Client::Health&)>& condition) {
    while (!condition(client_->health())) std::this_thread::yield();
  }
  void Restart() {
    const uint64_t sessions = client_->health().sessions;
    daemon_.Stop();
    daemon_.Start();
    AwaitHealth([&](const auto& h) { return h.connected && h.sessions > sessions; });
  }

  FakeDaemon daemon_;
  int breaker_failures_ = 3;
  std::unique_ptr<Client> client_;
  std::shared_ptr<Space> space_;
  std::vector<BlockKey> keys_;
  std::vector<std::byte> plane_;
  int source_calls_ = 0;
  std::map<std::tuple<uint32_t, PlaneKind, size_t>, std::vector<std::byte>> got_;
};

// ---- A daemon that works ----

TEST_F(ClientTest, PutLookupGet) {
  EXPECT_EQ(space_->Lookup(keys_).blocks, 0u);
  const PutBlocksResult put = space_->PutBlocks(PutRequest());
  ASSERT_TRUE(put.status.ok()) << put.status;
  EXPECT_EQ(put.stored, 3u);
  EXPECT_EQ(put.sent_bytes, 3 * space_->layout().raw_bytes());
  EXPECT_EQ(put.record_bytes, 3000u);
  const Match match = space_->Lookup(keys_);
  EXPECT_EQ(match.blocks, 3u);
  EXPECT_EQ(match.tokens, 384u);
  EXPECT_NE(match.lease, 0u);
  GetBlocksRequest request = GetRequest();
  std::vector<uint32_t> layers;
  request.on_layer = [&](uint32_t layer, size_t usable) {
    EXPECT_EQ(usable, 3u);
    layers.push_back(layer);
  };
  const GetBlocksResult get = space_->GetBlocks(request);
  ASSERT_TRUE(get.status.ok()) << get.status;
  EXPECT_EQ(get.usable, 3u);
  EXPECT_EQ(layers, (std::vector<uint32_t>{0, 1}));
  ExpectGot(3);
}

TEST_F(ClientTest, SecondPutFindsTheBlocksThereAndSendsNothing) {
  PutAll();
  source_calls_ = 0;
  const PutBlocksResult again = space_->PutBlocks(PutRequest());
  EXPECT_TRUE(again.status.ok());
  EXPECT_EQ(again.existed, 3u);
  EXPECT_EQ(source_calls_, 0);
}

TEST_F(ClientTest, AnnounceChainsBlocks) {
  PutBlocksRequest request = PutRequest();
  request.first_position = 128;
  request.parent.fill(9);
  space_->PutBlocks(request);
  const auto announce = daemon_.put_messages().at(0).announce();
  ASSERT_EQ(announce.blocks_size(), 3);
  EXPECT_EQ(announce.blocks(0).parent(), std::string(32, 9));
  EXPECT_EQ(announce.blocks(1).parent(), announce.blocks(0).key());
  EXPECT_EQ(announce.blocks(2).first_position(), 384u);
  request.first_position = 0;
  request.keys = space_->Keys(std::vector<uint32_t>(128, 6));
  space_->PutBlocks(request);
  EXPECT_EQ(daemon_.put_messages().at(0).announce().blocks(0).parent(), "");
}

TEST_F(ClientTest, TokenIdsTravelOnlyWhenGiven) {
  PutBlocksRequest request = PutRequest();
  space_->PutBlocks(request);
  EXPECT_EQ(daemon_.put_messages().at(0).announce().blocks(0).token_ids_size(), 0);
  for (uint32_t i = 0; i < 3 * 128; ++i) request.token_ids.push_back(i);
  ASSERT_TRUE(space_->PutBlocks(request).status.ok());
  const auto announce = daemon_.put_messages().at(0).announce();
  for (int b = 0; b < 3; ++b) {
    ASSERT_EQ(announce.blocks(b).token_ids_size(), 128);
    EXPECT_EQ(announce.blocks(b).token_ids(0), 128u * b);
    EXPECT_EQ(announce.blocks(b).token_ids(127), 128u * b + 127);
  }
}

TEST_F(ClientTest, TokenIdsOfOtherBlocksAreRefused) {
  PutBlocksRequest request = PutRequest();
  for (const size_t n : {1u, 128u, 3 * 128u - 1, 4 * 128u}) {
    request.token_ids.assign(n, 7);
    const PutBlocksResult put = space_->PutBlocks(request);
    EXPECT_EQ(put.status.code(), absl::StatusCode::kInvalidArgument) << n;
    EXPECT_EQ(put.stored, 0u);
  }
  EXPECT_TRUE(daemon_.put_messages().empty());
}

TEST_F(ClientTest, AnAnnounceWithTokenIdsFitsIntoAMessage) {
  v1::PutRequest announce;
  daemon_.hooks().put = [&](grpc::ServerContext*, FakeDaemon::PutStream* stream) {
    stream->Read(&announce);
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "that is all the test wants");
  };
  PutBlocksRequest request = PutRequest();
  request.token_ids.assign(3000 * 128, UINT32_MAX);
  request.keys = space_->Keys(request.token_ids);
  space_->PutBlocks(request);
  ASSERT_EQ(announce.announce().blocks_size(), 3000);
  EXPECT_EQ(announce.announce().blocks(1000).token_ids_size(), 128);
  EXPECT_EQ(announce.announce().blocks(2000).token_ids_size(), 0) << "no room, so not told";
  EXPECT_LT(announce.ByteSizeLong(), size_t{2} << 20);
}

TEST_F(ClientTest, MissingBlocksEndThePrefix) {
  PutAll();
  ASSERT_EQ(space_->Drop(std::span(keys_).subspan(1, 1)).value(), 1u);
  EXPECT_EQ(space_->Lookup(keys_).blocks, 1u);
  const GetBlocksResult get = space_->GetBlocks(GetRequest());
  EXPECT_TRUE(get.status.ok()) << get.status;
  EXPECT_EQ(get.usable, 1u);
  ExpectGot(1);
  EXPECT_EQ(space_->DropAll().value(), 2u);
  EXPECT_EQ(space_->GetBlocks(GetRequest()).usable, 0u);
}

TEST_F(ClientTest, LimitsOfTheDaemonCutCalls) {
  daemon_.limits.set_max_blocks_per_put(2);
  daemon_.limits.set_max_blocks_per_get(1);
  daemon_.limits.set_max_keys_per_lookup(2);
  daemon_.limits.set_max_chunk_bytes(1000);
  const PutBlocksResult put = space_->PutBlocks(PutRequest());
  EXPECT_EQ(put.stored, 2u);
  EXPECT_EQ(put.blocks[2].refusal, "over_call_limit");
  EXPECT_EQ(space_->Lookup(keys_).blocks, 2u);
  EXPECT_EQ(space_->GetBlocks(GetRequest()).usable, 1u);
  for (const auto& message : daemon_.put_messages()) {
    EXPECT_LE(message.chunk().data().size(), 1000u);
  }
}

TEST_F(ClientTest, LeasesAreRenewedAndReleased) {
  EXPECT_TRUE(client_->Renew(77, absl::Seconds(5)));
  EXPECT_FALSE(client_->Renew(78, absl::Seconds(5)));
  client_->Release(77);
  EXPECT_EQ(client_->health().failures, 0u);
}

TEST_F(ClientTest, EmptyRequestsNeedNoDaemon) {
  daemon_.Stop();
  EXPECT_TRUE(space_->Lookup({}).status.ok());
  EXPECT_TRUE(space_->PutBlocks({}).status.ok());
  EXPECT_TRUE(space_->GetBlocks({}).status.ok());
}

TEST_F(ClientTest, SpecThatCannotWorkFailsAtOnce) {
  daemon_.Stop();
  SpaceSpec spec = client::FromProto(SmallSpec()).value();
  spec.block_tokens = 7;
  EXPECT_EQ(client_->OpenSpace(spec).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ClientTest, ManyThreads) {
  std::vector<std::thread> threads;
  std::atomic<int> stored{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([this, t, &stored] {
      PutBlocksRequest request;
      request.keys = space_->Keys(std::vector<uint32_t>(256, 100 + t));
      std::vector<std::byte> plane;
      request.source = [&plane](const PlaneSpec& spec, size_t block) {
        plane = PlaneBytes(spec, block);
        return std::span<const std::byte>(plane);
      };
      stored += static_cast<int>(space_->PutBlocks(request).stored);
      EXPECT_EQ(space_->Lookup(request.keys).blocks, 2u);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(stored, 16);
}

// ---- Callers that err ----

TEST_F(ClientTest, SourceMayGiveUp) {
  PutBlocksRequest request = PutRequest();
  request.source = [](const PlaneSpec&, size_t) { return std::span<const std::byte>(); };
  const PutBlocksResult put = space_->PutBlocks(request);
  EXPECT_EQ(put.status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(put.stored, 0u);
  EXPECT_EQ(client_->health().failures, 0u);
  EXPECT_EQ(space_->Lookup(keys_).blocks, 0u);
}

TEST_F(ClientTest, SourceOfTheWrongSize) {
  PutBlocksRequest request = PutRequest();
  const std::vector<std::byte> small(3);
  request.source = [&](const PlaneSpec&, size_t) { return std::span(small); };
  EXPECT_EQ(space_->PutBlocks(request).status.code(), absl::StatusCode::kInvalidArgument);
  request.source = nullptr;
  EXPECT_EQ(space_->PutBlocks(request).status.code(), absl::StatusCode::kInvalidArgument);
  GetBlocksRequest get = GetRequest();
  get.destination = nullptr;
  EXPECT_EQ(space_->GetBlocks(get).status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ClientTest, SourceSlowerThanTheDeadlineIsNotTheDaemonsFailure) {
  PutBlocksRequest request = PutRequest();
  request.deadline = kShort;
  request.source = [&](const PlaneSpec& plane, size_t block) -> std::span<const std::byte> {
    const Stopwatch watch;
    while (watch.elapsed() < 2 * kShort) std::this_thread::yield();
    plane_ = PlaneBytes(plane, block);
    return plane_;
  };
  EXPECT_EQ(space_->PutBlocks(request).status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(client_->health().failures, 0u);
}

// ---- A daemon that is not there, or goes ----

TEST_F(ClientTest, NoDaemonMissesAtOnce) {
  daemon_.Stop();
  Connect();
  const Stopwatch watch;
  const Match match = space_->Lookup(keys_);
  EXPECT_EQ(match.blocks, 0u);
  EXPECT_EQ(match.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(space_->GetBlocks(GetRequest()).usable, 0u);
  EXPECT_EQ(space_->PutBlocks(PutRequest()).stored, 0u);
  EXPECT_LT(watch.elapsed(), absl::Seconds(20));  // far less than the deadlines together
  EXPECT_FALSE(client_->health().connected);
  EXPECT_EQ(client_->health().failures, 3u);
}

TEST_F(ClientTest, DaemonThatComesLaterIsFound) {
  daemon_.Stop();
  Connect();
  EXPECT_FALSE(space_->Lookup(keys_).status.ok());
  daemon_.Start();
  AwaitHealth([](const auto& h) { return h.connected; });
  PutAll();
}

TEST_F(ClientTest, RestartedDaemonMissesThenWorks) {
  PutAll();
  const std::string before = client_->health().instance_id;
  Restart();
  const Match match = space_->Lookup(keys_);
  EXPECT_TRUE(match.status.ok()) << match.status;
  EXPECT_EQ(match.blocks, 0u);
  EXPECT_NE(client_->health().instance_id, before);
  PutAll();
  EXPECT_EQ(space_->GetBlocks(GetRequest()).usable, 3u);
}

TEST_F(ClientTest, ForgottenHandleIsOpenedAgainOnce) {
  PutAll();
  daemon_.ForgetSpaces();
  EXPECT_EQ(space_->Lookup(keys_).blocks, 3u);
  EXPECT_EQ(daemon_.opened_spaces(), 2);
  daemon_.ForgetSpaces();
  EXPECT_EQ(space_->GetBlocks(GetRequest()).usable, 3u);
  daemon_.ForgetSpaces();
  EXPECT_EQ(space_->PutBlocks(PutRequest()).existed, 3u);
  EXPECT_EQ(daemon_.opened_spaces(), 4);
}

TEST_F(ClientTest, ForgottenSessionMissesOnceAndIsOpenedAgain) {
  PutAll();
  daemon_.ForgetSessions();
  EXPECT_EQ(space_->Lookup(keys_).status.code(), absl::StatusCode::kFailedPrecondition);
  AwaitHealth([](const auto& h) { return h.sessions == 2; });
  EXPECT_EQ(space_->Lookup(keys_).blocks, 3u);
}

TEST_F(ClientTest, DrainingDaemonGetsNothingNew) {
  PutAll();
  daemon_.Drain();
  AwaitHealth([](const auto& h) { return h.draining; });
  EXPECT_EQ(space_->Lookup(keys_).status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(space_->PutBlocks(PutRequest()).stored, 0u);
  EXPECT_EQ(space_->GetBlocks(GetRequest()).usable, 3u);  // what was under way may finish
  EXPECT_FALSE(client_->health().breaker_open);
  Restart();
  EXPECT_FALSE(client_->health().draining);
  PutAll();
}

TEST_F(ClientTest, DaemonDiesInAPut) {
  PutBlocksRequest request = PutRequest();
  request.source = [&](const PlaneSpec& plane, size_t block) -> std::span<const std::byte> {
    if (++source_calls_ == 4) daemon_.Stop();
    plane_ = PlaneBytes(plane, block);
    return plane_;
  };
  const PutBlocksResult put = space_->PutBlocks(request);
  EXPECT_FALSE(put.status.ok());
  EXPECT_EQ(put.stored, 0u);
}

TEST_F(ClientTest, DaemonDiesInAGet) {
  PutAll();
  GetBlocksRequest request = GetRequest();
  std::thread killer;
  daemon_.hooks().get = [&](const auto& asked, auto*, FakeDaemon::GetWriter* writer) {
    v1::GetResponse response;
    for (size_t i = 0; i < asked.keys().size(); i += 32) {
      response.mutable_answers()->add_answers()->set_found(true);
    }
    writer->Write(response);
    killer = std::thread([&] { daemon_.Stop(); });
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "going");
  };
  const GetBlocksResult get = space_->GetBlocks(request);
  killer.join();
  EXPECT_FALSE(get.status.ok());
  EXPECT_EQ(get.usable, 0u);
}

// ---- A daemon that hangs ----

TEST_F(ClientTest, StalledLookupReturnsByItsDeadline) {
  PutAll();
  daemon_.hooks().lookup = [&](auto* context) { return daemon_.Stall(context); };
  const Stopwatch watch;
  const Match match = space_->Lookup(keys_, {.deadline = kShort});
  EXPECT_EQ(match.blocks, 0u);
  EXPECT_EQ(match.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(watch.elapsed(), kShort + kSlack);
}

TEST_F(ClientTest, StalledGetReturnsByItsDeadlineAndWritesNothingAfter) {
  PutAll();
  daemon_.hooks().get = [&](const auto&, auto* context, FakeDaemon::GetWriter* writer) {
    v1::GetResponse response;
    for (int i = 0; i < 3; ++i) response.mutable_answers()->add_answers()->set_found(true);
    writer->Write(response);
    return daemon_.Stall(context);
  };
  GetBlocksRequest request = GetRequest();
  request.deadline = kShort;
  const Stopwatch watch;
  const GetBlocksResult get = space_->GetBlocks(request);
  EXPECT_EQ(get.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(get.usable, 0u);
  EXPECT_LT(watch.elapsed(), kShort + kSlack);
}

TEST_F(ClientTest, StalledPutReturnsByItsDeadline) {
  PutBlocksRequest request = PutRequest();
  request.deadline = kShort;
  // Once before the answers, once after them with more data than flow control lets through.
  for (bool answers : {false, true}) {
    daemon_.hooks().put = [&](auto* context, FakeDaemon::PutStream* stream) {
      v1::PutResponse response;
      for (size_t i = 0; i < request.keys.size(); ++i) {
        response.mutable_answers()->add_answers()->set_kind(v1::PutResponse::Answer::SEND);
      }
      if (answers) stream->Write(response);
      return daemon_.Stall(context);
    };
    const Stopwatch watch;
    const PutBlocksResult put = space_->PutBlocks(request);
    EXPECT_EQ(put.status.code(), absl::StatusCode::kDeadlineExceeded) << put.status;
    EXPECT_EQ(put.stored, 0u);
    EXPECT_LT(watch.elapsed(), kShort + kSlack);
    request.keys = space_->Keys(std::vector<uint32_t>(128 * 400, 8));
  }
}

TEST_F(ClientTest, StalledSessionOrOpenSpaceReturnsByTheDeadline) {
  daemon_.hooks().open_space = [&](auto* context) { return daemon_.Stall(context); };
  EXPECT_EQ(space_->Lookup(keys_, {.deadline = kShort}).blocks, 0u);
  daemon_.hooks().session = [&](auto* context) { return daemon_.Stall(context); };
  Connect();
  const Stopwatch watch;
  EXPECT_EQ(space_->Lookup(keys_, {.deadline = kShort}).status.code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(watch.elapsed(), kShort + kSlack);
}

TEST_F(ClientTest, BreakerShedsCallsUntilAnotherDaemonComes) {
  PutAll();
  daemon_.hooks().lookup = [&](auto* context) { return daemon_.Stall(context); };
  for (int i = 0; i < 3; ++i) space_->Lookup(keys_, {.deadline = kShort});
  EXPECT_TRUE(client_->health().breaker_open);
  const int lookups = daemon_.lookups();
  EXPECT_EQ(space_->Lookup(keys_).status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(space_->GetBlocks(GetRequest()).usable, 0u);
  EXPECT_EQ(daemon_.lookups(), lookups);
  EXPECT_EQ(client_->health().shed, 2u);
  daemon_.Stop();
  daemon_.hooks() = {};
  daemon_.Start();
  AwaitHealth([](const auto& h) { return h.connected && h.sessions == 2; });
  EXPECT_FALSE(client_->health().breaker_open);
  EXPECT_TRUE(space_->Lookup(keys_).status.ok());
}

// ---- A daemon that is wrong ----

TEST_F(ClientTest, RefusalsDoNotOpenTheBreaker) {
  daemon_.hooks().lookup = [](auto*) {
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "back off");
  };
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(space_->Lookup(keys_).status.code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_FALSE(client_->health().breaker_open);
  EXPECT_EQ(client_->health().failures, 0u);
}

TEST_F(ClientTest, InternalErrorsOpenTheBreaker) {
  daemon_.hooks().lookup = [](auto*) { return grpc::Status(grpc::StatusCode::INTERNAL, "bug"); };
  for (int i = 0; i < 3; ++i) EXPECT_EQ(space_->Lookup(keys_).blocks, 0u);
  EXPECT_TRUE(client_->health().breaker_open);
}

TEST_F(ClientTest, DaemonThatSendsNonsenseInAPut) {
  v1::PutResponse response;
  daemon_.hooks().put = [&](auto*, FakeDaemon::PutStream* stream) {
    v1::PutRequest request;
    stream->Read(&request);
    stream->Write(response);
    return grpc::Status::OK;
  };
  const auto expect_internal = [&] {
    Connect();  // a fresh breaker
    const PutBlocksResult put = space_->PutBlocks(PutRequest());
    EXPECT_EQ(put.status.code(), absl::StatusCode::kInternal) << put.status;
    EXPECT_EQ(put.stored + put.existed, 0u);
  };
  expect_internal();  // nothing set
  for (int i = 0; i < 2; ++i) response.mutable_answers()->add_answers();
  expect_internal();  // too few
  response.mutable_answers()->add_answers();
  expect_internal();  // of no kind
  response.mutable_results();
  expect_internal();  // results first
}

TEST_F(ClientTest, DeclinedBlocksSayWhy) {
  daemon_.hooks().put = [&](auto*, FakeDaemon::PutStream* stream) {
    v1::PutRequest request;
    stream->Read(&request);
    v1::PutResponse response;
    for (v1::Refusal refusal : {v1::REFUSAL_NO_PARENT, v1::REFUSAL_FULL, v1::REFUSAL_DRAINING}) {
      auto* answer = response.mutable_answers()->add_answers();
      answer->set_kind(v1::PutResponse::Answer::DECLINED);
      answer->set_refusal(refusal);
    }
    stream->Write(response);
    return grpc::Status::OK;  // without results: there is nothing to say
  };
  const PutBlocksResult put = space_->PutBlocks(PutRequest());
  EXPECT_TRUE(put.status.ok()) << put.status;
  EXPECT_EQ(put.blocks[0].refusal, "no_parent");
  EXPECT_EQ(put.blocks[1].refusal, "full");
  EXPECT_EQ(put.blocks[2].refusal, "draining");
}

TEST_F(ClientTest, DamageIsAShorterPrefixAndNotAFailure) {
  PutAll();
  daemon_.hooks().get = [&](const auto&, auto*, FakeDaemon::GetWriter* writer) {
    v1::GetResponse response;
    for (int i = 0; i < 3; ++i) response.mutable_answers()->add_answers()->set_found(true);
    writer->Write(response);
    response.mutable_damage()->set_block(0);
    writer->Write(response);
    return grpc::Status::OK;
  };
  const GetBlocksResult get = space_->GetBlocks(GetRequest());
  EXPECT_EQ(get.usable, 0u);
  EXPECT_EQ(get.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(client_->health().failures, 0u);
}

TEST_F(ClientTest, AsksForLayersByThemselvesWhenItHearsOfThem) {
  std::vector<bool> together;
  daemon_.hooks().get = [&](const v1::GetRequest::Open& open, auto*, auto*) {
    together.push_back(open.layers_together());
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "seen enough");
  };
  GetBlocksRequest request = GetRequest();
  request.on_layer = nullptr;
  (void)space_->GetBlocks(request);
  request.on_layer = [](uint32_t, size_t) {};
  (void)space_->GetBlocks(request);
  EXPECT_EQ(together, (std::vector<bool>{true, false}));
}

TEST(OtherServerTest, AServerThatIsNotKvstowMisses) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  grpc::EnableDefaultHealthCheckService(true);
  auto server = builder.BuildAndStart();
  ClientOptions options;
  options.target = "127.0.0.1:" + std::to_string(port);
  auto client = Client::Create(options);
  auto space = client->OpenSpace(client::FromProto(SmallSpec()).value()).value();
  const Match match = space->Lookup(std::vector<BlockKey>(1), {.deadline = absl::Seconds(20)});
  EXPECT_EQ(match.blocks, 0u);
  EXPECT_EQ(match.status.code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace kvstow
