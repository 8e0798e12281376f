#include "server/app/config.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"
#include "server/app/config.pb.h"
#include "server/app/event_config.h"
#include "server/auth/pem_files.h"
#include "server/core/status_macros.h"

namespace kvstow {
namespace {

using config::Config;

constexpr char kDefaults[] = R"(unix_socket: "/run/kvstow/kvstowd.sock"
host_tier: "1GiB"
device: "auto"
gpu_tier: "none"
metrics: "127.0.0.1:9464"
log_level: "info"
slow_call_ms: 2000
overwrite_slack: "on"
overwrite_scratch: "on"
shutdown_grace_seconds: 20
limits {
  max_bulk_streams: 64
  max_sessions: 10000
  max_spaces: 4096
  max_blocks_per_put: 256
  max_blocks_per_get: 1024
  inflight: "256MiB"
  staged: "512MiB"
  stall_timeout_seconds: 30
  max_lease_seconds: 600
  max_leased_fraction: 0.8
  incomplete_seconds: 30
}
eviction {
  high_watermark: 0.95
  low_watermark: 0.9
}
staging {
  total: "1GiB"
  per_session: "128MiB"
  device_total: "1GiB"
  device_per_session: "256MiB"
}
)";

// Keeps the first error, with its line.
class FirstError final : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text_.empty())
      text_ = absl::StrCat("line ", line + 1, ", column ", column + 1, ": ", message);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

absl::Status Invalid(absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", what));
}

absl::Status MergeText(const std::string& text, const std::string& name, Config* config) {
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  Config parsed;
  if (!parser.ParseFromString(text, &parsed)) {
    return Invalid(name,
                   absl::StrCat(error.text(), ". See server/app/config.proto for the fields"));
  }
  config->MergeFrom(parsed);
  return absl::OkStatus();
}

absl::Status MergeFile(const std::string& file, Config* config) {
  std::ifstream in(file);
  if (!in) {
    return absl::NotFoundError(
        absl::StrCat(file,
                     ": cannot be read. Name an existing file with --config, or leave it out "
                     "for the embedded defaults"));
  }
  std::stringstream text;
  text << in.rdbuf();
  return MergeText(text.str(), file, config);
}

void Override(const ConfigOverrides& o, Config* config) {
  if (!o.unix_socket.empty()) config->set_unix_socket(o.unix_socket);
  if (!o.tcp.empty()) config->set_tcp(o.tcp);
  if (!o.host_tier.empty()) config->set_host_tier(o.host_tier);
  if (!o.staging.empty()) config->mutable_staging()->set_total(o.staging);
  if (!o.device.empty()) config->set_device(o.device);
  if (!o.gpu_tier.empty()) config->set_gpu_tier(o.gpu_tier);
  if (!o.gpu_plugin.empty()) config->set_gpu_plugin(o.gpu_plugin);
  if (!o.metrics.empty()) config->set_metrics(o.metrics);
  if (!o.events.empty()) config->clear_events();
  if (!o.events.empty() && o.events != "none") config->add_events()->set_endpoint(o.events);
  if (!o.log_level.empty()) config->set_log_level(o.log_level);
  if (o.insecure) config->set_insecure(*o.insecure);
  if (o.reflection) config->set_reflection(*o.reflection);
  if (o.threads) config->set_threads(*o.threads);
  if (o.shutdown_grace_seconds) config->set_shutdown_grace_seconds(*o.shutdown_grace_seconds);
}

absl::Status CheckHostPort(absl::string_view field, const std::string& address) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port > 65535) {
    return Invalid(field, absl::StrCat("'", address, "' is not host:port, like 127.0.0.1:7411"));
  }
  return absl::OkStatus();
}

absl::Status CheckFraction(absl::string_view field, double value) {
  if (std::isfinite(value) && value > 0 && value <= 1) return absl::OkStatus();
  return Invalid(field, absl::StrCat(value, " is not above 0 and at most 1"));
}

absl::Status CheckPositive(absl::string_view field, uint64_t value) {
  if (value > 0) return absl::OkStatus();
  return Invalid(field, "0 would stop all work; leave it out for the default");
}

absl::StatusOr<uint64_t> Size(absl::string_view field, const std::string& text) {
  auto size = ParseSize(text);
  if (!size.ok()) return Invalid(field, size.status().message());
  KVSTOW_RETURN_IF_ERROR(CheckPositive(field, *size));
  return size;
}

