#include "server/obs/slow_call_log.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace kvstow {
namespace {

// As long as their worker lives, or somebody watches.
bool LastsByDesign(absl::string_view method) { return method == "Session" || method == "Watch"; }

void AppendMillis(absl::string_view what, absl::Duration time, std::string& line) {
  absl::StrAppendFormat(&line, " %s_ms=%.1f", what, absl::ToDoubleMilliseconds(time));
}

}  // namespace

void SlowCallLog::OnCall(const CallRecord& call) {
  next_.OnCall(call);
  if (call.took < options_.threshold || LastsByDesign(call.method)) return;
  uint64_t left_out = 0;
  if (!MayWrite(left_out)) return;
  std::string line = LineOf(call);
  if (left_out > 0) absl::StrAppend(&line, " lines_left_out=", left_out);
  write_(line);
}

bool SlowCallLog::MayWrite(uint64_t& left_out) {
  const absl::Time now = clock_.Now();
  absl::MutexLock lock(&mu_);
  if (now - second_began_ >= absl::Seconds(1)) {
    second_began_ = now;
    lines_ = 0;
  }
  if (lines_ == kLinesASecond) {
    ++left_out_;
    return false;
  }
  ++lines_;
  left_out = std::exchange(left_out_, 0);
  return true;
}

// Names from the configuration and numbers: nothing that a client chose.
std::string SlowCallLog::LineOf(const CallRecord& call) const {
  std::string line = absl::StrCat("slow call method=", call.method, " path=", call.path);
  const size_t tenant = call.tenant ? static_cast<size_t>(*call.tenant) : options_.tenants.size();
  absl::StrAppend(&line,
                  " tenant=", tenant < options_.tenants.size() ? options_.tenants[tenant] : "none",
                  " code=", absl::StatusCodeToString(call.code));
  AppendMillis("took", call.took, line);
  if (call.phases) {
    for (CallPhase phase : kAllCallPhases) {
      AppendMillis(Name(phase), (*call.phases)[static_cast<size_t>(phase)], line);
    }
  }
  if (call.bytes > 0) absl::StrAppend(&line, " bytes=", call.bytes);
  return line;
}

}  // namespace kvstow
