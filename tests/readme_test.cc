// The README's example is the one that is compiled (client/consumer_test builds it against the
// installed package), and the files that it points to are there.
#include <filesystem>
#include <regex>
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

TEST(ReadmeTest, LinksLeadSomewhere) {
  // A text in brackets, which a lambda of the example has not.
  static const std::regex link("\\[[^\\]\n]+\\]\\(([^)#:]+)\\)");
  size_t links = 0;
  for (const char* page : {"README.md", "docs/architecture.md", "docs/benchmarks.md",
                           "docs/decisions.md", "docs/format.md", "docs/keys.md"}) {
    const std::string text = ReadFile(kRoot / page);
    ASSERT_FALSE(text.empty()) << page;
    for (std::sregex_iterator it(text.begin(), text.end(), link), end; it != end; ++it) {
      const auto target = (kRoot / page).parent_path() / (*it)[1].str();
      EXPECT_TRUE(std::filesystem::exists(target)) << page << " links to " << (*it)[1];
      ++links;
    }
  }
  EXPECT_GT(links, 5u);
}

}  // namespace
}  // namespace kvstow::testing
