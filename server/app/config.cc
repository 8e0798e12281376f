#include "server/app/config.h"

#include <cmath>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"
#include "server/app/config.pb.h"
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
  total: "512MiB"
  per_session: "32MiB"
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

absl::Status SetListeners(const Config& in, DaemonConfig* out) {
  out->insecure = in.insecure();
  if (in.unix_socket() != "none") out->rpc.unix_socket = in.unix_socket();
  out->rpc.tcp_address = in.tcp();
  if (!in.tcp().empty()) {
    KVSTOW_RETURN_IF_ERROR(CheckHostPort("tcp", in.tcp()));
    if (!in.insecure()) {
      return Invalid("tcp",
                     "TCP is in clear, and KV is prompt content. Use the Unix socket, or say "
                     "--insecure if everybody who can reach the port may read it");
    }
  }
  if (out->rpc.unix_socket.empty() && out->rpc.tcp_address.empty()) {
    return Invalid("unix_socket", "no listener is left; set unix_socket or tcp");
  }
  if (in.metrics() != "none") {
    KVSTOW_RETURN_IF_ERROR(CheckHostPort("metrics", in.metrics()));
    out->metrics_address = in.metrics();
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

absl::Status SetStaging(const Config& in, DaemonConfig* out) {
  out->staging.budget_bytes = 0;
  if (in.staging().total() == "none" || out->rpc.unix_socket.empty()) return absl::OkStatus();
  KVSTOW_ASSIGN_OR_RETURN(out->staging.budget_bytes, Size("staging.total", in.staging().total()));
  KVSTOW_ASSIGN_OR_RETURN(out->staging.session_bytes,
                          Size("staging.per_session", in.staging().per_session()));
  constexpr uint64_t kLargest = uint64_t{4} << 30;  // places in it travel as 32 bits
  if (out->staging.session_bytes > kLargest)
    return Invalid("staging.per_session", "more than 4GiB");
  if (out->staging.session_bytes > out->staging.budget_bytes) {
    return Invalid("staging.per_session", "is above staging.total: no session would get any");
  }
  return absl::OkStatus();
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
  KVSTOW_RETURN_IF_ERROR(SetLimits(in.limits(), &out));
  KVSTOW_RETURN_IF_ERROR(SetEviction(in.eviction(), &out));
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
