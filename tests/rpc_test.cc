// The daemon's API as a well-behaved worker uses it, and as a broken one does: every fault gets its
// own clear answer, and nothing is lost.
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "codec/half.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/raw_worker.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;
using Answer = v1::PutResponse::Answer;
using grpc::StatusCode;

class RpcTest : public DaemonTest {
 protected:
  void SetUp() override {
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
    for (size_t i = 0; i < n; ++i) blocks.push_back(MakeBlock(layout_, seed * 100 + i));
    return blocks;
  }

  // Sends messages of a Put one by one and gives the status it ends with.
  grpc::Status SendPut(const std::vector<v1::PutRequest>& messages) {
    auto context = worker_->Context();
    auto stream = worker_->stub().Put(context.get());
    for (const auto& message : messages) {
      if (!stream->Write(message)) break;
    }
    stream->WritesDone();
    v1::PutResponse response;
    while (stream->Read(&response)) {
    }
    return stream->Finish();
  }

  void ExpectPutFails(const std::vector<v1::PutRequest>& messages, const std::string& what,
                      StatusCode code = StatusCode::INVALID_ARGUMENT) {
    const grpc::Status status = SendPut(messages);
    EXPECT_EQ(status.error_code(), code) << what << ": " << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(what));
    EXPECT_EQ(worker_->Lookup(keys_), 0u) << "a failed Put left a block behind: " << what;
  }

  const PlaneLayout layout_ = SmallLayout();
  const std::vector<BlockKey> keys_ = SmallKeys(3);
  std::unique_ptr<RawWorker> worker_;
};

// ---- The way it is meant ----

TEST_F(RpcTest, PutLookupGetGivesTheBlocksBackWithinTheReportedError) {
  const auto blocks = Blocks(3);
  const auto put = worker_->Put(keys_, blocks);
  ASSERT_TRUE(put.status.ok()) << put.status.error_message();
  ASSERT_EQ(put.results.results_size(), 3);
  EXPECT_EQ(worker_->Lookup(keys_), 3u);
  EXPECT_EQ(worker_->Lookup(SmallKeys(3, 7)), 0u);

  const auto get = worker_->Get(keys_);
  ASSERT_TRUE(get.status.ok()) << get.status.error_message();
  ASSERT_EQ(get.planes.size(), 3 * layout_.planes().size());
  for (uint32_t b = 0; b < 3; ++b) {
    double worst[2] = {0, 0};
    for (size_t p = 0; p < layout_.planes().size(); ++p) {
      const PlaneSpec& plane = layout_.planes()[p];
      const std::string& got = get.planes.at({plane.layer, static_cast<int>(plane.kind), b});
      const double error = Nmse(blocks[b][p], std::as_bytes(std::span(got)));
      EXPECT_GT(error, 0);
      worst[p % 2] = std::max(worst[p % 2], error);
    }
    EXPECT_LE(worst[0], put.results.results(b).k().worst_nmse() * 1.001);
    EXPECT_LE(worst[1], put.results.results(b).v().worst_nmse() * 1.001);
  }
}

TEST_F(RpcTest, GetOfSomeLayersGivesThose) {
  worker_->Put(keys_, Blocks(3));
  const auto get = worker_->Get(keys_, v1::FORM_DECODED, {1});
  ASSERT_TRUE(get.status.ok());
  EXPECT_EQ(get.planes.size(), 6u);
  for (const auto& [where, plane] : get.planes) EXPECT_EQ(std::get<0>(where), 1u);
}

TEST_F(RpcTest, EncodedFormDecodesToTheSame) {
  worker_->Put({keys_[0]}, Blocks(1));
  const auto decoded = worker_->Get({keys_[0]});
  const auto encoded = worker_->Get({keys_[0]}, v1::FORM_ENCODED);
  ASSERT_TRUE(encoded.status.ok());
  for (const PlaneSpec& plane : layout_.planes()) {
    const auto where = std::make_tuple(plane.layer, static_cast<int>(plane.kind), 0u);
    std::vector<std::byte> out(plane.raw_bytes);
    ASSERT_TRUE(DecodePlane(*CpuCodec(), plane, nullptr,
                            std::as_bytes(std::span(encoded.planes.at(where))), out)
                    .ok());
    EXPECT_EQ(0, std::memcmp(out.data(), decoded.planes.at(where).data(), out.size()));
    EXPECT_LT(encoded.planes.at(where).size(), plane.raw_bytes / 4);
  }
}