absl::Status CheckHoldsABlock(absl::string_view field, uint64_t bytes) {
  constexpr uint64_t kSmallestTier = uint64_t{1} << 20;
  if (bytes >= kSmallestTier) return absl::OkStatus();
  return Invalid(field, "less than 1MiB holds no block; give it more");
}

absl::Status SetMetricsSecurity(const Config::MetricsSecurity& in, DaemonConfig* out) {
  if (!in.certificate().empty()) {
    if (absl::Status s = CheckCertificate(in.certificate(), in.certificate(), absl::Now()); !s.ok())
      return Invalid("metrics_security.certificate", s.message());
  }
  if (in.user().empty() != in.password_file().empty()) {
    return Invalid("metrics_security", "user and password_file go together");
  }
  out->metrics.certificate = in.certificate();
  out->metrics.user = in.user();
  if (in.password_file().empty()) return absl::OkStatus();
  std::ifstream file(in.password_file());
  std::getline(file, out->metrics.password);
  if (out->metrics.password.empty()) {
    return Invalid("metrics_security.password_file",
                   absl::StrCat(in.password_file(), " cannot be read or has no first line"));
  }
  return absl::OkStatus();
}

absl::Status SetTls(const Config& in, DaemonConfig* out) {
  const Config::Tls& tls = in.tls();
  if (tls.certificate().empty() && tls.key().empty() && tls.client_ca().empty()) {
    return absl::OkStatus();
  }
  if (in.tcp().empty()) return Invalid("tls", "secures TCP, and tcp is not set");
  if (tls.certificate().empty() || tls.key().empty()) {
    return Invalid("tls", "certificate and key go together; set both");
  }
  if (absl::Status s = CheckCertificate(tls.certificate(), tls.key(), absl::Now()); !s.ok())
    return Invalid("tls", s.message());
  out->rpc.tls.certificate = tls.certificate();
  out->rpc.tls.key = tls.key();
  if (tls.client_ca().empty()) return absl::OkStatus();
  if (absl::Status s = CheckAuthorities(tls.client_ca(), absl::Now()); !s.ok())
    return Invalid("tls.client_ca", s.message());
  out->rpc.tls.client_ca = tls.client_ca();
  // Where tokens tell who calls, a certificate may be shown and need not.
  out->rpc.tls.require_client_certificate =
      std::none_of(in.tenant().begin(), in.tenant().end(),
                   [](const Config::Tenant& tenant) { return !tenant.token_file().empty(); });
  return absl::OkStatus();
}

absl::Status SetQuota(const std::string& field, const Config::Quota& in, DaemonConfig* out) {
  TenantQuota quota;
  const auto set_size = [&](absl::string_view name, const std::string& text,
                            uint64_t* bytes) -> absl::Status {
    if (text.empty()) return absl::OkStatus();
    KVSTOW_ASSIGN_OR_RETURN(*bytes, Size(absl::StrCat(field, ".", name), text));
    return absl::OkStatus();
  };
  KVSTOW_RETURN_IF_ERROR(set_size("host_tier", in.host_tier(), &quota.host_bytes));
  KVSTOW_RETURN_IF_ERROR(set_size("gpu_tier", in.gpu_tier(), &quota.gpu_bytes));
  KVSTOW_RETURN_IF_ERROR(set_size("leased", in.leased(), &quota.leased_bytes));
  TenantCallLimits calls;
  if (in.has_streams()) {
    KVSTOW_RETURN_IF_ERROR(CheckPositive(absl::StrCat(field, ".streams"), in.streams()));
    calls.streams = in.streams();
  }
  if (in.has_requests_per_second()) {
    if (!std::isfinite(in.requests_per_second()) || in.requests_per_second() <= 0) {
      return Invalid(absl::StrCat(field, ".requests_per_second"),
                     absl::StrCat(in.requests_per_second(),
                                  " would stop all work; give a rate above 0, or leave it out"));
    }
    calls.requests_per_second = in.requests_per_second();
  }
  uint32_t sessions = 0;
  if (in.has_sessions()) {
    KVSTOW_RETURN_IF_ERROR(CheckPositive(absl::StrCat(field, ".sessions"), in.sessions()));
    sessions = in.sessions();
  }
  out->store.quotas.push_back(quota);
  out->rpc.tenants.push_back(calls);
  out->limits.tenant_sessions.push_back(sessions);
  return absl::OkStatus();
}

