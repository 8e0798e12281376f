// Puts and Gets of KV in device memory that travel through the host, against the scripted daemon:
// copies are asynchronous, and a call tells what they have done, not what it has enqueued.
#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "client/convert.h"
#include "client/device_landing.h"
#include "client/testing/fake_daemon.h"
#include "gtest/gtest.h"
#include "kvstow/client.h"
#include "tests/testing/fake_worker_gpu.h"

namespace kvstow {
namespace {

using client::testing::FakeDaemon;
using client::testing::SmallSpec;
using testing::FakeDeviceKv;

constexpr size_t kBlocks = 3;

std::vector<std::byte> PlaneBytes(const PlaneSpec& plane, size_t block) {
  return std::vector<std::byte>(plane.raw_bytes,
                                static_cast<std::byte>(1 + plane.layer * 16 + block * 4 +
                                                       (plane.kind == PlaneKind::kV ? 1 : 0)));
}

// An engine's own, which waits in GatherToHost.
class SlowGather final : public DeviceKv {
 public:
  absl::Status Scatter(std::span<const ArrivedPlane>) override { return absl::OkStatus(); }
  absl::Status ScatterFromHost(const PlaneSpec&, size_t, std::span<const std::byte>) override {
    return absl::OkStatus();
  }
  absl::Status GatherToHost(const PlaneSpec&, size_t, std::span<std::byte>) override {
    absl::SleepFor(absl::Milliseconds(40));  // twelve planes
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> Mark() override { return 1; }
  absl::StatusOr<bool> Passed(uint64_t) override { return true; }
};

// An engine's whose device is lost at one step.
class FailingScatter final : public DeviceKv {
 public:
  enum Step { kScatter, kMark, kPassed };
  explicit FailingScatter(Step step) : step_(step) {}

  absl::Status Scatter(std::span<const ArrivedPlane>) override { return At(kScatter); }
  absl::Status ScatterFromHost(const PlaneSpec&, size_t, std::span<const std::byte>) override {
    return At(kScatter);
  }
  absl::StatusOr<uint64_t> Mark() override {
    if (absl::Status s = At(kMark); !s.ok()) return s;
    return ++marks_;
  }
  absl::StatusOr<bool> Passed(uint64_t) override {
    if (absl::Status s = At(kPassed); !s.ok()) return s;
    return true;
  }

 private:
  absl::Status At(Step step) const {
    return step == step_ ? absl::InternalError("the device is lost") : absl::OkStatus();
  }

  const Step step_;
  uint64_t marks_ = 0;
};

class DeviceCallTest : public ::testing::Test {
 protected:
  DeviceCallTest() {
    ClientOptions options;
    options.target = daemon_.target();
    options.get_deadline = options.put_deadline = absl::Seconds(60);
    options.connect_wait = absl::Seconds(20);
    options.breaker_failures = 1;
    options.breaker_cooldown = absl::Hours(1);
    client_ = Client::Create(options);
    space_ = client_->OpenSpace(client::FromProto(SmallSpec()).value()).value();
    keys_ = space_->Keys(std::vector<uint32_t>(128 * kBlocks, 5));
  }

