// What Puts and Gets rely on, whichever PlaneCodec does the work; and how the batched one treats
// its device.
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/core/batched_plane_codec.h"
#include "server/core/testing/fake_clock.h"
#include "server/core/testing/recording_stats.h"
#include "server/core/testing/step_executor.h"
#include "server/core/tiled_plane_codec.h"
#include "space/plane_layout.h"
#include "tests/testing/kv_data.h"

namespace kvstow {
namespace {

using ::testing::ElementsAre;

// The CPU codec in a device's place: counts calls, fails when told to.
class FlakyCodec : public Codec {
 public:
  absl::string_view device() const override { return "cuda"; }
  absl::string_view description() const override { return "flaky"; }
  absl::Status Encode(std::span<TileEncodeJob> jobs) override {
    encoded_tiles.push_back(jobs.size());
    return failure.ok() ? CpuCodec()->Encode(jobs) : failure;
  }
  absl::Status Decode(std::span<const TileDecodeJob> jobs) override {
    decoded_tiles.push_back(jobs.size());
    return failure.ok() ? CpuCodec()->Decode(jobs) : failure;
  }

  absl::Status failure;
  std::vector<size_t> encoded_tiles, decoded_tiles;  // of each call
};

class PlaneCodecTest : public ::testing::TestWithParam<bool> {
 protected:
  static constexpr size_t kHeads = 3;

  PlaneCodecTest()
      : layout_(*PlaneLayout::Create(Spec(), {})),
        tiled_(CpuCodec(), &executor_, &clock_, &stats_),
        batched_({&device_}, &tiled_, &executor_, &clock_, &stats_) {
    for (size_t b = 0; b < 4; ++b) blocks_.push_back(testing::MakeBlock(layout_, b));
  }

  static SpaceSpec Spec() {
    SpaceSpec spec;
    spec.model = {"plane-codec-test", "", ""};
    LayerGroup kv;
    kv.layers = {0};
    kv.kv_heads = kHeads;
    kv.k_dim = kv.v_dim = 64;
    spec.groups = {kv};
    return spec;
  }

  PlaneCodec& codec() { return GetParam() ? static_cast<PlaneCodec&>(batched_) : tiled_; }
  const PlaneSpec& plane(size_t i) const { return layout_.planes()[i]; }

  struct Encoding {
    PlaneEncodeWork work;
    std::vector<absl::Status> done;
  };
  std::unique_ptr<Encoding> Encode(size_t block, size_t p,
                                   const std::atomic<bool>* unwanted = nullptr) {
    auto encoding = std::make_unique<Encoding>();
    encoding->work = {.spec = &plane(p),
                      .settings = &layout_.spec().codec,
                      .values = blocks_[block][p],
                      .unwanted = unwanted};
    codec().Encode(&encoding->work, [e = encoding.get()](absl::Status s) { e->done.push_back(s); });
    return encoding;
  }
  EncodedPlane Expected(size_t block, size_t p) const {
    return *EncodePlane(*CpuCodec(), plane(p), layout_.spec().codec, nullptr, blocks_[block][p]);
  }

  struct Decoding {
    std::vector<std::byte> values;
    PlaneDecodeWork work;
    std::vector<absl::Status> done;
  };
  std::unique_ptr<Decoding> Decode(std::span<const std::byte> encoded, size_t p) {
    auto decoding = std::make_unique<Decoding>();
    decoding->values.resize(plane(p).raw_bytes);
    decoding->work = {.spec = &plane(p), .encoded = encoded, .values = decoding->values};
    codec().Decode(&decoding->work, [d = decoding.get()](absl::Status s) { d->done.push_back(s); });
    return decoding;
  }
  std::vector<std::byte> ExpectedValues(std::span<const std::byte> encoded, size_t p) const {
    std::vector<std::byte> values(plane(p).raw_bytes);
    EXPECT_TRUE(DecodePlane(*CpuCodec(), plane(p), nullptr, encoded, values).ok());
    return values;
  }

