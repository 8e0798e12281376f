#include "gpu/api/load_plugin.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gpu/api/check_plugin.h"
#include "gpu/api/device.h"
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

// A struct that has another field would be read wrongly, though the release is the same.
TEST(LoadPluginTest, RefusesAPluginBuiltWithOtherHeaders) {
  ExpectUnavailable(FOREIGN_PLUGIN,
                    absl::StrCat("is of version ", FOREIGN_VERSION, ", this program of ",
                                 KVSTOW_PLUGIN_VERSION, ": install both from one build"));
}

// Workers link it; this test is linked with that plugin.
TEST(LoadPluginTest, RefusesALinkedPluginBuiltWithOtherHeaders) {
  const absl::Status checked = CheckPlugin("libkvstow_gpu.so", kvstow_gpu_plugin);
  EXPECT_TRUE(absl::IsUnavailable(checked)) << checked;
  EXPECT_THAT(std::string(checked.message()),
              HasSubstr("libkvstow_gpu.so is of version " FOREIGN_VERSION));
}

}  // namespace
}  // namespace kvstow::gpu
