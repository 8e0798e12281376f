// The CPU codec behind the worker's interface.
#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <vector>

#include "absl/synchronization/notification.h"
#include "client/coding/coding_threads.h"
#include "client/kvstow/coding.h"
#include "codec/crc32c.h"
#include "codec/plane.h"
#include "codec/space_rotary.h"
#include "gtest/gtest.h"
#include "tests/testing/kv_data.h"

namespace kvstow {
namespace {

SpaceSpec Spec() {
  SpaceSpec spec;
  spec.model = {"coder", "", ""};
  LayerGroup group;
  group.layers = {0, 1};
  group.kv_heads = 3;
  group.k_dim = group.v_dim = 64;
  group.rotary = RotaryEmbedding{};
  for (int i = 0; i < 32; ++i) group.rotary->inverse_frequencies.push_back(1.0f / (1 + i));
  LayerGroup opaque;
  opaque.layers = {2};
  opaque.kind = LayerGroup::Kind::kOpaque;
  opaque.opaque_bytes = 77;
  spec.groups = {group, opaque};
  return spec;
}

class CpuCoderTest : public ::testing::Test {
 protected:
  absl::Status Encode(SpaceCoder::EncodeJob* job) {
    absl::Status status;
    absl::Notification done;
    coder_->Encode(job, [&](absl::Status s) {
      status = std::move(s);
      done.Notify();
    });
    done.WaitForNotification();
    return status;
  }
  absl::Status Decode(SpaceCoder::DecodeJob* job) {
    absl::Status status;
    absl::Notification done;
    coder_->Decode(job, [&](absl::Status s) {
      status = std::move(s);
      done.Notify();
    });
    done.WaitForNotification();
    return status;
  }

  const PlaneLayout layout_ = *PlaneLayout::Create(Spec(), {});
  const std::vector<std::vector<std::byte>> block_ = testing::MakeBlock(layout_, 1);
  std::shared_ptr<PlaneCoder> device_ = MakeCpuCoder({.threads = 3});
  std::shared_ptr<SpaceCoder> coder_ = *device_->ForSpace(Spec(), {});
};

TEST_F(CpuCoderTest, MakesWhatTheCodecMakesAndReadsIt) {
  const SpaceRotary rotary(layout_);
  const BlockRotary tables = rotary.At(256);
  const auto positions = coder_->At(256);
  for (size_t p = 0; p < layout_.planes().size(); ++p) {
    const PlaneSpec& plane = layout_.planes()[p];
    SpaceCoder::EncodeJob job{.plane = p, .positions = positions, .values = block_[p]};
    ASSERT_TRUE(Encode(&job).ok());
    const auto expected =
        *EncodePlane(*CpuCodec(), plane, layout_.spec().codec, tables.of_plane(p), block_[p]);
    EXPECT_TRUE(std::ranges::equal(job.bytes, expected.bytes));
    EXPECT_LE(job.bytes.size(), coder_->MaxEncodedBytes(p));
    EXPECT_EQ(job.crc32c, Crc32c(job.bytes));
    ASSERT_EQ(job.tiles.size(), plane.is_opaque() ? 0 : plane.heads);
    double error = 0;
    for (const TileSums& sums : job.tiles) error += sums.error;
    EXPECT_EQ(error, expected.report.sums.error);

    std::vector<std::byte> values(plane.raw_bytes), decoded(plane.raw_bytes);
    SpaceCoder::DecodeJob back{.plane = p,
                               .positions = positions,
                               .bytes = job.bytes,
                               .crc32c = job.crc32c,
                               .values = values};
    ASSERT_TRUE(Decode(&back).ok());
    ASSERT_TRUE(DecodePlane(*CpuCodec(), plane, tables.of_plane(p), job.bytes, decoded).ok());
    EXPECT_TRUE(values == decoded);
  }
}

TEST_F(CpuCoderTest, ChangedBytesAreDataLossAndNothingIsWritten) {
  const auto positions = coder_->At(0);
  SpaceCoder::EncodeJob job{.plane = 1, .positions = positions, .values = block_[1]};
  ASSERT_TRUE(Encode(&job).ok());
  std::vector<std::byte> values(layout_.planes()[1].raw_bytes, std::byte{0xa5});
  const auto untouched = values;
  SpaceCoder::DecodeJob back{.plane = 1,
                             .positions = positions,
                             .bytes = job.bytes,
                             .crc32c = job.crc32c,
                             .values = values};
  for (size_t at : {size_t{0}, job.bytes.size() / 2, job.bytes.size() - 1}) {
    job.bytes[at] ^= std::byte{4};
    EXPECT_TRUE(absl::IsDataLoss(Decode(&back)));
    job.bytes[at] ^= std::byte{4};
  }
  // With a checksum that says so: no plane of the space.
  job.bytes[0] = std::byte{0x72};
  back.crc32c = Crc32c(job.bytes);
  EXPECT_TRUE(absl::IsDataLoss(Decode(&back)));
  EXPECT_TRUE(values == untouched);
}

TEST_F(CpuCoderTest, UnwantedJobsAreLeftUndone) {
  const std::atomic<bool> unwanted{true};
  const auto positions = coder_->At(0);
  SpaceCoder::EncodeJob job{
      .plane = 0, .positions = positions, .values = block_[0], .unwanted = &unwanted};
  EXPECT_TRUE(absl::IsCancelled(Encode(&job)));
  EXPECT_TRUE(job.bytes.empty());
  SpaceCoder::DecodeJob back{.plane = 0, .positions = positions, .unwanted = &unwanted};
  EXPECT_TRUE(absl::IsCancelled(Decode(&back)));
}

// Jobs outlive the coder they were given to.
TEST_F(CpuCoderTest, TheCoderMayGoBeforeItsJobs) {
  struct Given {
    SpaceCoder::EncodeJob job;
    absl::Status status = absl::UnknownError("not done");
  };
  std::deque<Given> given;
  for (int i = 0; i < 20; ++i) {
    Given& one = given.emplace_back();
    one.job = {.plane = 0, .positions = coder_->At(128 * i), .values = block_[0]};
    coder_->Encode(&one.job, [&one](absl::Status s) { one.status = std::move(s); });
  }
  coder_.reset();
  device_.reset();  // with its threads, which do what is left
  for (const Given& one : given) {
    EXPECT_TRUE(one.status.ok()) << one.status;
    EXPECT_FALSE(one.job.bytes.empty());
  }
}

TEST(CodingThreadsTest, WhatIsUrgentGoesFirst) {
  std::vector<int> order;
  absl::Notification busy, go_on;
  {
    coding::CodingThreads threads(1);
    threads.Run([&] {
      busy.Notify();
      go_on.WaitForNotification();
    });
    busy.WaitForNotification();
    threads.Run([&] { order.push_back(2); });
    threads.RunFirst([&] { order.push_back(1); });
    threads.Run([&] { order.push_back(3); });
    go_on.Notify();
  }
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

}  // namespace
}  // namespace kvstow
