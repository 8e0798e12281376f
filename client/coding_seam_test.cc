// Puts and Gets with a coder of any kind: one that the test steps by hand, whose encoded form is a
// byte in front of the values.
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "client/convert.h"
#include "client/encoding_writer.h"
#include "client/get_assembly.h"
#include "client/get_message.h"
#include "client/serialize.h"
#include "client/testing/fake_daemon.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvstow::client {
namespace {

using ::testing::HasSubstr;

class SteppedCoder : public SpaceCoder {
 public:
  std::shared_ptr<const Positions> At(uint64_t) const override { return nullptr; }
  size_t MaxEncodedBytes(size_t) const override { return 1 << 20; }
  void Encode(EncodeJob* job, Done done) override {
    Keep([this, job, done = std::move(done)] {
      job->bytes.assign(1, std::byte{0xee});
      job->bytes.insert(job->bytes.end(), job->values.begin(), job->values.end());
      job->crc32c = 7;
      job->tiles.resize(2, {.energy = 4});
      done(job->unwanted->load() ? absl::CancelledError() : fails);
    });
  }
  void Decode(DecodeJob* job, Done done) override {
    Keep([job, done = std::move(done)] {
      if (job->unwanted->load()) return done(absl::CancelledError());
      if (job->crc32c != 7) return done(absl::DataLossError("another checksum"));
      std::memcpy(job->values.data(), job->bytes.data() + 1, job->values.size());
      done(absl::OkStatus());
    });
  }

  // By the number of what is waiting.
  void Finish(size_t i) {
    auto work = std::move(waiting[i]);
    waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(i));
    work();
  }

  bool at_once = false;
  absl::Status fails;
  std::deque<std::function<void()>> waiting;

 private:
  void Keep(std::function<void()> work) {
    if (at_once) return work();
    waiting.push_back(std::move(work));
  }
};

// Where planes end.
class RecordingWriter : public PlaneWriter {
 public:
  struct Sent {
    uint32_t layer, block;
    std::vector<std::byte> bytes;
    v1::PlaneDeclaration declared;
  };
  explicit RecordingWriter(std::vector<Sent>* sent) : sent_(*sent) {}
  bool Append(const PlaneSpec& plane, uint32_t block, std::span<const std::byte> bytes,
              const v1::PlaneDeclaration* declared) override {
    sent_.push_back({plane.layer, block, {bytes.begin(), bytes.end()}, *declared});
    return true;
  }
  bool Flush() override { return true; }
  uint64_t bytes_sent() const override { return 0; }

 private:
  std::vector<Sent>& sent_;
};

class EncodingWriterTest : public ::testing::Test {
 protected:
  EncodingWriter Writer(const Deadline& deadline = Deadline::In(absl::Hours(1))) {
    return EncodingWriter(std::make_unique<RecordingWriter>(&sent_), &coder_, &layout_,
                          {2, nullptr}, deadline);
  }
  bool Append(EncodingWriter* writer, size_t plane, uint32_t block) {
    const PlaneSpec& spec = layout_.planes()[plane];
    return writer->Append(
        spec, block,
        std::vector<std::byte>(spec.raw_bytes, static_cast<std::byte>(10 * plane + block)));
  }

  const PlaneLayout layout_ = *PlaneLayout::Create(*FromProto(testing::SmallSpec()), {});
  SteppedCoder coder_;
  std::vector<RecordingWriter::Sent> sent_;
};

