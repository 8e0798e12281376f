// kvstow health: the standard gRPC health check.
#include <cstdio>

#include "client/tool/command.h"
#include "client/tool/health_call.h"

namespace kvstow::tool {
namespace {

class Health : public Command {
 public:
  std::string name() const override { return "health"; }
  std::string summary() const override { return "whether the daemon is serving"; }
  std::string details() const override {
    return "Prints one line. For probes and scripts:\n"
           "  until kvstow health --deadline=1s; do sleep 1; done\n"
           "When the answer is no, `kvstow doctor` says why.\n";
  }
  void AddFlags(FlagSet* flags) override {
    flags->Add("service", &service_, "Ask for one gRPC service, kvstow.v1.Kvstow say");
  }
  absl::Status Check(const FlagSet&) override {
    return service_.size() <= kLongestHealthService
               ? absl::OkStatus()
               : absl::InvalidArgumentError("--service is too long");
  }

  int Run(const Connection& connection) override {
    const absl::StatusOr<bool> serving = AskHealth(connection, service_);
    if (absl::IsNotFound(serving.status())) {
      std::printf("unknown service %s at %s\n", service_.c_str(), connection.target.c_str());
      return kExitNo;
    }
    if (!serving.ok()) return Complain(serving.status(), connection);
    std::printf("%s: %s\n", connection.target.c_str(), *serving ? "serving" : "not serving");
    return *serving ? kExitOk : kExitNo;
  }

 private:
  std::string service_;
};

}  // namespace

std::unique_ptr<Command> MakeHealth() { return std::make_unique<Health>(); }

}  // namespace kvstow::tool
