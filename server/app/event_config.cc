#include "server/app/event_config.h"

#include <algorithm>
#include <initializer_list>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/core/status_macros.h"
#include "server/events/event_endpoint.h"

namespace kvstow {
namespace {

// Reads one stream; errors begin with its name.
class StreamReader {
 public:
  StreamReader(std::string stream, const config::Config::Events& in, const DaemonConfig& known)
      : stream_(std::move(stream)), in_(in), known_(known) {}

  absl::StatusOr<EventStreamOptions> Read() const {
    EventStreamOptions out;
    KVSTOW_ASSIGN_OR_RETURN(out.endpoint, Endpoint("endpoint", in_.endpoint()));
    if (!in_.replay_endpoint().empty()) {
      KVSTOW_ASSIGN_OR_RETURN(out.replay_endpoint,
                              Endpoint("replay_endpoint", in_.replay_endpoint()));
    }
    KVSTOW_ASSIGN_OR_RETURN(out.replay_bytes, ReplayBytes(out.replay_bytes));
    KVSTOW_ASSIGN_OR_RETURN(out.tenant, Tenant());
    KVSTOW_ASSIGN_OR_RETURN(out.topic, Short("topic", in_.topic()));
    KVSTOW_ASSIGN_OR_RETURN(out.model, Short("model", in_.model()));
    KVSTOW_ASSIGN_OR_RETURN(out.medium, Short("medium", in_.medium()));
    if (out.medium == "tier") out.medium.clear();
    KVSTOW_ASSIGN_OR_RETURN(const bool array, IsSecond("form", in_.form(), "map", "array"));
    KVSTOW_ASSIGN_OR_RETURN(const bool integers,
                            IsSecond("block_hash", in_.block_hash(), "bytes", "int"));
    if (array) out.format.form = EventFormat::Form::kArray;
    if (integers) out.format.hash = EventFormat::Hash::kInteger;
    out.format.dp_rank = in_.dp_rank();
    return out;
  }

 private:
  absl::Status Invalid(absl::string_view field, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(stream_, ".", field, ": ", what));
  }

  absl::StatusOr<std::string> Endpoint(absl::string_view field, const std::string& text) const {
    const absl::Status status = CheckEventEndpoint(text, known_.insecure);
    if (!status.ok()) return Invalid(field, status.message());
    return text;
  }

  absl::StatusOr<uint64_t> ReplayBytes(uint64_t otherwise) const {
    if (in_.replay_buffer().empty()) return otherwise;
    if (in_.replay_endpoint().empty()) {
      return Invalid("replay_buffer", "nobody could ask for it; set replay_endpoint, too");
    }
    const auto bytes = ParseSize(in_.replay_buffer());
    if (!bytes.ok()) return Invalid("replay_buffer", bytes.status().message());
    return bytes;
  }

  // An index into the tenants.
  absl::StatusOr<TenantId> Tenant() const {
    const std::string& name = in_.tenant();
    std::vector<std::string> names;
    for (const TenantIdentity& tenant : known_.tenants) names.push_back(tenant.name);
    if (names.empty()) names.push_back("default");
    if (name.empty() && names.size() == 1) return kDefaultTenant;
    const auto found = std::find(names.begin(), names.end(), name);
    if (found != names.end()) return TenantId(found - names.begin());
    return Invalid("tenant", absl::StrCat("'", name,
                                          "' is none of the tenants; name the one whose "
                                          "blocks are told: ",
                                          absl::StrJoin(names, ", ")));
  }

  absl::StatusOr<std::string> Short(absl::string_view field, const std::string& text) const {
    constexpr size_t kLongest = 256;
    if (text.size() <= kLongest) return text;
    return Invalid(field, absl::StrCat("has ", text.size(), " bytes; at most ", kLongest));
  }

  // False for the first of two words, which may be left out.
  absl::StatusOr<bool> IsSecond(absl::string_view field, const std::string& text,
                                absl::string_view first, absl::string_view second) const {
    if (text.empty() || text == first) return false;
    if (text == second) return true;
    return Invalid(field, absl::StrCat("'", text, "'; use ", first, " or ", second));
  }

  const std::string stream_;
  const config::Config::Events& in_;
  const DaemonConfig& known_;
};

// No endpoint twice. Port 0 is another one each time.
absl::Status CheckDistinct(const std::vector<EventStreamOptions>& streams) {
  std::map<std::string, std::string> taken;  // by which field
  const auto take = [&](std::string field, const std::string& endpoint) -> absl::Status {
    if (endpoint.empty() || absl::EndsWith(endpoint, ":0")) return absl::OkStatus();
    const auto [it, added] = taken.emplace(endpoint, field);
    if (added) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": ", endpoint, " is ", it->second, ", too; choose another one"));
  };
  for (size_t i = 0; i < streams.size(); ++i) {
    const std::string stream = absl::StrCat("events[", i, "].");
    KVSTOW_RETURN_IF_ERROR(take(stream + "endpoint", streams[i].endpoint));
    KVSTOW_RETURN_IF_ERROR(take(stream + "replay_endpoint", streams[i].replay_endpoint));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<EventStreamOptions>> EventStreams(const config::Config& in,
                                                             const DaemonConfig& known) {
  std::vector<EventStreamOptions> streams;
  for (int i = 0; i < in.events_size(); ++i) {
    KVSTOW_ASSIGN_OR_RETURN(
        auto stream, StreamReader(absl::StrCat("events[", i, "]"), in.events(i), known).Read());
    streams.push_back(std::move(stream));
  }
  KVSTOW_RETURN_IF_ERROR(CheckDistinct(streams));
  return streams;
}

}  // namespace kvstow