bool IsTenantName(const std::string& name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-';
  });
}

absl::Status SetTenants(const Config& in, DaemonConfig* out) {
  for (const Config::Tenant& tenant : in.tenant()) {
    const std::string field = absl::StrCat("tenant '", tenant.name(), "'");
    if (!IsTenantName(tenant.name())) {
      return Invalid(field, "a name has 1 to 64 letters, digits, '_', '.' or '-'");
    }
    TenantIdentity identity{.name = tenant.name(), .admin = tenant.admin()};
    identity.certificate_names.assign(tenant.certificate().begin(), tenant.certificate().end());
    identity.token_file = tenant.token_file();
    identity.users.assign(tenant.user().begin(), tenant.user().end());
    if (!identity.certificate_names.empty() && in.tls().client_ca().empty()) {
      return Invalid(field, "has certificates, and tls.client_ca, which checks them, is not set");
    }
    if (identity.certificate_names.empty() && identity.token_file.empty() &&
        in.unix_tenant() != identity.name) {
      return Invalid(field,
                     "nobody can be it; give it a certificate or a token_file, or make it the "
                     "unix_tenant");
    }
    out->tenants.push_back(std::move(identity));
    KVSTOW_RETURN_IF_ERROR(SetQuota(absl::StrCat(field, " quota"), tenant.quota(), out));
  }
  out->unix_tenant = in.unix_tenant();
  // Reads the token files, too: what is wrong with them is said before anything is bound.
  return Tenants::Create(out->tenants, out->unix_tenant).status();
}

absl::Status SetListeners(const Config& in, DaemonConfig* out) {
  out->insecure = in.insecure();
  if (in.unix_socket() != "none") out->rpc.unix_socket = in.unix_socket();
  out->rpc.tcp_address = in.tcp();
  if (!in.tcp().empty()) {
    KVSTOW_RETURN_IF_ERROR(CheckHostPort("tcp", in.tcp()));
    if (!in.insecure() && in.tls().certificate().empty()) {
      return Invalid("tcp",
                     "without tls it is in clear, and KV is prompt content. Set tls, use the Unix "
                     "socket, or say --insecure if everybody who can reach the port may read it");
    }
  }
  if (out->rpc.unix_socket.empty() && out->rpc.tcp_address.empty()) {
    return Invalid("unix_socket", "no listener is left; set unix_socket or tcp");
  }
  if (in.metrics() != "none") {
    KVSTOW_RETURN_IF_ERROR(CheckHostPort("metrics", in.metrics()));
    out->metrics.address = in.metrics();
    KVSTOW_RETURN_IF_ERROR(SetMetricsSecurity(in.metrics_security(), out));
  }
  out->rpc.reflection = in.reflection();
  return absl::OkStatus();
}

absl::Status SetLimits(const Config::Limits& in, DaemonConfig* out) {
  KVSTOW_RETURN_IF_ERROR(CheckPositive("limits.max_bulk_streams", in.max_bulk_streams()));
  KVSTOW_RETURN_IF_ERROR(CheckPositive("limits.max_sessions", in.max_sessions()));
  KVSTOW_RETURN_IF_ERROR(CheckPositive("limits.max_spaces", in.max_spaces()));
  KVSTOW_RETURN_IF_ERROR(CheckPositive("limits.max_blocks_per_put", in.max_blocks_per_put()));
  KVSTOW_RETURN_IF_ERROR(CheckPositive("limits.max_blocks_per_get", in.max_blocks_per_get()));
  KVSTOW_RETURN_IF_ERROR(CheckPositive("limits.stall_timeout_seconds", in.stall_timeout_seconds()));
  KVSTOW_RETURN_IF_ERROR(CheckPositive("limits.incomplete_seconds", in.incomplete_seconds()));
  KVSTOW_RETURN_IF_ERROR(CheckFraction("limits.max_leased_fraction", in.max_leased_fraction()));
  out->rpc.max_bulk_streams = in.max_bulk_streams();
  out->rpc.stall_timeout = absl::Seconds(in.stall_timeout_seconds());
  out->limits.max_sessions = in.max_sessions();
  out->limits.max_spaces = in.max_spaces();
  out->limits.max_blocks_per_put = in.max_blocks_per_put();
  out->limits.max_blocks_per_get = in.max_blocks_per_get();
  KVSTOW_ASSIGN_OR_RETURN(out->limits.max_inflight_bytes, Size("limits.inflight", in.inflight()));
  KVSTOW_ASSIGN_OR_RETURN(out->limits.max_staged_bytes, Size("limits.staged", in.staged()));
  out->limits.max_lease_ttl = absl::Seconds(in.max_lease_seconds());
  out->store.max_lease_ttl = out->limits.max_lease_ttl;
  out->store.max_leased_fraction = in.max_leased_fraction();
  out->store.incomplete_ttl = absl::Seconds(in.incomplete_seconds());
  return absl::OkStatus();
}

