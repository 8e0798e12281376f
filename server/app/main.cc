// kvstowd: keeps KV cache for inference workers.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "server/app/config.h"
#include "server/app/daemon.h"
#include "server/app/malloc_settings.h"
#include "server/app/version.h"
#include "spdlog/spdlog.h"

ABSL_FLAG(std::string, config, "",
          "Configuration file, protobuf text format (server/app/config.proto); flags override it");
ABSL_FLAG(bool, check_config, false, "Check the configuration and exit: 0 when it is sound");
ABSL_FLAG(bool, print_config, false,
          "Print the embedded defaults as a configuration file and exit");
ABSL_FLAG(std::string, unix_socket, "", "Path of the Unix socket, or none");
ABSL_FLAG(std::string, tcp, "",
          "host:port to listen on; needs `tls` in the configuration, or --insecure to be in clear");
ABSL_FLAG(absl::optional<bool>, insecure, absl::nullopt,
          "Allow TCP in clear, and KV events beyond this host");
ABSL_FLAG(std::string, host_tier, "", "Size of the host tier: 512MiB, 64GiB");
ABSL_FLAG(std::string, staging, "",
          "Memory shared with workers on this host, all sessions together: 2GiB, or none");
ABSL_FLAG(std::string, device, "", "auto, cpu, cuda or cuda:1: where KV is encoded and decoded");
ABSL_FLAG(std::string, gpu_tier, "", "Size of the tier in device memory, or none");
ABSL_FLAG(std::string, gpu_plugin, "", "Path of libkvstow_gpu.so, where it is not beside kvstowd");
ABSL_FLAG(std::string, metrics, "", "host:port of the Prometheus endpoint, or none");
ABSL_FLAG(std::string, events, "",
          "ipc:///path or tcp://127.0.0.1:port to publish KV events at for routers, or none");
ABSL_FLAG(absl::optional<uint32_t>, threads, absl::nullopt, "Codec threads; 0: one a processor");
ABSL_FLAG(std::string, log_level, "", "trace, debug, info, warn or error");
ABSL_FLAG(absl::optional<bool>, reflection, absl::nullopt, "Serve gRPC reflection");
ABSL_FLAG(absl::optional<uint32_t>, shutdown_grace_seconds, absl::nullopt,
          "How long running calls may finish after SIGTERM");

namespace kvstow {
namespace {

// What a configuration that cannot be used exits with (EX_CONFIG of sysexits.h).
constexpr int kBadConfig = 78;

template <typename T>
std::optional<T> Std(const absl::optional<T>& o) {
  return o ? std::optional<T>(*o) : std::nullopt;
}

ConfigOverrides OverridesFromFlags() {
  ConfigOverrides o;
  o.unix_socket = absl::GetFlag(FLAGS_unix_socket);
  o.tcp = absl::GetFlag(FLAGS_tcp);
  o.host_tier = absl::GetFlag(FLAGS_host_tier);
  o.staging = absl::GetFlag(FLAGS_staging);
  o.device = absl::GetFlag(FLAGS_device);
  o.gpu_tier = absl::GetFlag(FLAGS_gpu_tier);
  o.gpu_plugin = absl::GetFlag(FLAGS_gpu_plugin);
  o.metrics = absl::GetFlag(FLAGS_metrics);
  o.events = absl::GetFlag(FLAGS_events);
  o.log_level = absl::GetFlag(FLAGS_log_level);
  o.insecure = Std(absl::GetFlag(FLAGS_insecure));
  o.reflection = Std(absl::GetFlag(FLAGS_reflection));
  o.threads = Std(absl::GetFlag(FLAGS_threads));
  o.shutdown_grace_seconds = Std(absl::GetFlag(FLAGS_shutdown_grace_seconds));
  return o;
}

// Each connection is one, and the usual soft limit of 1024 is for programs that use select().
void AllowManyDescriptors() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

// Debian's Abseil looks for lock cycles at every lock, in release builds too; tests are where that
// belongs.
void TrustLockOrder() {
#ifdef NDEBUG
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
}

int Serve(const DaemonConfig& config, const sigset_t& signals) {
  auto daemon = Daemon::Start(config);
  if (!daemon.ok()) {
    spdlog::error("kvstowd cannot start: {}", std::string(daemon.status().message()));
    return 1;
  }
  int signal = 0;
  sigwait(&signals, &signal);
  spdlog::info("kvstowd draining signal={} grace_seconds={}", signal,
               absl::ToInt64Seconds(config.shutdown_grace));
  // A driver that hangs must not hold the process: the default action of the alarm ends it.
  alarm(static_cast<unsigned>(absl::ToInt64Seconds(config.shutdown_grace)) + 20);
  const size_t cut_off = (*daemon)->Shutdown(config.shutdown_grace);
  spdlog::info("kvstowd stopped calls_cut_off={}", cut_off);
  return 0;
}

// "--insecure" as everybody writes it: a flag that may be absent wants a value from Abseil.
void GiveSwitchesTheirValue(int argc, char** argv) {
  static char insecure[] = "--insecure=true", reflection[] = "--reflection=true";
  for (int i = 1; i < argc; ++i) {
    if (absl::string_view(argv[i]) == "--insecure") argv[i] = insecure;
    if (absl::string_view(argv[i]) == "--reflection") argv[i] = reflection;
  }
}

int Main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "keeps the KV cache of long prompts outside the inference engine.\n\n"
      "  kvstowd                                  embedded defaults\n"
      "  kvstowd --unix_socket=/tmp/kv.sock --host_tier=64GiB\n"
      "  kvstowd --config=kvstowd.textproto --check_config\n\n"
      "SIGTERM drains and exits 0. A configuration that cannot be used exits 78.");
  GiveSwitchesTheirValue(argc, argv);
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  if (rest.size() > 1) {
    std::fprintf(stderr, "kvstowd: unexpected argument '%s'; settings are flags, see --help\n",
                 rest[1]);
    return 64;
  }
  if (absl::GetFlag(FLAGS_print_config)) {
    std::printf("%s", std::string(DefaultConfigText()).c_str());
    return 0;
  }
  auto config = LoadConfig(absl::GetFlag(FLAGS_config), OverridesFromFlags());
  if (!config.ok()) {
    std::fprintf(stderr, "kvstowd: %s\n", std::string(config.status().message()).c_str());
    return kBadConfig;
  }
  if (absl::GetFlag(FLAGS_check_config)) {
    std::printf("kvstowd: the configuration (%s) is sound\n", config->source.c_str());
    return 0;
  }
  // Before any thread starts, so that only sigwait gets them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  AllowManyDescriptors();
  TuneMalloc();
  TrustLockOrder();
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  spdlog::set_level(spdlog::level::from_str(config->log_level));
  return Serve(*config, signals);
}

}  // namespace
}  // namespace kvstow

int main(int argc, char** argv) { return kvstow::Main(argc, argv); }