  FakeClock clock_;
  RecordingStats stats_;
  StepExecutor executor_;
  PlaneLayout layout_;
  FlakyCodec device_;
  TiledPlaneCodec tiled_;
  BatchedPlaneCodec batched_;
  std::vector<std::vector<std::vector<std::byte>>> blocks_;
};
INSTANTIATE_TEST_SUITE_P(Both, PlaneCodecTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Batched" : "Tiled"; });

TEST_P(PlaneCodecTest, EncodesAsTheCodecDoes) {
  for (size_t p = 0; p < layout_.planes().size(); ++p) {
    const auto encoding = Encode(1, p);
    EXPECT_THAT(encoding->done, ElementsAre()) << "nothing happens on the caller's stack";
    executor_.RunAll();
    ASSERT_THAT(encoding->done, ElementsAre(absl::OkStatus()));
    EXPECT_EQ(encoding->work.encoded.bytes, Expected(1, p).bytes);
    EXPECT_EQ(encoding->work.encoded.report.tiles, Expected(1, p).report.tiles);
  }
}

TEST_P(PlaneCodecTest, DecodesAsTheCodecDoes) {
  for (size_t p = 0; p < layout_.planes().size(); ++p) {
    const auto encoded = Expected(2, p).bytes;
    const auto decoding = Decode(encoded, p);
    executor_.RunAll();
    ASSERT_THAT(decoding->done, ElementsAre(absl::OkStatus()));
    EXPECT_EQ(decoding->values, ExpectedValues(encoded, p));
  }
}

TEST_P(PlaneCodecTest, SaysWhenBytesAreNoPlane) {
  auto encoded = Expected(0, 0).bytes;
  encoded.pop_back();
  const auto decoding = Decode(encoded, 0);
  executor_.RunAll();
  ASSERT_EQ(decoding->done.size(), 1u);
  EXPECT_EQ(decoding->done[0].code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(batched_.healthy()) << "bad bytes say nothing about the device";
}

TEST_P(PlaneCodecTest, LeavesUnwantedWorkUndone) {
  std::atomic<bool> unwanted{false};
  const auto encoding = Encode(0, 0, &unwanted);
  unwanted = true;
  executor_.RunAll();
  ASSERT_EQ(encoding->done.size(), 1u);
  EXPECT_EQ(encoding->done[0].code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(stats_.totals().codec_bytes[CodecDirection::kEncode], 0u);
}

// ---- The batched one ----
class BatchedPlaneCodecTest : public PlaneCodecTest {};
INSTANTIATE_TEST_SUITE_P(Batched, BatchedPlaneCodecTest, ::testing::Values(true));

TEST_P(BatchedPlaneCodecTest, BatchesGrowWhileTheDeviceIsBusy) {
  std::vector<std::unique_ptr<Encoding>> encodings;
  for (size_t b = 0; b < blocks_.size(); ++b) {
    encodings.push_back(Encode(b, 0));
    encodings.push_back(Encode(b, 1));
  }
  EXPECT_EQ(batched_.queue_depth(), 8u);
  executor_.RunAll();
  EXPECT_THAT(device_.encoded_tiles, ElementsAre(8 * kHeads));
  for (size_t i = 0; i < encodings.size(); ++i) {
    ASSERT_THAT(encodings[i]->done, ElementsAre(absl::OkStatus()));
    EXPECT_EQ(encodings[i]->work.encoded.bytes, Expected(i / 2, i % 2).bytes);
  }
  EXPECT_EQ(batched_.queue_depth(), 0u);
}

TEST_P(BatchedPlaneCodecTest, GetsGoBeforePuts) {
  const auto encoded = Expected(0, 0).bytes;
  const auto encoding = Encode(0, 0);
  const auto decoding = Decode(encoded, 0);
  while (decoding->done.empty() && executor_.RunOne()) {
  }
  EXPECT_THAT(device_.encoded_tiles, ElementsAre());
  executor_.RunAll();
  EXPECT_EQ(encoding->done.size(), 1u);
}

TEST_P(BatchedPlaneCodecTest, AnExhaustedDeviceIsAskedAgain) {
  device_.failure = absl::ResourceExhaustedError("no scratch");
  const auto first = Encode(0, 0);
  executor_.RunAll();
  ASSERT_THAT(first->done, ElementsAre(absl::OkStatus())) << "the fallback did it";
  EXPECT_EQ(first->work.encoded.bytes, Expected(0, 0).bytes);
  EXPECT_TRUE(batched_.healthy());
  EXPECT_EQ(stats_.totals().passing_codec_failures, 1u);
  device_.failure = absl::OkStatus();
  const auto second = Encode(1, 0);
  executor_.RunAll();
  ASSERT_THAT(second->done, ElementsAre(absl::OkStatus()));
  EXPECT_THAT(device_.encoded_tiles, ElementsAre(kHeads, kHeads));
}

TEST_P(BatchedPlaneCodecTest, ALostDeviceIsNotAskedAgain) {
  const auto encoded = Expected(0, 0).bytes;
  device_.failure = absl::InternalError("the context is lost");
  const auto first = Decode(encoded, 0);
  executor_.RunAll();
  ASSERT_THAT(first->done, ElementsAre(absl::OkStatus())) << "the fallback did it";
  EXPECT_EQ(first->values, ExpectedValues(encoded, 0));
  EXPECT_FALSE(batched_.healthy());
  EXPECT_EQ(stats_.totals().permanent_codec_failures, 1u);
  device_.failure = absl::OkStatus();  // what it says now is not to be trusted
  const auto second = Decode(encoded, 0);
  const auto third = Encode(1, 1);
  executor_.RunAll();
  EXPECT_EQ(second->values, ExpectedValues(encoded, 0));
  EXPECT_EQ(third->work.encoded.bytes, Expected(1, 1).bytes);
  EXPECT_THAT(device_.decoded_tiles, ElementsAre(kHeads));
  EXPECT_THAT(device_.encoded_tiles, ElementsAre());
}

TEST_P(BatchedPlaneCodecTest, WhatWaitedForALostDeviceIsDone) {
  const auto encoded = Expected(0, 0).bytes;
  device_.failure = absl::InternalError("the context is lost");
  const auto decoding = Decode(encoded, 0);
  const auto encoding = Encode(1, 0);
  executor_.RunAll();
  EXPECT_EQ(decoding->values, ExpectedValues(encoded, 0));
  EXPECT_EQ(encoding->work.encoded.bytes, Expected(1, 0).bytes);
  EXPECT_EQ(stats_.totals().permanent_codec_failures, 1u) << "one failure, told once";
}

}  // namespace
}  // namespace kvstow
