// What calls leave behind in memory that goes back to the heap: nothing of their KV.
#include <cstring>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "codec/crc32c.h"
#include "codec/plane.h"
#include "codec/scratch.h"
#include "gtest/gtest.h"
#include "server/core/service.h"
#include "server/core/testing/fake_clock.h"
#include "server/core/testing/fake_random.h"
#include "server/core/testing/memory_tier.h"
#include "server/core/testing/recording_stats.h"
#include "server/core/testing/step_executor.h"
#include "server/core/tiled_plane_codec.h"
#include "server/rpc/wire.h"
#include "space/fingerprint.h"
#include "tests/testing/heap_watch.h"
#include "tests/testing/kv_data.h"

namespace kvstow::testing {
namespace {

// Those eight bytes that are hardly there by chance.
void AddWords(std::span<const std::byte> bytes, std::vector<uint64_t>* words) {
  for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, &bytes[at], 8);
    const bool varied = (word >> 32) != 0 && (word & 0xffffffff) != 0 && word != ~uint64_t{0};
    if (varied) words->push_back(word);
  }
}

SpaceSpec Spec(CodecId codec) {
  SpaceSpec spec;
  spec.model = {"overwriting", "", ""};
  LayerGroup group;
  group.layers = {0};
  group.kv_heads = 2;
  group.k_dim = group.v_dim = 64;
  spec.groups = {group};
  spec.codec.codec = codec;
  return spec;
}

struct Case {
  CodecId codec;
  PlaneForm form;

  std::string name() const {
    return absl::StrCat(codec == CodecId::kRaw ? "Raw" : "Coded",
                        form == PlaneForm::kDecoded ? "Decoded" : "Encoded");
  }
  // Without it test runners print the bytes, those of the padding among them.
  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.name(); }
};

class OverwritingTest : public ::testing::TestWithParam<Case> {
 protected:
  OverwritingTest() {
    session_ = *service_.BeginSession(kDefaultTenant, "test");
    space_ = service_.OpenSpace(kDefaultTenant, session_->id(), Spec(GetParam().codec), {})->handle;
    for (size_t p = 0; p < layout_.planes().size(); ++p) {
      AddWords(block_[p], &secret_);
      AddEncoded(layout_.planes()[p], block_[p]);
    }
  }
  ~OverwritingTest() override { SetOverwritesScratch(true); }

  // As an honest client encodes it; as the daemon does, too.
  void AddEncoded(const PlaneSpec& spec, std::span<const std::byte> values) {
    PlaneEncodeJobs jobs = MakeEncodeJobs(spec, layout_.spec().codec, nullptr, values);
    ASSERT_TRUE(CpuCodec()->Encode(std::span(jobs.jobs)).ok());
    encoded_.push_back(AssemblePlane(spec, jobs));
    const auto& bytes = encoded_.back().bytes;
    AddWords(bytes, &secret_);
    const auto length = static_cast<uint32_t>(
        GetParam().form == PlaneForm::kEncoded ? bytes.size() : spec.raw_bytes);
    PlaneSegment segment = {spec.layer, spec.kind, 0, 0, length, length};
    if (GetParam().form == PlaneForm::kEncoded) {
      segment.declared = PlaneDeclaration{.crc32c = Crc32c(bytes)};
      for (const TileEncodeJob& job : jobs.jobs) {
        if (GetParam().codec == CodecId::kRaw) break;
        segment.declared->tiles.push_back(job.report.sums);
      }
    }
    segments_.push_back(std::move(segment));
  }
  std::span<const std::byte> Sent(size_t plane) const {
    if (GetParam().form == PlaneForm::kEncoded) return encoded_[plane].bytes;
    return block_[plane];
  }

