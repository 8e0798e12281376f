#include "server/tiers/device_mover.h"

#include "gmock/gmock.h"
#include "gpu/api/testing/fake_device.h"
#include "server/core/testing/record_mover_conformance.h"
#include "server/core/testing/step_executor.h"
#include "server/tiers/gpu_tier.h"
#include "server/tiers/host_tier.h"

namespace kvstow {
namespace {

struct DeviceWorld final : MoverWorld {
  Tier& first() override { return *gpu; }
  Tier& second() override { return *host; }
  RecordMover& mover() override { return device_mover; }
  void Finish() override { executor.RunAll(); }

  gpu::FakeDevice device;
  StepExecutor executor;
  std::unique_ptr<Tier> gpu = *GpuTier::Create(&device, 2 << 20);
  std::unique_ptr<Tier> host = *HostTier::Create(2 << 20);
  DeviceMover device_mover{&device, &executor};
};

INSTANTIATE_TEST_SUITE_P(Device, RecordMoverConformance,
                         testing::Values(MoverFactory{
                             "device", [] { return std::make_unique<DeviceWorld>(); }}));

TEST(DeviceMover, CopiesBetweenPiecesCutAtDifferentPlaces) {
  DeviceWorld world;
  // Every second page is taken, so that the record lies in single pages on the device.
  std::vector<Allocation> pages;
  for (auto a = world.first().Allocate(1); a.ok(); a = world.first().Allocate(1)) {
    pages.push_back(*a);
  }
  for (size_t i = 0; i < pages.size(); i += 2) world.first().Free(pages[i]);
  constexpr uint64_t kBytes = 50'000;
  RecordMove move{&world.second(), *world.second().Allocate(kBytes), &world.first(),
                  *world.first().Allocate(kBytes), kBytes};
  ASSERT_GT(move.to.size(), 10u);
  std::vector<std::byte> bytes(kBytes), arrived(kBytes);
  for (size_t i = 0; i < kBytes; ++i) bytes[i] = static_cast<std::byte>(i * 31 >> 3);
  EXPECT_TRUE(world.second().Write(move.from, 0, bytes).ok());
  world.mover().Move({move}, [](std::span<const absl::Status> results) {
    EXPECT_THAT(results, testing::ElementsAre(absl::OkStatus()));
  });
  world.Finish();
  EXPECT_TRUE(world.first().Read(move.to, 0, arrived).ok());
  EXPECT_EQ(arrived, bytes);
}

TEST(DeviceMover, LeavesTheHeadOnTheHost) {
  DeviceWorld world;
  constexpr uint64_t kBytes = 10'000;
  const RecordMove up{&world.second(), *world.second().Allocate(kBytes), &world.first(),
                      *world.first().Allocate(kBytes), kBytes};
  const std::vector<std::byte> bytes(kBytes, std::byte{5});
  EXPECT_TRUE(world.second().Write(up.from, 0, bytes).ok());
  world.mover().Move({up}, [](std::span<const absl::Status>) {});
  EXPECT_THAT(world.first().Head(up.to, 100), testing::IsEmpty()) << "before it is there";
  world.Finish();
  EXPECT_THAT(world.first().Head(up.to, 100),
              testing::ElementsAreArray(std::span(bytes).first(100)));
  const RecordMove down{&world.first(), up.to, &world.second(), *world.second().Allocate(kBytes),
                        kBytes};
  world.mover().Move({down}, [](std::span<const absl::Status>) {});
  world.Finish();
  EXPECT_EQ(world.second().View(down.to, 0, 1)[0], std::byte{5});
}

TEST(DeviceMover, SaysWhenTheDeviceFailed) {
  DeviceWorld world;
  const RecordMove move{&world.first(), *world.first().Allocate(100), &world.second(),
                        *world.second().Allocate(100), 100};
  world.device.Lose();
  std::vector<absl::StatusCode> codes;
  world.mover().Move({move, move}, [&](std::span<const absl::Status> results) {
    for (const absl::Status& s : results) codes.push_back(s.code());
  });
  world.Finish();
  EXPECT_THAT(codes,
              testing::ElementsAre(absl::StatusCode::kInternal, absl::StatusCode::kInternal));
}

}  // namespace
}  // namespace kvstow
