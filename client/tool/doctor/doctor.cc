// kvstow doctor: what stands between this container and its daemon, and what to change.
#include <google/protobuf/struct.pb.h>
#include <signal.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/kvstow/kvstow.h"
#include "client/tool/command.h"
#include "client/tool/doctor/checkup.h"
#include "client/tool/doctor/daemon.h"
#include "client/tool/doctor/device_memory.h"
#include "client/tool/doctor/machine.h"
#include "client/tool/doctor/reach.h"
#include "client/tool/doctor/tls.h"
#include "client/tool/json.h"

namespace kvstow::tool {
namespace {

using Level = Finding::Level;

void PrintLine(const Finding& finding) {
  std::string line =
      absl::StrFormat("%-4s  %-13s  %s", Name(finding.level), finding.check, finding.found);
  if (!finding.change.empty()) absl::StrAppend(&line, " -> ", finding.change);
  std::puts(line.c_str());
  std::fflush(stdout);
}

std::string AsJson(const Connection& connection, const Checkup& checkup) {
  google::protobuf::Struct out;
  auto& fields = *out.mutable_fields();
  fields["target"].set_string_value(connection.target);
  fields["version"].set_string_value(kvstow_version());
  fields["failed"].set_number_value(static_cast<double>(checkup.count(Level::kFail)));
  fields["warnings"].set_number_value(static_cast<double>(checkup.count(Level::kWarn)));
  auto* const checks = fields["checks"].mutable_list_value();
  for (const Finding& finding : checkup.findings()) {
    auto& each = *checks->add_values()->mutable_struct_value()->mutable_fields();
    each["check"].set_string_value(finding.check);
    each["result"].set_string_value(Name(finding.level));
    each["found"].set_string_value(finding.found);
    each["change"].set_string_value(finding.change);
  }
  return Json(out);
}

class Doctor : public Command {
 public:
  std::string name() const override { return "doctor"; }
  std::string summary() const override { return "what is wrong between here and the daemon"; }
  std::string details() const override {
    return "Run it where the worker runs, as the worker's user: it goes the worker's way, step by "
           "step, from\n"
           "the socket's folder to a block that is put and got on every data path, and says what "
           "to change\n"
           "where something stands in the way. One line a check: ok, warn (works, could be "
           "better), FAIL (a\n"
           "worker gets misses), skip (not looked at, with the reason). It stores a block of "
           "its own, and\n"
           "drops it.\n\n"
           "Exits with 0 when nothing failed, with 1 when something did, with 2 when no daemon "
           "was reached.\n\n"
           "Examples:\n"
           "  kvstow doctor --deadline=5s\n"
           "  kubectl -n kvstow exec deploy/worker -c worker -- kvstow doctor\n"
           "  kvstow doctor --json | jq '.checks[] | select(.result == \"FAIL\")'\n";
  }
  void AddFlags(FlagSet* flags) override {
    flags->Add("json", &json_, "One JSON object: target, version, failed, warnings, checks");
    flags->Add("gpu_plugin", &gpu_plugin_,
               "Path of libkvstow_gpu.so, where it is not where kvstowd finds it");
  }
  // What cannot work is what it is asked for.
  bool wants_sound_connection() const override { return false; }

  int Run(const Connection& connection) override {
    signal(SIGPIPE, SIG_IGN);  // of connections that TLS writes to
    Checkup checkup(json_ ? nullptr : PrintLine);
    const bool reached = Examine(connection, &checkup);
    if (json_) {
      std::puts(AsJson(connection, checkup).c_str());
    } else {
      std::printf("%zu checks, %zu failed, %zu warnings\n", checkup.findings().size(),
                  checkup.count(Level::kFail), checkup.count(Level::kWarn));
    }
    if (!reached) return kExitFailed;
    return checkup.count(Level::kFail) == 0 ? kExitOk : kExitNo;
  }

 private:
  // Whether a daemon was reached.
  bool Examine(const Connection& connection, Checkup* checkup) const {
    const auto address = ParseTarget(connection.target);
    if (!address.ok()) {
      checkup->Fail("target", std::string(address.status().message()),
                    "--target or $KVSTOW_TARGET: unix:PATH or HOST:PORT");
      return false;
    }
    CheckSecurityFiles(connection, *address, absl::Now(), checkup);
    const Reached reached = CheckReach(*address, connection.deadline, checkup);
    DaemonNeeds daemon;
    if (reached.connection) {
      if (!address->local()) CheckHandshake(connection, *address, checkup);
      const bool serving = CheckHealth(connection, checkup);
      if (serving && CheckSession(connection, checkup)) {
        daemon = CheckStore(connection, checkup);
        CheckPaths(connection, address->local(), checkup);
        if (address->local()) CheckDeviceMemory(connection, gpu_plugin_, checkup);
      }
      daemon.reached = serving;
    }
    daemon.process = reached.daemon;
    CheckMemory(daemon, checkup);
    CheckSharing(checkup);
    CheckGpu(daemon, address->local(), checkup);
    return daemon.reached;
  }

  bool json_ = false;
  std::string gpu_plugin_;
};

}  // namespace

std::unique_ptr<Command> MakeDoctor() { return std::make_unique<Doctor>(); }

}  // namespace kvstow::tool
