#include "client/tool/flag_set.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvstow::tool {
namespace {

// Columns of --help.
constexpr size_t kNameWidth = 34;
constexpr size_t kLineWidth = 100;

bool ParseDuration(const std::string& text, absl::Duration* value) {
  double seconds;
  if (absl::SimpleAtod(text, &seconds)) {  // a bare number is seconds
    *value = absl::Seconds(seconds);
    return seconds >= 0;
  }
  return absl::ParseDuration(text, value) && *value >= absl::ZeroDuration();
}

// `text` broken at spaces, lines after the first indented.
std::string Wrap(const std::string& text) {
  std::string out;
  size_t column = kNameWidth;
  for (size_t at = 0; at < text.size();) {
    size_t end = text.find(' ', at);
    if (end == std::string::npos) end = text.size();
    if (column + (end - at) > kLineWidth && column > kNameWidth) {
      absl::StrAppend(&out, "\n", std::string(kNameWidth, ' '));
      column = kNameWidth;
    }
    absl::StrAppend(&out, text.substr(at, end - at), " ");
    column += end - at + 1;
    at = end + 1;
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

}  // namespace

void FlagSet::Group(absl::string_view title) { group_ = std::string(title); }

void FlagSet::Declare(absl::string_view name, absl::string_view shown, absl::string_view help,
                      absl::string_view default_value,
                      std::function<bool(const std::string&)> set) {
  Flag flag;
  flag.name = std::string(name);
  flag.shown_value = std::string(shown);
  flag.help = std::string(help);
  if (!default_value.empty()) absl::StrAppend(&flag.help, " (default ", default_value, ")");
  flag.group = group_;
  flag.set = std::move(set);
  flags_.push_back(std::move(flag));
}

void FlagSet::Add(absl::string_view name, std::string* value, absl::string_view help) {
  Declare(name, "S", help, *value, [value](const std::string& text) {
    *value = text;
    return true;
  });
}

void FlagSet::Add(absl::string_view name, std::string* value, std::vector<std::string> choices,
                  absl::string_view help) {
  const std::string shown = absl::StrJoin(choices, "|");
  Declare(name, shown, help, *value,
          [value, choices = std::move(choices)](const std::string& text) {
            *value = text;
            return std::find(choices.begin(), choices.end(), text) != choices.end();
          });
}

void FlagSet::Add(absl::string_view name, bool* value, absl::string_view help) {
  Declare(name, "", help, "", [value](const std::string& text) {
    return text.empty() ? (*value = true) : absl::SimpleAtob(text, value);
  });
  flags_.back().is_bool = true;
}

void FlagSet::Add(absl::string_view name, uint32_t* value, absl::string_view help) {
  Declare(name, "N", help, absl::StrCat(*value),
          [value](const std::string& text) { return absl::SimpleAtoi(text, value); });
}

void FlagSet::Add(absl::string_view name, std::optional<uint32_t>* value, absl::string_view help) {
  Declare(name, "N", help, "", [value](const std::string& text) {
    uint32_t number;
    if (!absl::SimpleAtoi(text, &number)) return false;
    *value = number;
    return true;
  });
}

void FlagSet::Add(absl::string_view name, uint64_t* value, absl::string_view help) {
  Declare(name, "N", help, absl::StrCat(*value),
          [value](const std::string& text) { return absl::SimpleAtoi(text, value); });
}

void FlagSet::Add(absl::string_view name, double* value, absl::string_view help) {
  Declare(name, "X", help, absl::StrCat(*value),
          [value](const std::string& text) { return absl::SimpleAtod(text, value); });
}

void FlagSet::Add(absl::string_view name, absl::Duration* value, absl::string_view help) {
  Declare(name, "T", help, *value == absl::ZeroDuration() ? "" : absl::FormatDuration(*value),
          [value](const std::string& text) { return ParseDuration(text, value); });
}

FlagSet::Flag* FlagSet::Find(absl::string_view name) {
  for (Flag& flag : flags_) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
}

bool FlagSet::given(absl::string_view name) const {
  return std::any_of(flags_.begin(), flags_.end(),
                     [&](const Flag& flag) { return flag.given && flag.name == name; });
}

absl::Status FlagSet::Set(const std::string& name, const std::string* value,
                          const std::string* next, bool* took_next) {
  Flag* flag = Find(name);
  if (flag == nullptr) return absl::InvalidArgumentError(absl::StrCat("unknown flag --", name));
  if (value == nullptr && !flag->is_bool) {
    if (next == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("flag --", name, " needs a value"));
    }
    value = next;
    *took_next = true;
  }
  flag->given = true;
  if (flag->set(value == nullptr ? "" : *value)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", name, " cannot be \"", value == nullptr ? "" : *value, "\"; it takes ",
                   flag->is_bool ? "true or false" : flag->shown_value));
}

absl::Status FlagSet::Parse(const std::vector<std::string>& args) {
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--help" || arg == "-h") {
      help_wanted_ = true;
      continue;
    }
    if (arg.rfind("--", 0) != 0) {
      return absl::InvalidArgumentError(absl::StrCat("\"", arg, "\" is no flag"));
    }
    const size_t equals = arg.find('=');
    const std::string name = arg.substr(2, equals == std::string::npos ? equals : equals - 2);
    const std::string value = equals == std::string::npos ? "" : arg.substr(equals + 1);
    bool took_next = false;
    absl::Status status = Set(name, equals == std::string::npos ? nullptr : &value,
                              i + 1 < args.size() ? &args[i + 1] : nullptr, &took_next);
    if (!status.ok()) return status;
    i += took_next;
  }
  return absl::OkStatus();
}

std::string FlagSet::Help() const {
  std::string out;
  std::string group;
  for (const Flag& flag : flags_) {
    if (flag.group != group) {
      group = flag.group;
      absl::StrAppend(&out, "\n", group, ":\n");
    }
    std::string left = absl::StrCat("  --", flag.name);
    if (!flag.is_bool) absl::StrAppend(&left, "=", flag.shown_value);
    if (left.size() + 2 > kNameWidth) {
      absl::StrAppend(&out, left, "\n", std::string(kNameWidth, ' '));
    } else {
      absl::StrAppend(&out, left, std::string(kNameWidth - left.size(), ' '));
    }
    absl::StrAppend(&out, Wrap(flag.help), "\n");
  }
  return out;
}

}  // namespace kvstow::tool