TEST_F(EncodingWriterTest, SendsInOrderWhateverIsDoneFirst) {
  auto writer = Writer();
  for (size_t p = 0; p < 2; ++p) {
    for (uint32_t b = 0; b < 2; ++b) ASSERT_TRUE(Append(&writer, p, b));
  }
  ASSERT_EQ(coder_.waiting.size(), 4u);
  for (size_t i : {3, 1, 1, 0}) coder_.Finish(i);
  ASSERT_TRUE(writer.Flush());
  ASSERT_EQ(sent_.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(sent_[i].block, i % 2);
    EXPECT_EQ(sent_[i].bytes.size(), 1 + layout_.planes()[0].raw_bytes);
    EXPECT_EQ(sent_[i].bytes[0], std::byte{0xee});
    EXPECT_EQ(sent_[i].bytes[1], static_cast<std::byte>(10 * (i / 2) + i % 2));
    EXPECT_EQ(sent_[i].declared.crc32c(), 7u);
    EXPECT_EQ(sent_[i].declared.tile_sums_size(), 10);
    EXPECT_EQ(sent_[i].declared.tile_sums(5), 4);
  }
}

TEST_F(EncodingWriterTest, ACoderThatFailsEndsThePut) {
  coder_.fails = absl::InternalError("the device is gone");
  auto writer = Writer();
  ASSERT_TRUE(Append(&writer, 0, 0));
  coder_.Finish(0);
  EXPECT_FALSE(writer.Flush());
  EXPECT_EQ(writer.problem().message(), "the device is gone");
  EXPECT_TRUE(sent_.empty());
}

// What is left behind is told that nobody wants it, and has memory of its own.
TEST_F(EncodingWriterTest, ACoderThatIsLateMissesTheDeadline) {
  {
    auto writer = Writer(Deadline::In(absl::Milliseconds(1)));
    ASSERT_TRUE(Append(&writer, 0, 0));
    ASSERT_TRUE(Append(&writer, 0, 1));
    EXPECT_FALSE(writer.Flush());
    EXPECT_TRUE(absl::IsDeadlineExceeded(writer.problem()));
    EXPECT_GT(writer.waited(), absl::ZeroDuration());
  }
  ASSERT_EQ(coder_.waiting.size(), 2u);
  coder_.Finish(1);
  coder_.Finish(0);
  EXPECT_TRUE(sent_.empty());
}

TEST_F(EncodingWriterTest, ASourceThatGivesUpIsNoProblem) {
  auto writer = Writer();
  EXPECT_FALSE(writer.Fill(layout_.planes()[0], 0, [](std::span<std::byte>) { return false; }));
  EXPECT_TRUE(writer.problem().ok());
  EXPECT_TRUE(coder_.waiting.empty());
}

// ---- Get ----

// A request's, which nothing is asked of here.
class OnlyNamed : public DeviceKv {
 public:
  absl::Status Scatter(std::span<const ArrivedPlane>) override { return absl::OkStatus(); }
  absl::Status ScatterFromHost(const PlaneSpec&, size_t, std::span<const std::byte>) override {
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> Mark() override { return 0; }
  absl::StatusOr<bool> Passed(uint64_t) override { return true; }
};

class DecodingGetTest : public ::testing::Test {
 protected:
  static constexpr size_t kBlocks = 2;

