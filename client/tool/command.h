// A subcommand of the tool.
#pragma once

#include <string>
#include <vector>

#include "client/tool/connection.h"
#include "client/tool/exit_code.h"
#include "client/tool/flag_set.h"

namespace kvstow::tool {

class Command {
 public:
  virtual ~Command() = default;

  virtual std::string name() const = 0;
  virtual std::string summary() const = 0;  // one line
  virtual std::string details() const = 0;  // for --help, examples included
  virtual void AddFlags(FlagSet* flags) = 0;
  // What its --path may name.
  virtual std::vector<std::string> paths() const { return {"auto", "grpc", "shm"}; }
  // INVALID_ARGUMENT for combinations of flags that make no sense. Called before Run().
  virtual absl::Status Check(const FlagSet&) { return absl::OkStatus(); }
  // False for a command that is to run with a connection whose Check() fails.
  virtual bool wants_sound_connection() const { return true; }
  // An exit code.
  virtual int Run(const Connection& connection) = 0;
};

std::unique_ptr<Command> MakeHealth();
std::unique_ptr<Command> MakeDoctor();
std::unique_ptr<Command> MakeStats();
std::unique_ptr<Command> MakePut();
std::unique_ptr<Command> MakeLookup();
std::unique_ptr<Command> MakeGet();
std::unique_ptr<Command> MakeInspect();
std::unique_ptr<Command> MakeDrop();
std::unique_ptr<Command> MakeWatch();
std::unique_ptr<Command> MakeBench();

}  // namespace kvstow::tool
