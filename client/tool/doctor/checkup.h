// What `kvstow doctor` looked at and found, in order.
//
// Not thread-safe.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace kvstow::tool {

struct Finding {
  enum class Level {
    kOk,
    kWarn,     // works, and could work better or may soon not work
    kFail,     // a worker that is set up like this tool gets misses
    kSkipped,  // could not be looked at, or has no meaning here
  };
  Level level = Level::kOk;
  std::string check;   // what was looked at: "socket"
  std::string found;   // one line
  std::string change;  // what to do about it; empty when there is nothing to do
};

// "ok", "warn", "FAIL", "skip".
std::string Name(Finding::Level level);

class Checkup {
 public:
  // `told` hears of each finding when it is made: some checks take their time.
  explicit Checkup(std::function<void(const Finding&)> told = nullptr) : told_(std::move(told)) {}

  void Ok(std::string check, std::string found);
  void Warn(std::string check, std::string found, std::string change);
  void Fail(std::string check, std::string found, std::string change);
  void Skip(std::string check, std::string why);

  const std::vector<Finding>& findings() const { return findings_; }
  size_t count(Finding::Level level) const;

 private:
  void Add(Finding finding);

  const std::function<void(const Finding&)> told_;
  std::vector<Finding> findings_;
};

}  // namespace kvstow::tool
