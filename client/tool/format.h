// Numbers and tables for people.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace kvstow::tool {

std::string Bytes(uint64_t bytes);     // "1.50 GiB"
std::string Count(uint64_t count);     // "12,345"
std::string Error(double nmse);        // "1.23e-02"
std::string Millis(absl::Duration d);  // "1.234 ms"

// Rows of cells in aligned columns: the first to the left, the others to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void Row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  std::string Render() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace kvstow::tool
