#include "client/tool/doctor/checkup.h"

#include <algorithm>

namespace kvstow::tool {

std::string Name(Finding::Level level) {
  switch (level) {
    case Finding::Level::kOk:
      return "ok";
    case Finding::Level::kWarn:
      return "warn";
    case Finding::Level::kFail:
      return "FAIL";
    case Finding::Level::kSkipped:
      return "skip";
  }
  return "?";
}

void Checkup::Add(Finding finding) {
  // One line each, whatever a status carries.
  std::replace(finding.found.begin(), finding.found.end(), '\n', ' ');
  findings_.push_back(std::move(finding));
  if (told_) told_(findings_.back());
}

void Checkup::Ok(std::string check, std::string found) {
  Add({Finding::Level::kOk, std::move(check), std::move(found), ""});
}

void Checkup::Warn(std::string check, std::string found, std::string change) {
  Add({Finding::Level::kWarn, std::move(check), std::move(found), std::move(change)});
}

void Checkup::Fail(std::string check, std::string found, std::string change) {
  Add({Finding::Level::kFail, std::move(check), std::move(found), std::move(change)});
}

void Checkup::Skip(std::string check, std::string why) {
  Add({Finding::Level::kSkipped, std::move(check), std::move(why), ""});
}

size_t Checkup::count(Finding::Level level) const {
  return static_cast<size_t>(std::count_if(findings_.begin(), findings_.end(),
                                           [level](const Finding& f) { return f.level == level; }));
}

}  // namespace kvstow::tool
