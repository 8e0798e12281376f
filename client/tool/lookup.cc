// kvstow lookup: how much of a prompt is stored.
#include <chrono>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "client/tool/space_command.h"

namespace kvstow::tool {
namespace {

class Lookup : public SpaceCommand {
 public:
  std::string name() const override { return "lookup"; }
  std::string summary() const override { return "how much of a prompt is stored"; }
  std::string details() const override {
    return "Exits with 1 when nothing matches. Only looks, unless --ttl asks for a lease.\n\n"
           "Example:\n"
           "  kvstow lookup --tokens=T.npy --space=space.textproto\n";
  }

  int Run(const Connection& connection) override {
    auto client = connection.MakeClient(prefill_rate_);
    auto space = client->OpenSpace(layout().spec(), layout().shard());
    if (!space.ok()) return Complain(space.status(), connection);
    LookupOptions options;
    options.ttl = ttl_;
    const auto start = std::chrono::steady_clock::now();
    const Match match = (*space)->Lookup(keys(), options);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    if (!match.status.ok()) return Complain(match.status, connection);
    std::printf("%zu of %zu blocks, %zu tokens, in %.3f ms\n", match.blocks, keys().size(),
                match.tokens, took.count());
    for (size_t b = 0; show_keys_ && b < keys().size(); ++b) {
      std::printf("%zu %s %s\n", b, Hex(keys()[b]).c_str(), b < match.blocks ? "stored" : "-");
    }
    return match.blocks > 0 ? kExitOk : kExitNo;
  }

 protected:
  void AddOwnFlags(FlagSet* flags) override {
    flags->Add("ttl", &ttl_, "Lease the matched blocks for so long");
    flags->Add("prefill_rate", &prefill_rate_,
               "With --ttl: count what was matched as prefill saved, at so many tokens a second");
    flags->Add("keys", &show_keys_, "Print the key of each block");
  }

 private:
  absl::Duration ttl_;
  double prefill_rate_ = 0;
  bool show_keys_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeLookup() { return std::make_unique<Lookup>(); }

}  // namespace kvstow::tool
