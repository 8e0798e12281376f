// What commands about one space have in common: they know its layout before they start.
#pragma once

#include <optional>
#include <vector>

#include "client/tool/command.h"
#include "client/tool/prompt_flags.h"
#include "client/tool/space_flags.h"
#include "space/plane_layout.h"

namespace kvstow::tool {

class SpaceCommand : public Command {
 public:
  void AddFlags(FlagSet* flags) override {
    AddOwnFlags(flags);
    prompt_.Add(flags);
    space_.Add(flags);
  }

  absl::Status Check(const FlagSet& flags) override {
    auto spec = space_.Spec({});
    if (!spec.ok()) return spec.status();
    auto shard = space_.MakeShard();
    if (!shard.ok()) return shard.status();
    auto layout = PlaneLayout::Create(*spec, *shard);
    if (!layout.ok()) return layout.status();
    layout_.emplace(*std::move(layout));
    if (prompt_.given() || needs_prompt()) {
      auto keys = prompt_.Keys(*spec);
      if (!keys.ok()) return keys.status();
      keys_ = *std::move(keys);
    }
    return CheckOwn(flags);
  }

 protected:
  virtual void AddOwnFlags(FlagSet* flags) = 0;
  virtual bool needs_prompt() const { return true; }
  virtual absl::Status CheckOwn(const FlagSet&) { return absl::OkStatus(); }

  const PlaneLayout& layout() const { return *layout_; }
  const std::vector<BlockKey>& keys() const { return keys_; }  // empty without a prompt

 private:
  PromptFlags prompt_;
  SpaceFlags space_;
  std::optional<PlaneLayout> layout_;
  std::vector<BlockKey> keys_;
};

// 64 hexadecimal digits.
absl::StatusOr<BlockKey> ParseKey(const std::string& hex);

}  // namespace kvstow::tool
