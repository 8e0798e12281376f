#include "server/tiers/device_read_lanes.h"

#include <algorithm>
#include <vector>

#include "gmock/gmock.h"
#include "gpu/api/testing/fake_device.h"
#include "gtest/gtest.h"
#include "server/core/testing/step_executor.h"

namespace kvstow {
namespace {

using ::testing::Each;

// Remembers where its copies went.
class CopyingDevice final : public gpu::FakeDevice {
 public:
  absl::Status CopyAll(std::span<const gpu::Copy> copies) override {
    last.assign(copies.begin(), copies.end());
    return gpu::FakeDevice::CopyAll(copies);
  }
  std::vector<gpu::Copy> last;
};

TEST(DeviceReadLanes, FetchesThroughMemoryThatItOverwrites) {
  CopyingDevice device;
  StepExecutor executor;
  DeviceReadLanes lanes(&device, &executor, 4);
  const std::vector<std::byte> a(1008, std::byte{1}), b(3008, std::byte{2});
  std::vector<std::byte> to_a(1000), to_b(3000);
  const DeviceReads::Fetched pieces[] = {{to_a.data(), a.data(), to_a.size()},
                                         {to_b.data(), b.data(), to_b.size()}};
  ASSERT_TRUE(lanes.Fetch(pieces).ok());
  EXPECT_THAT(to_a, Each(std::byte{1}));
  EXPECT_THAT(to_b, Each(std::byte{2}));
  ASSERT_EQ(device.last.size(), 2u);
  for (const gpu::Copy& copy : device.last) {
    EXPECT_NE(copy.to, to_a.data()) << "it comes through pinned memory";
    EXPECT_THAT(std::span(copy.to, copy.bytes), Each(std::byte{0}));
  }
}

}  // namespace
}  // namespace kvstow