absl::StatusOr<bool> OnOrOff(absl::string_view field, const std::string& text) {
  if (text == "on" || text == "off") return text == "on";
  return Invalid(field, absl::StrCat("'", text, "'; use on or off"));
}

absl::Status SetOverwriting(const Config& in, DaemonConfig* out) {
  KVSTOW_ASSIGN_OR_RETURN(out->store.overwrite_slack,
                          OnOrOff("overwrite_slack", in.overwrite_slack()));
  KVSTOW_ASSIGN_OR_RETURN(out->overwrite_scratch,
                          OnOrOff("overwrite_scratch", in.overwrite_scratch()));
  return absl::OkStatus();
}

absl::Status SetEviction(const Config::Eviction& in, DaemonConfig* out) {
  KVSTOW_RETURN_IF_ERROR(CheckFraction("eviction.high_watermark", in.high_watermark()));
  KVSTOW_RETURN_IF_ERROR(CheckFraction("eviction.low_watermark", in.low_watermark()));
  if (in.low_watermark() > in.high_watermark()) {
    return Invalid("eviction.low_watermark", "is above high_watermark");
  }
  out->store.high_watermark = in.high_watermark();
  out->store.low_watermark = in.low_watermark();
  return absl::OkStatus();
}

constexpr uint64_t kLargestRegion = uint64_t{4} << 30;  // places in it travel as 32 bits

absl::Status SetDeviceStaging(const Config::Staging& in, DaemonConfig* out) {
  out->staging.device_budget_bytes = 0;
  if (in.device_total() == "none") return absl::OkStatus();
  KVSTOW_ASSIGN_OR_RETURN(out->staging.device_budget_bytes,
                          Size("staging.device_total", in.device_total()));
  KVSTOW_ASSIGN_OR_RETURN(out->staging.device_session_bytes,
                          Size("staging.device_per_session", in.device_per_session()));
  if (out->staging.device_session_bytes > kLargestRegion) {
    return Invalid("staging.device_per_session", "more than 4GiB");
  }
  if (out->staging.device_session_bytes > out->staging.device_budget_bytes) {
    return Invalid("staging.device_per_session",
                   "is above staging.device_total: no session would get any");
  }
  return absl::OkStatus();
}

absl::Status SetStaging(const Config& in, DaemonConfig* out) {
  out->staging.budget_bytes = 0;
  if (in.staging().total() == "none" || out->rpc.unix_socket.empty()) return absl::OkStatus();
  KVSTOW_ASSIGN_OR_RETURN(out->staging.budget_bytes, Size("staging.total", in.staging().total()));
  KVSTOW_ASSIGN_OR_RETURN(out->staging.session_bytes,
                          Size("staging.per_session", in.staging().per_session()));
  if (out->staging.session_bytes > kLargestRegion) {
    return Invalid("staging.per_session", "more than 4GiB");
  }
  if (out->staging.session_bytes > out->staging.budget_bytes) {
    return Invalid("staging.per_session", "is above staging.total: no session would get any");
  }
  return SetDeviceStaging(in.staging(), out);
}

absl::Status CheckLogLevel(const std::string& level) {
  for (const char* known : {"trace", "debug", "info", "warn", "error"}) {
    if (level == known) return absl::OkStatus();
  }
  return Invalid("log_level", absl::StrCat("'", level, "'; use trace, debug, info, warn or error"));
}

