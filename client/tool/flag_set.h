// Command-line flags of one command: --name=value or --name value, --name for booleans. Flags are
// declared next to the variables that they fill, and --help is made from the declarations.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvstow::tool {

class FlagSet {
 public:
  // Starts a group in --help; flags that follow belong to it.
  void Group(absl::string_view title);

  // What `value` holds when declared is the default that --help shows.
  void Add(absl::string_view name, std::string* value, absl::string_view help);
  void Add(absl::string_view name, bool* value, absl::string_view help);
  void Add(absl::string_view name, uint32_t* value, absl::string_view help);
  void Add(absl::string_view name, std::optional<uint32_t>* value, absl::string_view help);
  void Add(absl::string_view name, uint64_t* value, absl::string_view help);
  void Add(absl::string_view name, double* value, absl::string_view help);
  void Add(absl::string_view name, absl::Duration* value, absl::string_view help);
  // One of `choices`.
  void Add(absl::string_view name, std::string* value, std::vector<std::string> choices,
           absl::string_view help);

  // INVALID_ARGUMENT, written for people, for what is no flag or has no such value.
  absl::Status Parse(const std::vector<std::string>& args);
  bool help_wanted() const { return help_wanted_; }
  // Whether the command line named it.
  bool given(absl::string_view name) const;

  std::string Help() const;

 private:
  struct Flag {
    std::string name;
    std::string shown_value;  // after the name in --help; empty for a boolean
    std::string help;
    std::string group;
    std::function<bool(const std::string&)> set;
    bool is_bool = false;
    bool given = false;
  };

  void Declare(absl::string_view name, absl::string_view shown, absl::string_view help,
               absl::string_view default_value, std::function<bool(const std::string&)> set);
  absl::Status Set(const std::string& name, const std::string* value, const std::string* next,
                   bool* took_next);
  Flag* Find(absl::string_view name);

  std::vector<Flag> flags_;
  std::string group_ = "Flags";
  bool help_wanted_ = false;
};

}  // namespace kvstow::tool