  std::shared_ptr<PutCall> BeginPut() {
    return *service_.Put(kDefaultTenant, session_->id(), space_, {{key_, {}, 0}}, {}, std::nullopt,
                         GetParam().form);
  }
  void Put() {
    const auto put = BeginPut();
    for (size_t p = 0; p < segments_.size(); ++p) {
      const std::span<const std::byte> data = Sent(p);
      ASSERT_TRUE(put->Add({&segments_[p], 1}, {&data, 1}).ok());
    }
    bool stored = false;
    const absl::Status committed = put->Commit([&](const absl::StatusOr<PutResults>& results) {
      stored = results.ok() && results->blocks[0].stored;
    });
    ASSERT_TRUE(committed.ok()) << committed;
    executor_.RunAll();
    EXPECT_TRUE(stored);
  }
  void Get() {
    const auto get =
        *service_.Get(kDefaultTenant, session_->id(), space_, {&key_, 1}, {}, GetParam().form);
    size_t planes = 0;
    for (bool end = false; !end;) {
      bool came = false;
      get->Next([&](const absl::StatusOr<PlaneDelivery>& delivery) {
        came = true;
        end = !delivery.ok() || delivery->kind == PlaneDelivery::Kind::kEnd;
        planes += !end;
      });
      executor_.RunAll();
      ASSERT_TRUE(came);
    }
    EXPECT_EQ(planes, segments_.size());
  }
  void Inspect() {
    EXPECT_TRUE(service_.Inspect(kDefaultTenant, session_->id(), space_, key_, false).ok());
  }
  // The call and everything that it scheduled, then its end.
  template <typename Call>
  size_t FoundAfter(Call call) {
    HeapWatch watch(secret_);
    call();
    executor_.RunAll();
    watch.Stop();
    return watch.found();
  }

  FakeClock clock_;
  FakeRandom random_;
  RecordingStats stats_;
  StepExecutor executor_{2};
  // Of pages so small that a plane lies on several, and out of order.
  MemoryTier tier_{64, 4096, 64};
  Store store_{{}, {&tier_}, &clock_, &random_, &stats_};
  TiledPlaneCodec codec_{CpuCodec(), &executor_, &clock_, &stats_};
  Service service_{{}, {&store_, &codec_, &executor_, &clock_, &random_, &stats_}};
  std::shared_ptr<Session> session_;
  uint64_t space_ = 0;
  const PlaneLayout layout_ = *PlaneLayout::Create(Spec(GetParam().codec), {});
  const BlockKey key_ = KeysOf(RootKey(FingerprintOf(Spec(GetParam().codec)), {}),
                               std::vector<uint32_t>(128, 1), 128)[0];
  const std::vector<std::vector<std::byte>> block_ = MakeBlock(layout_, 1);
  std::vector<EncodedPlane> encoded_;
  std::vector<PlaneSegment> segments_;
  std::vector<uint64_t> secret_;
};
INSTANTIATE_TEST_SUITE_P(Forms, OverwritingTest,
                         ::testing::Values(Case{CodecId::kRaw, PlaneForm::kDecoded},
                                           Case{CodecId::kRaw, PlaneForm::kEncoded},
                                           Case{CodecId::kEOptShrinkQ, PlaneForm::kDecoded},
                                           Case{CodecId::kEOptShrinkQ, PlaneForm::kEncoded}),
                         [](const auto& info) { return info.param.name(); });

TEST_P(OverwritingTest, APutLeavesNothing) {
  EXPECT_EQ(FoundAfter([&] { Put(); }), 0u);
}

TEST_P(OverwritingTest, AGetLeavesNothing) {
  Put();
  EXPECT_EQ(FoundAfter([&] { Get(); }), 0u);
}

TEST_P(OverwritingTest, AnInspectionLeavesNothing) {
  Put();
  EXPECT_EQ(FoundAfter([&] { Inspect(); }), 0u);
}

TEST_P(OverwritingTest, APutThatEndsEarlyLeavesNothing) {
  EXPECT_EQ(FoundAfter([&] {
              const auto put = BeginPut();
              const std::span<const std::byte> data = Sent(0);
              ASSERT_TRUE(put->Add({&segments_[0], 1}, {&data, 1}).ok());
              const auto half = Sent(1).first(Sent(1).size() / 2);
              PlaneSegment segment = segments_[1];
              segment.length = static_cast<uint32_t>(half.size());
              ASSERT_TRUE(put->Add({&segment, 1}, {&half, 1}).ok());
              put->Cancel();
            }),
            0u);
}

// So the tests above see what there is to see.
TEST_P(OverwritingTest, WithoutItEverythingIsLeft) {
  SetOverwritesScratch(false);
  // What no codec touches is put into its place at once, and leaves nothing anyway.
  EXPECT_GT(FoundAfter([&] {
              Put();
              Inspect();
            }),
            100u);
}