  DecodingGetTest() {
    request_.destination = [this](const PlaneSpec& plane, size_t block) {
      auto& memory = memory_[Index(plane) * kBlocks + block];
      memory.resize(plane.raw_bytes);
      return std::span<std::byte>(memory);
    };
    request_.on_layer = [this](uint32_t layer, size_t usable) {
      layers_.push_back({layer, usable});
    };
    memory_.resize(layout_.planes().size() * kBlocks);
  }
  void Begin(const Deadline& deadline = Deadline::In(absl::Hours(1))) {
    assembly_.emplace(GetAssembly::Create(layout_, request_, kBlocks, &coder_, deadline).value());
    v1::GetResponse answers;
    for (size_t b = 0; b < kBlocks; ++b) answers.mutable_answers()->add_answers()->set_found(true);
    ASSERT_TRUE(Send(answers).ok());
  }
  size_t Index(const PlaneSpec& plane) const {
    return static_cast<size_t>(&plane - layout_.planes().data());
  }
  absl::Status Send(const v1::GetResponse& response) {
    grpc::ByteBuffer buffer = Serialize(response);
    return TakeGetResponse(&buffer, {}, &*assembly_, &staged_);
  }
  static std::byte Fill(size_t plane, uint32_t block) {
    return static_cast<std::byte>(1 + 10 * plane + block);
  }
  v1::GetResponse Plane(size_t plane, uint32_t block, uint32_t crc32c = 7) const {
    const PlaneSpec& spec = layout_.planes()[plane];
    v1::GetResponse response;
    v1::Segment* s = response.mutable_chunk()->add_segments();
    s->set_layer(spec.layer);
    s->set_kind(static_cast<v1::PlaneKind>(spec.kind));
    s->set_block(block);
    s->set_length(static_cast<uint32_t>(spec.raw_bytes + 1));
    s->set_plane_bytes(static_cast<uint32_t>(spec.raw_bytes + 1));
    s->mutable_declared()->set_crc32c(crc32c);
    response.mutable_chunk()->set_data(
        "\xee" + std::string(spec.raw_bytes, static_cast<char>(Fill(plane, block))));
    return response;
  }
  void SendAll() {
    for (size_t p = 0; p < layout_.planes().size(); ++p) {
      for (uint32_t b = 0; b < kBlocks; ++b) ASSERT_TRUE(Send(Plane(p, b)).ok());
    }
  }
  void ExpectWritten(size_t blocks) {
    for (size_t p = 0; p < layout_.planes().size(); ++p) {
      for (size_t b = 0; b < blocks; ++b) {
        EXPECT_EQ(memory_[p * kBlocks + b],
                  std::vector<std::byte>(layout_.planes()[p].raw_bytes,
                                         Fill(p, static_cast<uint32_t>(b))));
      }
    }
  }

