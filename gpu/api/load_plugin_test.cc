#include "gpu/api/load_plugin.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvstow::gpu {
namespace {

using ::testing::HasSubstr;

void ExpectUnavailable(const std::string& path, const std::string& why) {
  const auto device = OpenDevice(path, 0);
  ASSERT_FALSE(device.ok());
  EXPECT_EQ(device.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(device.status().message()), HasSubstr(why));
}

TEST(LoadPluginTest, SaysThatThereIsNone) {
  ExpectUnavailable("/nonexistent/libkvstow_gpu.so", "cannot load the GPU plugin");
}

TEST(LoadPluginTest, RefusesALibraryThatIsNoPlugin) {
  ExpectUnavailable("libc.so.6", "libc.so.6 is no kvstow GPU plugin");
}

TEST(LoadPluginTest, RefusesAnotherVersion) {
  ExpectUnavailable(FOREIGN_PLUGIN, "is of version 0.0.0-foreign");
}

}  // namespace
}  // namespace kvstow::gpu
