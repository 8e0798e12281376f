// kvstow: looks into a running kvstowd, and puts and gets KV by hand.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "client/tool/command.h"

namespace kvstow::tool {
namespace {

using Commands = std::vector<std::unique_ptr<Command>>;

constexpr char kExitCodes[] =
    R"(
Exit codes:
  0   done
  1   answered, and the answer is no: not serving, no match, nothing stored, not found
  2   no daemon there, or the call failed
  64  the command line makes no sense
)";

constexpr char kExamples[] =
    R"(
Examples:
  kvstow health                                    is the daemon up?
  kvstow doctor                                    what is wrong between here and the daemon?
  kvstow stats --watch=2                           what does it hold?
  kvstow put --k=K.npy --v=V.npy --tokens=T.npy --model=org/model --write_space=space.textproto
  kvstow lookup --tokens=T.npy --space=space.textproto
  kvstow get --tokens=T.npy --space=space.textproto --out_k=K2.npy --out_v=V2.npy
  kvstow bench --seconds=10 --threads=2

Every command takes --target (default $KVSTOW_TARGET, else unix:/run/kvstow/kvstowd.sock).
`kvstow COMMAND --help` explains a command's flags.
)";

Commands AllCommands() {
  Commands commands;
  commands.push_back(MakeHealth());
  commands.push_back(MakeDoctor());
  commands.push_back(MakeStats());
  commands.push_back(MakePut());
  commands.push_back(MakeLookup());
  commands.push_back(MakeGet());
  commands.push_back(MakeInspect());
  commands.push_back(MakeDrop());
  commands.push_back(MakeWatch());
  commands.push_back(MakeBench());
  return commands;
}

std::string Usage(const Commands& commands) {
  std::string out =
      "kvstow: talks to kvstowd, the store of KV cache outside the inference engine.\n"
      "\nUsage: kvstow COMMAND [--flag=value ...]\n\nCommands:\n";
  for (const auto& command : commands) {
    std::string name = command->name();
    name.resize(10, ' ');
    absl::StrAppend(&out, "  ", name, command->summary(), "\n");
  }
  return absl::StrCat(out, kExamples, kExitCodes);
}

int BadUsage(const std::string& what, const std::string& help) {
  std::fprintf(stderr, "kvstow: %s; see `%s --help`\n", what.c_str(), help.c_str());
  return kExitUsage;
}

int RunCommand(Command* command, const std::vector<std::string>& args) {
  const std::string help_command = absl::StrCat("kvstow ", command->name());
  Connection connection;
  FlagSet flags;
  command->AddFlags(&flags);
  connection.AddFlags(&flags, command->paths());
  absl::Status status = flags.Parse(args);
  if (flags.help_wanted()) {
    std::printf("kvstow %s: %s\n\n%s%s%s", command->name().c_str(), command->summary().c_str(),
                command->details().c_str(), flags.Help().c_str(), kExitCodes);
    return kExitOk;
  }
  if (status.ok()) status = command->Check(flags);
  if (status.ok() && command->wants_sound_connection()) status = connection.Check();
  if (!status.ok()) return BadUsage(std::string(status.message()), help_command);
  return command->Run(connection);
}

int Main(int argc, char** argv) {
  const Commands commands = AllCommands();
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.empty()) {
    std::fputs(Usage(commands).c_str(), stderr);
    return kExitUsage;
  }
  if (args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    std::fputs(Usage(commands).c_str(), stdout);
    return kExitOk;
  }
  for (const auto& command : commands) {
    if (command->name() == args[0]) {
      return RunCommand(command.get(), std::vector<std::string>(args.begin() + 1, args.end()));
    }
  }
  return BadUsage(absl::StrCat("there is no command \"", args[0], "\""), "kvstow");
}

}  // namespace
}  // namespace kvstow::tool

int main(int argc, char** argv) {
#ifdef NDEBUG
  // As kvstowd: Debian's Abseil looks for lock cycles at every lock, in release builds too.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
  return kvstow::tool::Main(argc, argv);
}