// ---- What gRPC received ----

class ReceivedTest : public ::testing::Test {
 protected:
  // As a connection brings it: in memory of the message alone, here cut in two.
  grpc::ByteBuffer Receive(const std::string& message) {
    received_ = message;
    const size_t half = received_.size() / 2;
    const grpc::Slice slices[] = {
        grpc::Slice(received_.data(), half, grpc::Slice::STATIC_SLICE),
        grpc::Slice(received_.data() + half, received_.size() - half, grpc::Slice::STATIC_SLICE)};
    return grpc::ByteBuffer(slices, 2);
  }
  bool SecretIsThere() const { return received_.find(secret_.substr(0, 64)) != std::string::npos; }

  const std::string secret_ = [] {
    std::string text;
    for (int i = 0; i < 200; ++i) text += absl::StrCat("prompt ", i, ";");
    return text;
  }();
  std::string received_;
};

TEST_F(ReceivedTest, AChunkIsOverwritten) {
  v1::PutRequest request;
  request.mutable_chunk()->set_data(secret_);
  const auto put = ParsePutRequest(Receive(request.SerializeAsString()));
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_TRUE(SecretIsThere());
  OverwriteChunk(**put);
  EXPECT_EQ(received_, std::string(received_.size(), 0));
}

// One that the general parser has to read, and copies.
TEST_F(ReceivedTest, AChunkInAnotherOrderIsOverwrittenInBothPlaces) {
  v1::PutRequest data, segment;
  data.mutable_chunk()->set_data(secret_);
  segment.mutable_chunk()->add_segments()->set_layer(1);
  const auto put = ParsePutRequest(Receive(data.SerializeAsString() + segment.SerializeAsString()));
  ASSERT_TRUE(put.ok()) << put.status();
  ASSERT_EQ((*put)->request.chunk().data(), secret_);
  OverwriteChunk(**put);
  EXPECT_FALSE(SecretIsThere());
  EXPECT_EQ((*put)->request.chunk().data(), std::string(secret_.size(), 0));
}

// ---- What a codec keeps ----

struct Tile {
  Tile() {
    job.shape = {128, 64, DType::kFp16};
    job.values = values.data();
    job.row_stride = 128;
    job.body = body.data();
  }
  std::vector<std::byte> values =
      MakePlane({.heads = 1, .tokens = 128, .dim = 64, .raw_bytes = 16384}, 1);
  std::vector<std::byte> body = std::vector<std::byte>(MaxTileBodyBytes({128, 64, DType::kFp16}));
  TileEncodeJob job;
};

class KeptByACodecTest : public ::testing::Test {
 protected:
  ~KeptByACodecTest() override { SetOverwritesScratch(true); }

  void Code(uint32_t owner) {
    tile_.job.owner = owner;
    ASSERT_TRUE(CpuCodec()->Encode({&tile_.job, 1}).ok());
    TileDecodeJob decode;
    decode.shape = tile_.job.shape;
    decode.head = tile_.job.head;
    decode.body = tile_.job.body;
    decode.values = tile_.values.data();
    decode.row_stride = tile_.job.row_stride;
    decode.owner = owner;
    ASSERT_TRUE(CpuCodec()->Decode({&decode, 1}).ok());
  }
  Tile tile_;
};

TEST_F(KeptByACodecTest, IsOverwrittenForTheNextOwner) {
  Code(1);
  HeapWatch watch;
  Code(2);
  watch.Stop();
  EXPECT_GT(watch.pieces(), 10u) << "the tile, what is left of it, its vectors";
  EXPECT_EQ(watch.left_behind(), 0u);
}

TEST_F(KeptByACodecTest, StaysForTheSameOwner) {
  Code(1);
  HeapWatch watch;
  Code(1);
  watch.Stop();
  EXPECT_EQ(watch.pieces(), 0u);
}

TEST_F(KeptByACodecTest, WithoutItIsLeft) {
  Code(1);
  SetOverwritesScratch(false);
  HeapWatch watch;
  Code(2);
  watch.Stop();
  EXPECT_GT(watch.left_behind(), 10u);
}

}  // namespace
}  // namespace kvstow::testing
