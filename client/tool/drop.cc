// kvstow drop: removes blocks.
#include <cstdio>

#include "client/tool/space_command.h"

namespace kvstow::tool {
namespace {

class Drop : public SpaceCommand {
 public:
  std::string name() const override { return "drop"; }
  std::string summary() const override { return "remove blocks and what follows them"; }
  std::string details() const override {
    return "A block's descendants go with it: without it they cannot be found. Exits with 1 when\n"
           "nothing was there to drop.\n\n"
           "Examples:\n"
           "  kvstow drop --tokens=T.npy --space=space.textproto   the whole prompt\n"
           "  kvstow drop --key=HEX --space=space.textproto\n"
           "  kvstow drop --all --space=space.textproto            everything in the space\n";
  }

  int Run(const Connection& connection) override {
    auto client = connection.MakeClient();
    auto space = client->OpenSpace(layout().spec(), layout().shard());
    if (!space.ok()) return Complain(space.status(), connection);
    auto dropped = all_ ? (*space)->DropAll() : (*space)->Drop(which_);
    if (!dropped.ok()) return Complain(dropped.status(), connection);
    std::printf("%llu blocks dropped\n", static_cast<unsigned long long>(*dropped));
    return *dropped > 0 ? kExitOk : kExitNo;
  }

 protected:
  void AddOwnFlags(FlagSet* flags) override {
    flags->Add("all", &all_, "Drop the whole space");
    flags->Add("key", &hex_, "Drop the block of this key, 64 hexadecimal digits");
  }
  bool needs_prompt() const override { return false; }
  absl::Status CheckOwn(const FlagSet&) override {
    if (all_ + !hex_.empty() + !keys().empty() != 1) {
      return absl::InvalidArgumentError("give one of --tokens, --key and --all");
    }
    which_ = keys();
    if (hex_.empty()) return absl::OkStatus();
    auto key = ParseKey(hex_);
    if (key.ok()) which_ = {*key};
    return key.status();
  }

 private:
  bool all_ = false;
  std::string hex_;
  std::vector<BlockKey> which_;
};

}  // namespace

std::unique_ptr<Command> MakeDrop() { return std::make_unique<Drop>(); }

}  // namespace kvstow::tool
