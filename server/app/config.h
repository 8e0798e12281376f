// The daemon's configuration: embedded defaults, then a file, then flags; checked as a whole before
// anything is bound.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/auth/tenants.h"
#include "server/core/service.h"
#include "server/core/store.h"
#include "server/events/event_publisher.h"
#include "server/obs/metrics_listener.h"
#include "server/rpc/rpc_server.h"
#include "server/staging/staging_listener.h"

namespace kvstow {

struct DaemonConfig {
  std::string source;  // for the start-up line: "embedded defaults" or the file's path
  RpcServerOptions rpc;
  bool insecure = false;
  std::vector<TenantIdentity> tenants;
  std::string unix_tenant;
  uint64_t host_tier_bytes = 0;
  enum class Device { kAuto, kCpu, kCuda } device = Device::kAuto;
  int device_index = 0;
  std::string gpu_plugin;       // empty: look for it
  uint64_t gpu_tier_bytes = 0;  // 0 for none
  MetricsListenerOptions metrics;
  uint32_t threads = 0;  // resolved: at least 1
  std::string log_level;
  absl::Duration slow_call = absl::InfiniteDuration();  // infinite: none is logged
  absl::Duration shutdown_grace;
  ServiceLimits limits;
  StoreOptions store;
  bool overwrite_scratch = true;  // of the whole process
  StagingOptions staging;         // budget 0: none
  std::vector<EventStreamOptions> events;
};

// Settings given on the command line; those not set are empty.
struct ConfigOverrides {
  std::string unix_socket, tcp, host_tier, staging, device, gpu_tier, gpu_plugin, metrics, events,
      log_level;
  std::optional<bool> insecure, reflection;
  std::optional<uint32_t> threads, shutdown_grace_seconds;
};

// `file` may be empty: defaults alone. INVALID_ARGUMENT names file, line or field, what was found
// and what to do; NOT_FOUND for a file that is not there.
absl::StatusOr<DaemonConfig> LoadConfig(const std::string& file, const ConfigOverrides& overrides);

// "64GiB" -> bytes. Units B, KiB, MiB, GiB, TiB (and K, M, G, T for them).
absl::StatusOr<uint64_t> ParseSize(const std::string& text);

// The embedded defaults, as a file would say them.
absl::string_view DefaultConfigText();

}  // namespace kvstow