TEST_F(RpcTest, MissingBlocksAreAnswersNotErrors) {
  worker_->Put({keys_[0]}, Blocks(1));
  const auto get = worker_->Get({keys_[0], keys_[1]});
  ASSERT_TRUE(get.status.ok());
  EXPECT_TRUE(get.answers[0].found());
  EXPECT_FALSE(get.answers[1].found());
  EXPECT_EQ(get.planes.size(), layout_.planes().size());
}

TEST_F(RpcTest, OpenSpaceIsIdempotent) {
  v1::OpenSpaceResponse a, b, other;
  ASSERT_TRUE(worker_->OpenSpace(SmallSpec(), &a).ok());
  ASSERT_TRUE(worker_->OpenSpace(SmallSpec(), &b).ok());
  v1::SpaceSpec changed = SmallSpec();
  changed.mutable_codec()->set_k_bits(3);
  ASSERT_TRUE(worker_->OpenSpace(changed, &other).ok());
  EXPECT_EQ(a.space(), b.space());
  EXPECT_NE(a.space(), other.space());
  EXPECT_NE(a.fingerprint(), other.fingerprint());
  EXPECT_EQ(a.fingerprint().size(), 32u);
  EXPECT_GT(a.limits().max_chunk_bytes(), 0u);
}

TEST_F(RpcTest, LeasesRenewAndRelease) {
  worker_->Put(keys_, Blocks(3));
  uint64_t lease = 0;
  EXPECT_EQ(worker_->Lookup(keys_, 60'000, &lease), 3u);
  ASSERT_NE(lease, 0u);
  EXPECT_EQ(worker_->Stats().leases(), 1u);
  v1::RenewRequest renew;
  renew.set_session_id(worker_->session());
  renew.add_leases(lease);
  renew.add_leases(lease + 1);
  renew.set_ttl_ms(1000);
  v1::RenewResponse renewed;
  ASSERT_TRUE(worker_->stub().Renew(worker_->Context().get(), renew, &renewed).ok());
  EXPECT_TRUE(renewed.alive(0));
  EXPECT_FALSE(renewed.alive(1));
  v1::ReleaseRequest release;
  release.set_session_id(worker_->session());
  release.add_leases(lease);
  v1::ReleaseResponse released;
  ASSERT_TRUE(worker_->stub().Release(worker_->Context().get(), release, &released).ok());
  EXPECT_EQ(released.released(), 1u);
  EXPECT_EQ(worker_->Stats().leases(), 0u);
}

TEST_F(RpcTest, EndOfSessionReleasesItsLeases) {
  worker_->Put(keys_, Blocks(3));
  RawWorker other(target());
  other.OpenSmall();
  uint64_t lease = 0;
  EXPECT_EQ(other.Lookup(keys_, 60'000, &lease), 3u);
  EXPECT_EQ(worker_->Stats().leases(), 1u);
  other.EndSession();
  // The server ends the session when it sees the stream go; bounded polling, no sleeping.
  for (int i = 0; i < 100000 && worker_->Stats().sessions() > 1; ++i) {
  }
  EXPECT_EQ(worker_->Stats().sessions(), 1u);
  EXPECT_EQ(worker_->Stats().leases(), 0u);
}

TEST_F(RpcTest, WatchTellsStoredAndRemoved) {
  v1::WatchRequest request;
  request.set_session_id(worker_->session());
  request.set_space(worker_->space());
  auto context = worker_->Context();
  auto stream = worker_->stub().Watch(context.get(), request);
  v1::WatchEvent event;
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_EQ(event.kind(), v1::WatchEvent::WATCHING);
  worker_->Put({keys_[0], keys_[1]}, Blocks(2));
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(stream->Read(&event));
    EXPECT_EQ(event.kind(), v1::WatchEvent::STORED);
    EXPECT_EQ(event.key(), KeyBytes(keys_[i]));
    EXPECT_EQ(event.first_position(), 128u * i);
    EXPECT_GT(event.k_nmse(), 0);
  }
  EXPECT_EQ(event.parent(), KeyBytes(keys_[0]));
  EXPECT_EQ(worker_->Drop({keys_[0]}), 2u) << "descendants go too";
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(stream->Read(&event));
    EXPECT_EQ(event.kind(), v1::WatchEvent::REMOVED);
    EXPECT_EQ(event.reason(), "dropped");
  }
  context->TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::CANCELLED);
}

TEST_F(RpcTest, InspectTellsWhatARecordIs) {
  worker_->Put(keys_, Blocks(3), 0, {}, 60'000);
  const auto found = worker_->Inspect(keys_[1]);
  EXPECT_TRUE(found.found());
  EXPECT_TRUE(found.visible());
  EXPECT_EQ(found.parent(), KeyBytes(keys_[0]));
  EXPECT_EQ(found.children(), 1u);
  EXPECT_EQ(found.leases(), 1u) << "the Put asked for one";
  ASSERT_EQ(found.records_size(), 1);
  EXPECT_TRUE(found.records(0).intact());
  EXPECT_EQ(found.records(0).entries(), layout_.entries());
  EXPECT_EQ(found.records(0).raw_bytes(), layout_.raw_bytes());
  EXPECT_EQ(found.records(0).codec().k_bits(), 2u);
  EXPECT_FALSE(worker_->Inspect(SmallKeys(1, 9)[0]).found());
}

TEST_F(RpcTest, StatsAddUp) {
  worker_->Put(keys_, Blocks(3));
  worker_->Lookup(keys_, 1000);
  worker_->Lookup(SmallKeys(2, 5), 1000);
  const auto stats = worker_->Stats();
  EXPECT_EQ(stats.visible_blocks(), 3u);
  EXPECT_EQ(stats.hit_tokens(), 3u * 128);
  EXPECT_EQ(stats.miss_tokens(), 2u * 128);
  ASSERT_EQ(stats.tiers_size(), 1);
  EXPECT_EQ(stats.tiers(0).logical_bytes(), 3 * layout_.raw_bytes());
  EXPECT_GE(stats.tiers(0).physical_bytes(), stats.tiers(0).record_bytes());
  EXPECT_GT(stats.k().bits_per_entry(), 2);
  EXPECT_EQ(stats.codec_device(), "cpu");
}

TEST_F(RpcTest, ShardedBlocksAppearWhenEveryShardCommitted) {
  v1::Shard first, second;
  for (auto* shard : {&first, &second}) {
    shard->add_expected(0);
    shard->add_expected(1);
  }
  second.set_index(1);
  RawWorker a(target()), b(target());
  a.OpenSmall(first);
  b.OpenSmall(second);
  ASSERT_TRUE(a.Put(keys_, Blocks(3, 1)).status.ok());
  EXPECT_EQ(a.Lookup(keys_), 0u);
  EXPECT_EQ(b.Lookup(keys_), 0u);
  ASSERT_TRUE(b.Put(keys_, Blocks(3, 2)).status.ok());
  EXPECT_EQ(a.Lookup(keys_), 3u);
  EXPECT_EQ(b.Get(keys_).planes.size(), 12u);
}

TEST_F(RpcTest, TwoClientsPuttingTheSameBlock) {
  RawWorker other(target());
  other.OpenSmall();
  auto context = worker_->Context();
  auto stream = worker_->stub().Put(context.get());
  stream->Write(worker_->Announce({keys_[0]}));
  v1::PutResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.answers().answers(0).kind(), Answer::SEND);
  auto rival = other.Put({keys_[0]}, Blocks(1));
  EXPECT_EQ(rival.answers[0].kind(), Answer::DECLINED);
  EXPECT_EQ(rival.answers[0].refusal(), v1::REFUSAL_PENDING);
  for (const auto& chunk : RawWorker::ChunksOf(Blocks(1))) stream->Write(chunk);
  stream->Write(RawWorker::Commit());
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_TRUE(response.results().results(0).stored());
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(other.Put({keys_[0]}, Blocks(1)).answers[0].kind(), Answer::EXISTS);
}

// More than the daemon reads ahead; the end of the stream keeps its place, too.
TEST_F(RpcTest, PutMayBeSentWithoutWaiting) {
  std::vector<v1::PutRequest> messages = {worker_->Announce(keys_)};
  for (const auto& chunk : RawWorker::ChunksOf(Blocks(3))) messages.push_back(chunk);
  messages.push_back(RawWorker::Commit());
  for (int i = 0; i < 20; ++i) {
    const grpc::Status status = SendPut(messages);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(worker_->Lookup(keys_), 3u);
    worker_->Drop(keys_);
  }
}

// ---- What the KV may hold ----

TEST_F(RpcTest, NonFiniteTilesComeBackBitForBit) {
  auto blocks = Blocks(1);
  const uint16_t odd[] = {0x7c00, 0xfc00, 0x7e01, 0xfe55};  // infinities, NaNs with payload
  std::memcpy(blocks[0][0].data() + 1000, odd, sizeof(odd));
  const auto put = worker_->Put({keys_[0]}, blocks);
  EXPECT_EQ(put.results.k().tiles_raw(), 1u);
  const auto get = worker_->Get({keys_[0]});
  const std::string& plane = get.planes.at({0, v1::PLANE_K, 0});
  const size_t tile = layout_.planes()[0].tile_bytes();
  EXPECT_EQ(0, std::memcmp(plane.data(), blocks[0][0].data(), tile));
}

TEST_F(RpcTest, ZeroConstantDuplicatedAndHugeValues) {
  auto blocks = Blocks(1);
  auto& planes = blocks[0];
  std::fill(planes[0].begin(), planes[0].end(), std::byte{0});
  const uint16_t one = FloatToHalf(1.5f), large = FloatToHalf(65504.0f);
  for (size_t i = 0; i < planes[1].size(); i += 2) std::memcpy(&planes[1][i], &one, 2);
  const size_t row = 64 * 2;
  for (size_t t = 1; t < 128; ++t) {  // every token the same
    std::memcpy(&planes[2][t * row], &planes[2][0], row);
  }
  for (size_t i = 0; i < planes[3].size(); i += 34) std::memcpy(&planes[3][i], &large, 2);
  ASSERT_TRUE(worker_->Put({keys_[0]}, blocks).status.ok());
  const auto get = worker_->Get({keys_[0]});
  ASSERT_EQ(get.planes.size(), 4u);
  const auto plane = [&](uint32_t layer, int kind) {
    return std::as_bytes(std::span(get.planes.at({layer, kind, 0})));
  };
  EXPECT_EQ(Nmse(planes[0], plane(0, 0)), 0);
  EXPECT_LT(Nmse(planes[1], plane(0, 1)), 1e-4);
  EXPECT_LT(Nmse(planes[2], plane(1, 0)), 0.05);
  EXPECT_LT(Nmse(planes[3], plane(1, 1)), 0.2);
  for (size_t i = 0; i < planes[3].size(); i += 2) {
    uint16_t half;
    std::memcpy(&half, plane(1, 1).data() + i, 2);
    ASSERT_NE(half & 0x7c00, 0x7c00) << "decoded values must stay finite";
  }
}

// ---- Bad input ----

TEST_F(RpcTest, PutMessagesOutOfPlace) {
  const auto chunks = RawWorker::ChunksOf(Blocks(1));
  const auto announce = worker_->Announce({keys_[0]});
  ExpectPutFails({chunks[0]}, "chunk before the announce");
  ExpectPutFails({RawWorker::Commit()}, "commit before the announce");
  ExpectPutFails({announce, announce}, "second announce");
  ExpectPutFails({announce, chunks[0], RawWorker::Commit()}, "before every plane arrived");
  ExpectPutFails({v1::PutRequest()}, "neither announce, chunk, staged nor commit");
  ExpectPutFails({announce, chunks[0]}, "ended before its commit", StatusCode::ABORTED);
  auto past = chunks;
  past.insert(past.begin(), announce);
  past.push_back(chunks[0]);
  ExpectPutFails(past, "past the end");
}

TEST_F(RpcTest, ChunksThatDoNotFit) {
  const auto announce = worker_->Announce({keys_[0], keys_[1]});
  const uint32_t size = static_cast<uint32_t>(layout_.planes()[0].raw_bytes);
  const std::string data(1000, 'x');
  const auto chunk = [&](uint32_t layer, v1::PlaneKind kind, uint32_t block, uint32_t offset,
                         uint32_t plane_bytes) {
    return RawWorker::ChunkOf(layer, kind, block, offset, plane_bytes, data);
  };
  ExpectPutFails({announce, chunk(1, v1::PLANE_K, 0, 0, size)}, "out of order");
  ExpectPutFails({announce, chunk(0, v1::PLANE_V, 0, 0, size)}, "out of order");
  ExpectPutFails({announce, chunk(0, v1::PLANE_K, 1, 0, size)}, "out of order");
  ExpectPutFails({announce, chunk(0, v1::PLANE_K, 9, 0, size)}, "out of order");
  ExpectPutFails({announce, chunk(0, v1::PLANE_K, 0, 5, size)}, "out of order");
  ExpectPutFails({announce, chunk(0, v1::PLANE_K, 0, 0, size * 2)}, "layout says");
  ExpectPutFails({announce, chunk(0, static_cast<v1::PlaneKind>(9), 0, 0, size)}, "segment.kind");
  const std::string whole(size + 2, 'x');
  ExpectPutFails({announce, RawWorker::ChunkOf(0, v1::PLANE_K, 0, 0, size, whole)},
                 "of a plane of");
  auto lying = chunk(0, v1::PLANE_K, 0, 0, size);
  lying.mutable_chunk()->mutable_segments(0)->set_length(999);
  ExpectPutFails({announce, lying}, "speak of");
  auto empty = chunk(0, v1::PLANE_K, 0, 0, size);
  empty.mutable_chunk()->clear_data();
  empty.mutable_chunk()->mutable_segments(0)->set_length(0);
  ExpectPutFails({announce, empty}, "a segment of 0 bytes");
}

TEST_F(RpcTest, OverlongMessageIsRefused) {
  const auto chunk = RawWorker::ChunkOf(0, v1::PLANE_K, 0, 0, 1, std::string(3 << 20, 'x'));
  ExpectPutFails({worker_->Announce({keys_[0]}), chunk}, "larger than max",
                 StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(RpcTest, AnnouncementsThatMakeNoSense) {
  auto short_key = worker_->Announce({keys_[0]});
  short_key.mutable_announce()->mutable_blocks(0)->set_key("short");
  ExpectPutFails({short_key}, "a key has 32");
  auto short_parent = worker_->Announce({keys_[0]}, 128, keys_[1]);
  short_parent.mutable_announce()->mutable_blocks(0)->set_parent("");
  ExpectPutFails({short_parent}, "block.parent");
  auto bad_session = worker_->Announce({keys_[0]});
  bad_session.mutable_announce()->set_session_id("x");
  ExpectPutFails({bad_session}, "session_id");
  auto other_session = worker_->Announce({keys_[0]});
  other_session.mutable_announce()->set_session_id(std::string(16, 'x'));
  ExpectPutFails({other_session}, "no such session", StatusCode::FAILED_PRECONDITION);
  auto other_space = worker_->Announce({keys_[0]});
  other_space.mutable_announce()->set_space(12345);
  ExpectPutFails({other_space}, "no such space", StatusCode::FAILED_PRECONDITION);
  ExpectPutFails({worker_->Announce({})}, "announces no block");
  ExpectPutFails({worker_->Announce(SmallKeys(1000))}, "limit is 256");
}

TEST_F(RpcTest, BlockWithoutItsParentIsDeclined) {
  const auto put = worker_->Put({keys_[1]}, Blocks(1), 128, keys_[0]);
  ASSERT_EQ(put.answers.size(), 1u);
  EXPECT_EQ(put.answers[0].kind(), Answer::DECLINED);
  EXPECT_EQ(put.answers[0].refusal(), v1::REFUSAL_NO_PARENT);
  EXPECT_EQ(worker_->Stats().refused_blocks().at("no_parent"), 1u);
}

TEST_F(RpcTest, LookupAndGetCheckTheirArguments) {
  v1::LookupRequest lookup;
  lookup.set_session_id(worker_->session());
  lookup.set_space(worker_->space());
  lookup.set_keys("not a multiple of 32");
  v1::LookupResponse found;
  auto status = worker_->stub().Lookup(worker_->Context().get(), lookup, &found);
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  lookup.set_keys(std::string(32 * 8193, 'k'));
  status = worker_->stub().Lookup(worker_->Context().get(), lookup, &found);
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("limit is 8192"));
  lookup.set_keys("");
  lookup.set_space(77);
  status = worker_->stub().Lookup(worker_->Context().get(), lookup, &found);
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);

  EXPECT_EQ(worker_->Get(keys_, v1::FORM_DECODED, {5}).status.error_code(),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(worker_->Get(keys_, v1::FORM_DECODED, {1, 0}).status.error_code(),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(worker_->Get(SmallKeys(2000)).status.error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST_F(RpcTest, SpacesThatCannotBe) {
  v1::OpenSpaceResponse response;
  v1::SpaceSpec spec = SmallSpec();
  spec.mutable_groups(0)->set_dtype(v1::DTYPE_UNSPECIFIED);
  EXPECT_THAT(worker_->OpenSpace(spec, &response).error_message(), HasSubstr("dtype"));
  spec = SmallSpec();
  spec.mutable_groups(0)->set_k_dim(100);
  EXPECT_THAT(worker_->OpenSpace(spec, &response).error_message(), HasSubstr("k_dim is 100"));
  spec = SmallSpec();
  spec.clear_codec();
  EXPECT_THAT(worker_->OpenSpace(spec, &response).error_message(), HasSubstr("codec"));
  spec = SmallSpec();
  spec.mutable_groups(0)->set_kv_heads(4000000000u);
  EXPECT_THAT(worker_->OpenSpace(spec, &response).error_message(), HasSubstr("kv_heads"));
  v1::Shard shard;
  shard.set_index(3);
  shard.add_expected(1);
  EXPECT_THAT(worker_->OpenSpace(SmallSpec(), &response, shard).error_message(),
              HasSubstr("shard.index"));
}

TEST_F(RpcTest, DropNeedsToKnowWhat) {
  v1::DropRequest request;
  request.set_session_id(worker_->session());
  request.set_space(worker_->space());
  v1::DropResponse response;
  EXPECT_EQ(worker_->stub().Drop(worker_->Context().get(), request, &response).error_code(),
            StatusCode::INVALID_ARGUMENT);
}

TEST_F(RpcTest, KeysOfAnotherSpaceMiss) {
  worker_->Put(keys_, Blocks(3));
  v1::SpaceSpec spec = SmallSpec();
  spec.mutable_model()->set_revision("other weights");
  v1::OpenSpaceResponse other;
  ASSERT_TRUE(worker_->OpenSpace(spec, &other).ok());
  v1::LookupRequest lookup;
  lookup.set_session_id(worker_->session());
  lookup.set_space(other.space());
  lookup.set_keys(KeyBytes(keys_));
  v1::LookupResponse found;
  ASSERT_TRUE(worker_->stub().Lookup(worker_->Context().get(), lookup, &found).ok());
  EXPECT_EQ(found.matched_blocks(), 0u);
}

}  // namespace
}  // namespace kvstow::testing
