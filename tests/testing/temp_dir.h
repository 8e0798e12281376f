// A folder of its own for each test, gone with it: tests run beside each other, and beside those of
// another checkout.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

namespace kvstow::testing {

class TempDir {
 public:
  TempDir() {
    char name[] = "/tmp/kvstow-test-XXXXXX";  // short: a socket's path has 107 bytes
    path_ = mkdtemp(name);
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace kvstow::testing
