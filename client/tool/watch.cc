// kvstow watch: blocks of a space as they come and go.
#include <cstdio>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/outcome.h"
#include "client/tool/json.h"
#include "client/tool/space_command.h"

namespace kvstow::tool {
namespace {

std::string Line(const v1::WatchEvent& e) {
  const std::string key = absl::BytesToHexString(e.key());
  switch (e.kind()) {
    case v1::WatchEvent::WATCHING:
      return "watching";
    case v1::WatchEvent::STORED:
      return absl::StrFormat("stored   %s position %u K centred %.2e V NMSE %.2e", key,
                             e.first_position(), e.k_nmse(), e.v_nmse());
    case v1::WatchEvent::REMOVED:
      return absl::StrFormat("removed  %s position %u: %s", key, e.first_position(), e.reason());
    case v1::WatchEvent::LOST:
      return absl::StrCat("lost ", e.lost(), " events");
    default:
      return "unknown event";
  }
}

class Watch : public SpaceCommand {
 public:
  std::string name() const override { return "watch"; }
  std::string summary() const override { return "print blocks of a space as they come and go"; }
  std::string details() const override {
    return "One line an event, until ctrl-C, --count or --seconds.\n\n"
           "Examples:\n"
           "  kvstow watch --space=space.textproto\n"
           "  kvstow watch --space=space.textproto --json --count=100 | jq .kind\n";
  }

  int Run(const Connection& connection) override {
    auto session = SpaceSession::Open(connection, layout().spec(), layout().shard());
    if (!session.ok()) return Complain(session.status(), connection);
    v1::WatchRequest request;
    request.set_session_id((*session)->session_id());
    request.set_space((*session)->space());
    grpc::ClientContext context;
    if (seconds_ > 0) client::Deadline::In(absl::Seconds(seconds_)).ApplyTo(&context);
    auto stream = (*session)->stub().Watch(&context, request);
    const bool counted_out = PrintEvents(stream.get());
    if (counted_out) context.TryCancel();
    absl::Status end = client::FromGrpc(stream->Finish());
    if (counted_out || (seconds_ > 0 && absl::IsDeadlineExceeded(end))) return kExitOk;
    return Complain(end.ok() ? absl::UnavailableError("the daemon ended the watch") : end,
                    connection);
  }

 protected:
  void AddOwnFlags(FlagSet* flags) override {
    flags->Add("json", &json_, "One JSON object a line, message WatchEvent");
    flags->Add("count", &count_, "Stop after so many events, the first \"watching\" not counted");
    flags->Add("seconds", &seconds_, "Stop after so many seconds");
  }
  bool needs_prompt() const override { return false; }

 private:
  // True when --count was reached.
  bool PrintEvents(grpc::ClientReader<v1::WatchEvent>* stream) {
    v1::WatchEvent event;
    uint64_t seen = 0;
    while (stream->Read(&event)) {
      std::puts((json_ ? Json(event) : Line(event)).c_str());
      std::fflush(stdout);
      if (event.kind() == v1::WatchEvent::WATCHING) continue;
      if (++seen == count_) return true;
    }
    return false;
  }

  bool json_ = false;
  uint64_t count_ = 0;
  double seconds_ = 0;
};

}  // namespace

std::unique_ptr<Command> MakeWatch() { return std::make_unique<Watch>(); }

}  // namespace kvstow::tool