  std::shared_ptr<FakeDeviceKv> Source(int lag = 3) {
    return std::make_shared<FakeDeviceKv>(
        FakeDeviceKv::Source([this](const PlaneSpec& plane, size_t block) {
          source_ = PlaneBytes(plane, block);
          return std::span<const std::byte>(source_);
        }),
        lag);
  }
  std::shared_ptr<FakeDeviceKv> Target(int lag = 3) {
    return std::make_shared<FakeDeviceKv>(
        FakeDeviceKv::Destination([this](const PlaneSpec& plane, size_t block) {
          auto& bytes = got_[{plane.layer, plane.kind, block}];
          bytes.resize(plane.raw_bytes);
          return std::span<std::byte>(bytes);
        }),
        lag);
  }
  PutBlocksRequest Put(std::shared_ptr<DeviceKv> kv) const {
    PutBlocksRequest request;
    request.keys = keys_;
    request.device = std::move(kv);
    return request;
  }
  GetBlocksRequest Get(std::shared_ptr<DeviceKv> kv) const {
    GetBlocksRequest request;
    request.keys = keys_;
    request.device = std::move(kv);
    return request;
  }
  void PutAll() {
    const auto put = space_->PutBlocks(Put(Source()));
    ASSERT_EQ(put.stored, kBlocks) << put.status;
  }
  void ExpectGot(uint32_t layer) {
    for (const PlaneSpec& plane : space_->layout().planes()) {
      if (plane.layer != layer) continue;
      for (size_t b = 0; b < kBlocks; ++b) {
        EXPECT_TRUE((got_[{plane.layer, plane.kind, b}] == PlaneBytes(plane, b)))
            << plane.layer << " " << b;
      }
    }
  }