  using Layers = std::vector<std::pair<uint32_t, size_t>>;
  const PlaneLayout layout_ = *PlaneLayout::Create(*FromProto(testing::SmallSpec()), {});
  SteppedCoder coder_;
  GetBlocksRequest request_;
  std::vector<std::vector<std::byte>> memory_;
  Layers layers_;
  StagedCount staged_;
  std::optional<GetAssembly> assembly_;
};

TEST_F(DecodingGetTest, WritesEverythingAndReportsLayers) {
  coder_.at_once = true;
  Begin();
  SendAll();
  EXPECT_TRUE(assembly_->OnEnd().ok());
  EXPECT_EQ(assembly_->usable(), kBlocks);
  EXPECT_EQ(layers_, (Layers{{0, 2}, {1, 2}}));
  ExpectWritten(kBlocks);
}

// A layer is ready when it is decoded, not when it arrived.
TEST_F(DecodingGetTest, LayersWaitForTheCoder) {
  Begin();
  for (size_t p = 0; p < 2; ++p) {
    for (uint32_t b = 0; b < kBlocks; ++b) ASSERT_TRUE(Send(Plane(p, b)).ok());
  }
  ASSERT_EQ(coder_.waiting.size(), 4u);
  for (size_t i : {3, 2, 1}) coder_.Finish(i);
  ASSERT_TRUE(Send(Plane(2, 0)).ok());
  EXPECT_TRUE(layers_.empty()) << "the first plane is still being decoded";
  coder_.Finish(0);
  ASSERT_TRUE(Send(Plane(2, 1)).ok());
  EXPECT_EQ(layers_, (Layers{{0, 2}}));
  EXPECT_EQ(assembly_->usable(), 0u);
  while (!coder_.waiting.empty()) coder_.Finish(0);
}

// What is waited for at once is no more than that layer.
TEST_F(DecodingGetTest, ALayerIsToldBeforeTheNextIsDecoded) {
  absl::Notification told;
  request_.on_layer = [&](uint32_t layer, size_t) {
    if (layer == 0) told.Notify();
  };
  Begin();
  SendAll();
  ASSERT_EQ(coder_.waiting.size(), 8u) << "two layers of K and V, two blocks";
  for (int i = 0; i < 2; ++i) coder_.Finish(0);
  absl::Status end;
  std::thread call([&] { end = assembly_->OnEnd(); });
  for (int i = 0; i < 2; ++i) coder_.Finish(0);
  EXPECT_TRUE(told.WaitForNotificationWithTimeout(absl::Seconds(60)));
  while (!coder_.waiting.empty()) coder_.Finish(0);
  call.join();
  EXPECT_TRUE(end.ok()) << end;
  ExpectWritten(kBlocks);
}

TEST_F(DecodingGetTest, TakesPlanesInOrder) {
  std::vector<std::pair<size_t, size_t>> taken;
  request_.destination = nullptr;
  request_.take = [&](const PlaneSpec& plane, size_t block, std::span<const std::byte> from) {
    EXPECT_EQ(from.size(), plane.raw_bytes);
    EXPECT_EQ(from[5], Fill(Index(plane), static_cast<uint32_t>(block)));
    taken.push_back({Index(plane), block});
  };
  Begin();
  SendAll();
  while (!coder_.waiting.empty()) coder_.Finish(coder_.waiting.size() - 1);
  EXPECT_TRUE(assembly_->OnEnd().ok());
  ASSERT_EQ(taken.size(), layout_.planes().size() * kBlocks);
  for (size_t i = 0; i < taken.size(); ++i) {
    EXPECT_EQ(taken[i], (std::pair<size_t, size_t>{i / kBlocks, i % kBlocks}));
  }
}

// Planes for device memory that are decoded on the host: a layer is ready when the copies have been
// done that it was handed on to.
TEST_F(DecodingGetTest, LayersWaitForTheCopiesToTheDevice) {
  request_.destination = nullptr;
  request_.device = std::make_shared<OnlyNamed>();
  size_t taken = 0;
  Begin();
  assembly_->LandWith([&](const PlaneSpec&, size_t, std::span<const std::byte>) {
    ++taken;
    return absl::OkStatus();
  });
  for (size_t p = 0; p < 2; ++p) {
    for (uint32_t b = 0; b < kBlocks; ++b) ASSERT_TRUE(Send(Plane(p, b)).ok());
  }
  for (int i = 0; i < 3; ++i) coder_.Finish(0);
  ASSERT_TRUE(Send(Plane(2, 0)).ok());
  EXPECT_EQ(taken, 3u);
  EXPECT_EQ(assembly_->handed_on().plane, 1u) << "its last is still being decoded";
  EXPECT_EQ(assembly_->handed_on().slot, 1u);
  coder_.Finish(0);
  ASSERT_TRUE(Send(Plane(2, 1)).ok());
  EXPECT_TRUE(layers_.empty());
  assembly_->Landed(assembly_->handed_on());
  EXPECT_EQ(layers_, (Layers{{0, 2}}));
  for (uint32_t b = 0; b < kBlocks; ++b) ASSERT_TRUE(Send(Plane(3, b)).ok());
  while (!coder_.waiting.empty()) coder_.Finish(0);
  EXPECT_TRUE(assembly_->OnEnd().ok());
  EXPECT_EQ(taken, 8u);
  EXPECT_EQ(assembly_->usable(), 0u);
  assembly_->Landed(assembly_->handed_on());
  EXPECT_EQ(assembly_->usable(), kBlocks);
  EXPECT_EQ(layers_, (Layers{{0, 2}, {1, 2}}));
  EXPECT_TRUE(absl::IsInternal(assembly_->OnLandedDamage(kBlocks, layout_.planes()[0])));
}

TEST_F(DecodingGetTest, DamageOnArrivalIsNotUsable) {
  coder_.at_once = true;
  Begin();
  for (size_t p = 0; p < layout_.planes().size(); ++p) {
    ASSERT_TRUE(Send(Plane(p, 0)).ok());
    ASSERT_TRUE(Send(Plane(p, 1, p == 1 ? 8 : 7)).ok());
  }
  EXPECT_TRUE(assembly_->OnEnd().ok());
  EXPECT_EQ(assembly_->usable(), 1u);
  EXPECT_TRUE(absl::IsDataLoss(assembly_->damage()));
  EXPECT_THAT(std::string(assembly_->damage().message()),
              HasSubstr("block 1 arrived damaged: another checksum"));
  EXPECT_EQ(layers_, (Layers{{0, 1}, {1, 1}}));
  ExpectWritten(1);
}

TEST_F(DecodingGetTest, DamageOfTheFirstBlockIsHopeless) {
  coder_.at_once = true;
  Begin();
  ASSERT_TRUE(Send(Plane(0, 0, 8)).ok());
  EXPECT_TRUE(assembly_->hopeless());
  EXPECT_TRUE(layers_.empty());
}

TEST_F(DecodingGetTest, LiesOfTheDaemon) {
  const std::vector<std::function<void(v1::Segment*)>> lies = {
      [](v1::Segment* s) { s->clear_declared(); }, [](v1::Segment* s) { s->set_plane_bytes(0); },
      [](v1::Segment* s) { s->set_plane_bytes((1 << 20) + 1); },
      [](v1::Segment* s) { s->set_length(s->plane_bytes() + 1); }};
  for (const auto& lie : lies) {
    Begin();
    v1::GetResponse response = Plane(0, 0);
    lie(response.mutable_chunk()->mutable_segments(0));
    EXPECT_TRUE(absl::IsInternal(Send(response)));
    EXPECT_TRUE(coder_.waiting.empty());
  }
  // A plane that becomes another on its way.
  Begin();
  v1::GetResponse first = Plane(0, 0);
  const std::string data = first.chunk().data();
  first.mutable_chunk()->mutable_segments(0)->set_length(10);
  first.mutable_chunk()->set_data(data.substr(0, 10));
  ASSERT_TRUE(Send(first).ok());
  v1::GetResponse rest = Plane(0, 0);
  v1::Segment* s = rest.mutable_chunk()->mutable_segments(0);
  s->set_offset(10);
  s->set_length(static_cast<uint32_t>(data.size() - 10));
  rest.mutable_chunk()->set_data(data.substr(10));
  EXPECT_TRUE(absl::IsInternal(Send(rest))) << "declared twice";
  s->clear_declared();
  s->set_plane_bytes(s->plane_bytes() - 1);
  EXPECT_TRUE(absl::IsInternal(Send(rest))) << "another size";
}

TEST_F(DecodingGetTest, EncodedPlanesThatNobodyAskedFor) {
  assembly_.emplace(GetAssembly::Create(layout_, request_, kBlocks).value());
  v1::GetResponse answers;
  for (size_t b = 0; b < kBlocks; ++b) answers.mutable_answers()->add_answers()->set_found(true);
  ASSERT_TRUE(Send(answers).ok());
  v1::GetResponse response = Plane(0, 0);
  response.mutable_chunk()->mutable_segments(0)->set_plane_bytes(
      static_cast<uint32_t>(layout_.planes()[0].raw_bytes));
  EXPECT_TRUE(absl::IsInternal(Send(response)));
}

// The call ends by its deadline; when its assembly is gone nothing is written any more.
TEST_F(DecodingGetTest, ACoderThatIsLateMissesTheDeadline) {
  Begin(Deadline::In(absl::ZeroDuration()));
  for (auto& memory : memory_) memory.assign(layout_.planes()[0].raw_bytes, std::byte{0xa5});
  SendAll();
  EXPECT_TRUE(absl::IsDeadlineExceeded(assembly_->OnEnd()));
  EXPECT_EQ(assembly_->usable(), 0u);
  std::atomic<bool> gone{false};
  std::thread end([&] {
    assembly_.reset();
    gone = true;
  });
  // What the coder still has is told that nobody wants it, and waited for.
  for (size_t last = coder_.waiting.size(); last-- > 1;) coder_.Finish(last);
  EXPECT_FALSE(gone);
  coder_.Finish(0);
  end.join();
}

}  // namespace
}  // namespace kvstow::client