absl::Status SetDevice(const Config& in, DaemonConfig* out) {
  using Device = DaemonConfig::Device;
  absl::string_view device = in.device();
  if (device == "auto" || device == "cpu") {
    out->device = device == "cpu" ? Device::kCpu : Device::kAuto;
  } else if (absl::ConsumePrefix(&device, "cuda") &&
             (device.empty() ||
              (absl::ConsumePrefix(&device, ":") && absl::SimpleAtoi(device, &out->device_index) &&
               out->device_index >= 0))) {
    out->device = Device::kCuda;
  } else {
    return Invalid("device", absl::StrCat("'", in.device(), "'; use auto, cpu, cuda or cuda:1"));
  }
  out->gpu_plugin = in.gpu_plugin();
  if (in.gpu_tier() == "none") return absl::OkStatus();
  if (out->device == Device::kCpu) {
    return Invalid("gpu_tier", "needs a GPU, and device is cpu; say none, or another device");
  }
  KVSTOW_ASSIGN_OR_RETURN(out->gpu_tier_bytes, Size("gpu_tier", in.gpu_tier()));
  return CheckHoldsABlock("gpu_tier", out->gpu_tier_bytes);
}

absl::StatusOr<DaemonConfig> Convert(const Config& in) {
  DaemonConfig out;
  KVSTOW_RETURN_IF_ERROR(SetListeners(in, &out));
  KVSTOW_RETURN_IF_ERROR(SetTls(in, &out));
  KVSTOW_RETURN_IF_ERROR(SetTenants(in, &out));
  KVSTOW_ASSIGN_OR_RETURN(out.events, EventStreams(in, out));
  KVSTOW_RETURN_IF_ERROR(SetLimits(in.limits(), &out));
  KVSTOW_RETURN_IF_ERROR(SetEviction(in.eviction(), &out));
  KVSTOW_RETURN_IF_ERROR(SetOverwriting(in, &out));
  KVSTOW_RETURN_IF_ERROR(CheckLogLevel(in.log_level()));
  KVSTOW_ASSIGN_OR_RETURN(out.host_tier_bytes, Size("host_tier", in.host_tier()));
  KVSTOW_RETURN_IF_ERROR(CheckHoldsABlock("host_tier", out.host_tier_bytes));
  KVSTOW_RETURN_IF_ERROR(SetDevice(in, &out));
  KVSTOW_RETURN_IF_ERROR(SetStaging(in, &out));
  constexpr uint32_t kMostThreads = 1024;
  if (in.threads() > kMostThreads) return Invalid("threads", "more than 1024");
  out.threads =
      in.threads() != 0 ? in.threads() : std::max(1u, std::thread::hardware_concurrency());
  out.log_level = in.log_level();
  if (in.slow_call_ms() > 0) out.slow_call = absl::Milliseconds(in.slow_call_ms());
  out.shutdown_grace = absl::Seconds(in.shutdown_grace_seconds());
  return out;
}

}  // namespace

absl::string_view DefaultConfigText() { return kDefaults; }

absl::StatusOr<uint64_t> ParseSize(const std::string& text) {
  const size_t unit_at = text.find_first_not_of("0123456789.");
  double number = 0;
  const bool is_number = absl::SimpleAtod(text.substr(0, unit_at), &number);
  std::string unit = unit_at == std::string::npos ? "B" : text.substr(unit_at);
  if (unit.size() == 1 && unit != "B") unit += "iB";
  double scale = 1;
  for (const char* known : {"B", "KiB", "MiB", "GiB", "TiB"}) {
    if (is_number && unit == known) {
      const double bytes = number * scale;
      if (bytes > 9e18) break;
      return static_cast<uint64_t>(bytes);
    }
    scale *= 1024;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is no size; write a number with B, KiB, MiB, GiB or TiB"));
}

absl::StatusOr<DaemonConfig> LoadConfig(const std::string& file, const ConfigOverrides& overrides) {
  Config config;
  KVSTOW_RETURN_IF_ERROR(MergeText(kDefaults, "embedded defaults", &config));
  if (!file.empty()) KVSTOW_RETURN_IF_ERROR(MergeFile(file, &config));
  Override(overrides, &config);
  auto out = Convert(config);
  if (!out.ok()) {
    // Which of the three it came from is for the reader to see; the file is where most look first.
    return absl::InvalidArgumentError(
        absl::StrCat(file.empty() ? "flags" : file, ": ", out.status().message()));
  }
  out->source = file.empty() ? "embedded defaults" : file;
  return out;
}

}  // namespace kvstow