  FakeDaemon daemon_;
  std::unique_ptr<Client> client_;
  std::shared_ptr<Space> space_;
  std::vector<BlockKey> keys_;
  std::vector<std::byte> source_;
  std::map<std::tuple<uint32_t, PlaneKind, size_t>, std::vector<std::byte>> got_;
};

TEST_F(DeviceCallTest, TheCopiesOfAGetHaveBeenDone) {
  PutAll();
  const auto kv = Target(/*lag=*/200);
  const auto get = space_->GetBlocks(Get(kv));
  EXPECT_EQ(get.usable, kBlocks) << get.status;
  EXPECT_EQ(get.path, DataPath::kGrpc);
  EXPECT_EQ(kv->from_host(), kBlocks * space_->layout().planes().size());
  for (uint32_t layer : space_->layout().layers()) ExpectGot(layer);
}

TEST_F(DeviceCallTest, LayersAreToldWhenTheyHaveLanded) {
  PutAll();
  std::vector<uint32_t> told;
  auto request = Get(Target(/*lag=*/200));
  request.on_layer = [&](uint32_t layer, size_t usable) {
    told.push_back(layer);
    EXPECT_EQ(usable, kBlocks);
    ExpectGot(layer);
  };
  EXPECT_EQ(space_->GetBlocks(request).usable, kBlocks);
  EXPECT_EQ(told, space_->layout().layers());
}

// A DeviceKv need not wait for its stream: it never has more under way than it has buffers for.
TEST_F(DeviceCallTest, FewPlanesAreUnderWayAtATime) {
  const auto kv = Target(/*lag=*/50);
  const client::BulkStream::Terms terms{nullptr, client::Deadline::In(absl::Hours(1)), nullptr};
  client::DeviceLanding landing(kv.get(), terms);
  ASSERT_TRUE(landing.Begin().ok());
  for (const PlaneSpec& plane : space_->layout().planes()) {
    for (size_t b = 0; b < kBlocks; ++b) {
      ASSERT_TRUE(landing.ScatterFromHost(plane, b, PlaneBytes(plane, b)).ok());
    }
  }
  EXPECT_EQ(kv->most_from_host(), 3u);
  ASSERT_TRUE(landing.Launch({}, {}).ok());
  EXPECT_FALSE(landing.idle());
  ASSERT_TRUE(landing.AwaitAllBut(0).ok());
  EXPECT_TRUE(landing.idle());
  for (uint32_t layer : space_->layout().layers()) ExpectGot(layer);
}

// The engine's stream is busy with something else: that is no failure of the daemon's, whose
// breaker opens at the first.
TEST_F(DeviceCallTest, AStuckStreamEndsTheGetByItsDeadline) {
  PutAll();
  const auto kv = Target();
  kv->set_stuck();
  auto request = Get(kv);
  request.deadline = absl::Milliseconds(200);
  const auto get = space_->GetBlocks(request);
  EXPECT_EQ(get.usable, 0u);
  EXPECT_EQ(get.status.code(), absl::StatusCode::kDeadlineExceeded) << get.status;
  EXPECT_FALSE(client_->health().breaker_open);
  EXPECT_EQ(space_->GetBlocks(Get(Target())).usable, kBlocks);
}

// Lost, say. The breaker opens at the daemon's first failure.
TEST_F(DeviceCallTest, ADeviceThatFailsIsNoFailureOfTheDaemons) {
  PutAll();
  for (const auto step :
       {FailingScatter::kScatter, FailingScatter::kMark, FailingScatter::kPassed}) {
    const auto get = space_->GetBlocks(Get(std::make_shared<FailingScatter>(step)));
    EXPECT_EQ(get.usable, 0u);
    EXPECT_EQ(get.status.code(), absl::StatusCode::kInternal) << get.status;
    EXPECT_FALSE(client_->health().breaker_open);
  }
  EXPECT_EQ(space_->GetBlocks(Get(Target())).usable, kBlocks);
}

TEST_F(DeviceCallTest, AStuckStreamEndsThePutByItsDeadline) {
  const auto kv = Source();
  kv->set_stuck();
  auto request = Put(kv);
  request.deadline = absl::Milliseconds(200);
  const auto put = space_->PutBlocks(request);
  EXPECT_EQ(put.stored, 0u);
  EXPECT_EQ(put.status.code(), absl::StatusCode::kDeadlineExceeded) << put.status;
  EXPECT_EQ(kv->to_host(), 1u);
  EXPECT_FALSE(client_->health().breaker_open);
  PutAll();
}

// Time that went into gathering was not the daemon's, which then has too little of it left.
TEST_F(DeviceCallTest, ASlowStreamIsNoFailureOfTheDaemons) {
  daemon_.hooks().put = [](grpc::ServerContext* context, FakeDaemon::PutStream* stream) {
    v1::PutRequest message;
    stream->Read(&message);
    v1::PutResponse answers;
    for (int b = 0; b < message.announce().blocks_size(); ++b) {
      answers.mutable_answers()->add_answers()->set_kind(v1::PutResponse::Answer::SEND);
    }
    stream->Write(answers);
    while (!context->IsCancelled() && stream->Read(&message)) {
    }
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    return grpc::Status::CANCELLED;
  };
  const auto kv = std::make_shared<SlowGather>();
  auto request = Put(kv);
  request.deadline = absl::Milliseconds(600);
  const auto put = space_->PutBlocks(request);
  EXPECT_EQ(put.status.code(), absl::StatusCode::kDeadlineExceeded) << put.status;
  EXPECT_FALSE(client_->health().breaker_open);
}

TEST_F(DeviceCallTest, CancelEndsWhatWaitsForTheStream) {
  PutAll();
  const auto target = Target();
  target->set_stuck();
  auto get = space_->StartGet(Get(target));
  get->Cancel();
  EXPECT_EQ(get->Wait().status.code(), absl::StatusCode::kCancelled);
  ASSERT_TRUE(space_->DropAll().ok());
}

// Of planes of a call before: not this one's blocks.
TEST_F(DeviceCallTest, DamageOfAnotherGetIsNotThisOnes) {
  PutAll();
  const auto kv = Target();
  kv->AddDamage({&space_->layout().planes()[0], 99});
  kv->set_forgets(false);  // as a DeviceKv that does not know
  const auto get = space_->GetBlocks(Get(kv));
  EXPECT_EQ(get.usable, kBlocks) << get.status;
}

TEST_F(DeviceCallTest, DamageOfABlockThatWasNotAskedForEndsTheGet) {
  PutAll();
  const auto kv = Target();
  auto request = Get(kv);
  request.on_layer = [&](uint32_t, size_t) { kv->AddDamage({&space_->layout().planes()[0], 99}); };
  const auto get = space_->GetBlocks(request);
  EXPECT_EQ(get.usable, 0u);
  EXPECT_EQ(get.status.code(), absl::StatusCode::kInternal) << get.status;
}

}  // namespace
}  // namespace kvstow
