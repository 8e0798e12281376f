// Holds the arrows between folders (docs/architecture.md): reads every source's includes and
// refuses those that point the wrong way.
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace kvstow {
namespace {

namespace fs = std::filesystem;

struct Rule {
  std::string folder;
  std::set<std::string> may_include;      // folders of this repository
  std::set<std::string> forbidden_words;  // prefixes of other includes
};

const std::set<std::string> kSources = {".h", ".cc", ".inc", ".cu", ".cuh"};

const std::set<std::string> kTransport = {
    "grpc", "google/protobuf", "kvstow/v1", "prometheus", "spdlog", "cuda", "httplib"};

const std::vector<Rule>& Rules() {
  static const auto* const rules = new std::vector<Rule>{
      {"space", {"space"}, kTransport},
      {"codec", {"space", "codec"}, kTransport},
      {"npy", {"npy"}, kTransport},
      {"server/core", {"space", "codec", "staging/slot_ring.h", "server/core"}, kTransport},
      {"staging", {"staging"}, kTransport},
      {"server/auth", {"server/core", "server/auth"}, kTransport},
      {"server/staging",
       {"staging", "gpu/api", "server/core", "server/auth", "server/staging"},
       kTransport},
      {"gpu/api", {"space", "codec", "gpu/api"}, kTransport},
      {"gpu",
       {"space", "codec", "gpu"},
       {"grpc", "google/protobuf", "kvstow/v1", "prometheus", "spdlog", "httplib"}},
      {"server/tiers", {"space", "codec", "gpu/api", "server/core", "server/tiers"}, kTransport},
      {"server/events",
       {"space", "staging/shared_region.h", "server/core", "server/events"},
       kTransport},
      {"server/rpc",
       {"space", "codec", "staging/slot_ring.h", "server/core", "server/auth", "server/rpc"},
       {"prometheus", "spdlog", "cuda"}},
      {"server/obs",
       {"space", "codec", "server/core", "server/obs"},
       {"grpc", "kvstow/v1", "cuda"}},
      {"server/app",
       {"space", "codec", "gpu/api", "server/core", "server/tiers", "server/rpc", "server/obs",
        "server/auth", "server/events", "server/staging", "server/app"},
       {"cuda"}},
      {"client/coding", {"space", "codec", "client/kvstow", "client/coding"}, kTransport},
      {"client_cuda",
       {"space", "gpu", "client", "client_cuda"},
       {"grpc", "google/protobuf", "kvstow/v1", "prometheus", "spdlog", "httplib"}},
      {"client/tool",
       {"space", "staging", "client", "npy", "gpu/api"},
       {"prometheus", "spdlog", "cuda"}},
      {"client", {"space", "staging", "client", "npy"}, {"prometheus", "spdlog", "cuda", "Python"}},
  };
  return *rules;
}

// Tests, benchmarks and doubles may look wherever they need to.
bool IsTestCode(const std::string& path) {
  return path.find("_test") != std::string::npos || path.find("_benchmark") != std::string::npos ||
         path.find("_fuzz") != std::string::npos || path.find("/testing/") != std::string::npos ||
         path.find("conformance") != std::string::npos;
}

std::vector<std::string> IncludesOf(const fs::path& file) {
  static const std::regex include("^\\s*#\\s*include\\s*[<\"]([^>\"]+)[>\"].*");
  std::vector<std::string> includes;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    std::smatch match;
    if (std::regex_match(line, match, include)) includes.push_back(match[1]);
  }
  return includes;
}

bool IsUnder(const std::string& path, const std::string& folder) {
  return path.rfind(folder + "/", 0) == 0;
}

std::string Offence(const Rule& rule, const std::string& include) {
  static const std::set<std::string> ours = {"space", "codec",   "npy",   "server", "client",
                                             "gpu",   "staging", "tests", "demo",   "client_cuda"};
  for (const std::string& word : rule.forbidden_words) {
    if (include.rfind(word, 0) == 0) return "is a library this folder must not know";
  }
  if (!ours.contains(include.substr(0, include.find('/')))) return "";
  for (const std::string& folder : rule.may_include) {
    if (include == folder || IsUnder(include, folder)) return "";
  }
  return "is a folder this one must not know";
}

// Whether a folder within the rule's has a rule of its own for this file.
bool IsRuledElsewhere(const Rule& rule, const std::string& path) {
  for (const Rule& other : Rules()) {
    if (IsUnder(other.folder, rule.folder) && IsUnder(path, other.folder)) return true;
  }
  return false;
}

TEST(ArrowsTest, IncludesGoOneWay) {
  const fs::path root = KVSTOW_SOURCE_DIR;
  size_t files = 0;
  for (const Rule& rule : Rules()) {
    ASSERT_TRUE(fs::exists(root / rule.folder)) << rule.folder;
    for (const auto& entry : fs::recursive_directory_iterator(root / rule.folder)) {
      const std::string extension = entry.path().extension();
      if (!kSources.contains(extension)) continue;
      const std::string path = fs::relative(entry.path(), root);
      if (IsTestCode(path) || IsRuledElsewhere(rule, path)) continue;
      ++files;
      for (const std::string& include : IncludesOf(entry.path())) {
        const std::string offence = Offence(rule, include);
        EXPECT_TRUE(offence.empty()) << path << " includes " << include << ", which " << offence;
      }
    }
  }
  EXPECT_GT(files, 50u) << "the test looked in the wrong place";
}

TEST(ArrowsTest, TheCheckCanFail) {
  const Rule core = Rules()[3];
  ASSERT_EQ(core.folder, "server/core");
  EXPECT_FALSE(Offence(core, "grpcpp/grpcpp.h").empty());
  EXPECT_FALSE(Offence(core, "server/rpc/convert.h").empty());
  EXPECT_FALSE(Offence(core, "client/kvstow/client.h").empty());
  EXPECT_TRUE(Offence(core, "codec/codec.h").empty());
  EXPECT_TRUE(Offence(core, "absl/time/time.h").empty());
  const Rule client = Rules().back();
  ASSERT_EQ(client.folder, "client");
  EXPECT_FALSE(Offence(client, "codec/codec.h").empty());
  EXPECT_TRUE(IsRuledElsewhere(client, "client/coding/cpu_coder.cc"));
  EXPECT_FALSE(IsRuledElsewhere(client, "client/client.cc"));
}

void AddReached(const std::string& path, std::set<std::string>* reached) {
  if (!reached->insert(path).second) return;
  const fs::path root = KVSTOW_SOURCE_DIR;
  for (const std::string& include : IncludesOf(root / path)) {
    if (fs::exists(root / include)) AddReached(include, reached);
  }
}

// The version of the GPU plugin is a digest of the headers in these folders, subfolders not
// (gpu/api/CMakeLists.txt).
TEST(ArrowsTest, ThePluginsInterfaceIsInItsVersion) {
  std::set<std::string> reached;
  AddReached("gpu/api/device.h", &reached);
  EXPECT_GT(reached.size(), 5u) << "the test looked in the wrong place";
  for (const std::string& path : reached) {
    const std::string folder = fs::path(path).parent_path();
    EXPECT_TRUE(folder == "space" || folder == "codec" || folder == "gpu/api") << path;
  }
}

// Only server/rpc may know gRPC among the server's folders.
TEST(ArrowsTest, OnlyRpcIncludesGrpc) {
  const fs::path root = KVSTOW_SOURCE_DIR;
  for (const auto& entry : fs::recursive_directory_iterator(root / "server")) {
    const std::string path = fs::relative(entry.path(), root);
    if (!entry.is_regular_file() || IsUnder(path, "server/rpc") || IsTestCode(path)) continue;
    for (const std::string& include : IncludesOf(entry.path())) {
      EXPECT_NE(include.rfind("grpc", 0), 0u) << path << " includes " << include;
    }
  }
}

}  // namespace
}  // namespace kvstow
