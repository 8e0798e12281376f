// Flags that say which prompt a command is about.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/tool/flag_set.h"
#include "space/fingerprint.h"
#include "space/space_spec.h"

namespace kvstow::tool {

class PromptFlags {
 public:
  void Add(FlagSet* flags);

  bool given() const { return !tokens_.empty(); }
  // INVALID_ARGUMENT, written for people.
  absl::StatusOr<std::vector<uint32_t>> Tokens() const;
  // Of the prompt's whole blocks.
  absl::StatusOr<std::vector<BlockKey>> Keys(const SpaceSpec& spec) const;

 private:
  std::string tokens_;
  PromptContext context_;
};

}  // namespace kvstow::tool
