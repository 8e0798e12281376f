// The README's example is the one that is compiled (client/consumer_test builds it against the
// installed package), and the files that it points to are there.
#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/process.h"

namespace kvstow::testing {
namespace {

const std::filesystem::path kRoot = KVSTOW_SOURCE_DIR;

TEST(ReadmeTest, ShowsTheExampleThatIsCompiled) {
  std::string example = ReadFile(kRoot / "client/example/worker.cc");
  ASSERT_FALSE(example.empty());
  while (example.back() == '\n') example.pop_back();
  EXPECT_THAT(ReadFile(kRoot / "README.md"), ::testing::HasSubstr(example))
      << "copy client/example/worker.cc into README.md";
}

}  // namespace
}  // namespace kvstow::testing
