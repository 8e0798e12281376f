#include "server/app/daemon.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "codec/scratch.h"
#include "server/app/accelerator.h"
#include "server/app/system.h"
#include "server/app/thread_pool.h"
#include "server/app/version.h"
#include "server/core/batched_plane_codec.h"
#include "server/core/status_macros.h"
#include "server/core/tiled_plane_codec.h"
#include "server/obs/metrics.h"
#include "server/obs/metrics_listener.h"
#include "server/obs/slow_call_log.h"
#include "server/rpc/convert.h"
#include "server/tiers/device_mover.h"
#include "server/tiers/device_read_lanes.h"
#include "server/tiers/device_write_lanes.h"
#include "server/tiers/host_tier.h"
#include "space/fingerprint.h"
#include "spdlog/spdlog.h"

namespace kvstow {
namespace {

// Where the executor's threads compute: a Lookup, a message and above all the engine beside the
// daemon wait for microseconds of a processor, a plane for milliseconds.
constexpr int kCpuCodecNiceness = 5;

// Beside kvstow.v1.Kvstow, where the daemon uses a GPU.
constexpr char kGpuHealthService[] = "kvstow.gpu";

std::string NewInstanceId(RandomSource& random) {
  Digest id{};
  random.Fill(std::as_writable_bytes(std::span(id)));
  return Hex(id).substr(0, 16);
}

void FillTotals(const Totals& totals, v1::StatsResponse* out) {
  out->set_hit_tokens(totals.hit_tokens);
  out->set_miss_tokens(totals.miss_tokens);
  out->set_checksum_failures(totals.checksum_failures);
  ToProto(totals.k, out->mutable_k());
  ToProto(totals.v, out->mutable_v());
  for (const auto& [reason, n] : totals.removed_blocks)
    (*out->mutable_removed_blocks())[reason] = n;
  for (const auto& [reason, n] : totals.refused_blocks)
    (*out->mutable_refused_blocks())[reason] = n;
}

}  // namespace

// In order of construction; destroyed from the last to the first.
struct Daemon::Parts {
  SteadyClock clock;
  SystemRandom random;
  std::unique_ptr<Tenants> tenants;
  absl::Time started = clock.Now();
  std::shared_ptr<Metrics> metrics;
  std::unique_ptr<SlowCallLog> slow_calls;
  Accelerator gpu;
  std::unique_ptr<HostTier> host;
  std::unique_ptr<ThreadPool> executor;
  std::unique_ptr<DeviceMover> mover;  // null with one tier
  std::unique_ptr<Store> store;
  std::unique_ptr<TiledPlaneCodec> cpu_codec;
  std::unique_ptr<BatchedPlaneCodec> gpu_codec;  // null without a GPU
  // Null without a device that shares its memory.
  std::unique_ptr<DeviceReadLanes> device_reads;
  std::unique_ptr<DeviceWriteLanes> device_writes;
  std::unique_ptr<Service> service;
  std::vector<std::unique_ptr<EventPublisher>> events;
  std::unique_ptr<StagingListener> staging;  // null without
  std::unique_ptr<RpcServer> rpc;
  std::unique_ptr<MetricsListener> metrics_listener;
  bool gpu_was_healthy = true;  // as told last
  bool gpu_tier_lost = false;   // told to the store
  absl::Time next_reload = absl::InfinitePast();
  bool tokens_reloaded = true;  // the last time
  uint64_t refused_connections_told = 0;
  absl::Time next_refusal_told = absl::InfinitePast();
  absl::Notification stop_maintenance;
  std::thread maintenance;

  absl::Status Start(const DaemonConfig& config);
  absl::Status StartData(const DaemonConfig& config);
  bool SharesDeviceMemory(const DaemonConfig& config) const;
  Metrics::Gauges ReadGauges() const;
  bool gpu_healthy() const;
  void TellGpuHealth();
  void ReloadTokens();
  void TellRefusedConnections();
  void Maintain();
  std::string EventEndpoints() const;
  void LogStart(const DaemonConfig& config) const;
};

// Device, tiers and codecs, and what counts them.
absl::Status Daemon::Parts::StartData(const DaemonConfig& config) {
  SetOverwritesScratch(config.overwrite_scratch);
  KVSTOW_ASSIGN_OR_RETURN(gpu, Accelerator::Open(config));
  KVSTOW_ASSIGN_OR_RETURN(host, HostTier::Create(config.host_tier_bytes));
  if (gpu.device != nullptr) host->StartPinning(gpu.device.get());
  std::vector<Tier*> tiers = {host.get()};
  if (gpu.tier != nullptr) tiers.insert(tiers.begin(), gpu.tier.get());
  MetricsConfig counted = {tenants->names(), {}, kVersion, {"cpu"}};
  for (const Tier* tier : tiers) counted.tiers.push_back(tier->kind());
  if (gpu.device != nullptr) counted.devices.insert(counted.devices.begin(), "cuda");
  if (config.staging.budget_bytes > 0) counted.data_paths.push_back("shm");
  if (SharesDeviceMemory(config)) counted.data_paths.push_back("cuda");
  for (const EventStreamOptions& stream : config.events) {
    counted.event_tenants.push_back(stream.tenant);
  }
  metrics = std::make_shared<Metrics>(counted);
  slow_calls = std::make_unique<SlowCallLog>(
      SlowCallLog::Options{config.slow_call, tenants->names()}, metrics.get(), &clock,
      [](const std::string& line) { spdlog::warn("{}", line); });
  // Threads that wait for the device are none that compute.
  const size_t lanes =
      SharesDeviceMemory(config) ? DeviceReadLanes::kLanes + DeviceWriteLanes::kLanes : 0;
  executor = std::make_unique<ThreadPool>(config.threads + gpu.codecs.size() + lanes,
                                          gpu.device == nullptr ? kCpuCodecNiceness : 0);
  if (gpu.tier != nullptr) {
    mover = std::make_unique<DeviceMover>(gpu.device.get(), executor.get());
  }
  store = std::make_unique<Store>(config.store, tiers, &clock, &random, metrics.get(), mover.get());
  cpu_codec = std::make_unique<TiledPlaneCodec>(CpuCodec(), executor.get(), &clock, metrics.get());
  if (gpu.device != nullptr) {
    std::vector<Codec*> codecs;
    for (const auto& codec : gpu.codecs) codecs.push_back(codec.get());
    gpu_codec = std::make_unique<BatchedPlaneCodec>(codecs, cpu_codec.get(), executor.get(), &clock,
                                                    metrics.get());
  }
  if (SharesDeviceMemory(config)) {
    device_reads = std::make_unique<DeviceReadLanes>(gpu.device.get(), executor.get(),
                                                     config.limits.max_blocks_per_get);
    device_writes = std::make_unique<DeviceWriteLanes>(gpu.device.get(), executor.get());
  }
  return absl::OkStatus();
}

bool Daemon::Parts::SharesDeviceMemory(const DaemonConfig& config) const {
  return gpu.device != nullptr && config.staging.budget_bytes > 0 &&
         config.staging.device_budget_bytes > 0;
}

absl::Status Daemon::Parts::Start(const DaemonConfig& config) {
  KVSTOW_ASSIGN_OR_RETURN(tenants, Tenants::Create(config.tenants, config.unix_tenant));
  KVSTOW_RETURN_IF_ERROR(StartData(config));
  PlaneCodec* codec = cpu_codec.get();
  if (gpu_codec != nullptr) codec = gpu_codec.get();
  service = std::make_unique<Service>(
      config.limits, Service::Parts{store.get(), codec, executor.get(), &clock, &random,
                                    metrics.get(), device_reads.get(), device_writes.get()});
  for (const EventStreamOptions& stream : config.events) {
    KVSTOW_ASSIGN_OR_RETURN(auto publisher,
                            EventPublisher::Start(stream, service.get(), metrics.get()));
    events.push_back(std::move(publisher));
  }
  const auto fill_stats = [this](v1::StatsResponse* out) {
    FillTotals(metrics->totals(), out);
    out->set_uptime_seconds(absl::ToDoubleSeconds(clock.Now() - started));
  };
  RpcServerOptions rpc_options = config.rpc;
  // First, so that whoever finds the daemon finds its side channel.
  if (config.staging.budget_bytes > 0) {
    gpu::Device* const shared = SharesDeviceMemory(config) ? gpu.device.get() : nullptr;
    auto listener = StagingListener::Start(config.rpc.unix_socket, config.staging, service.get(),
                                           tenants.get(), &clock, &random, shared);
    // The side channel's path is the longer one.
    if (absl::IsInvalidArgument(listener.status())) {
      spdlog::warn("kvstowd shares no memory: {}", std::string(listener.status().message()));
    } else {
      KVSTOW_RETURN_IF_ERROR(listener.status());
      staging = *std::move(listener);
      rpc_options.data_paths.push_back("shm");
      if (shared != nullptr) rpc_options.data_paths.push_back("cuda");
    }
  }
  KVSTOW_ASSIGN_OR_RETURN(
      rpc, RpcServer::Start(rpc_options, service.get(), &clock, slow_calls.get(), tenants.get(),
                            kVersion, NewInstanceId(random), fill_stats));
  metrics->SetGaugeSource([this] { return ReadGauges(); });
  if (!config.metrics.address.empty()) {
    KVSTOW_ASSIGN_OR_RETURN(metrics_listener, MetricsListener::Start(config.metrics, metrics));
  }
  TellGpuHealth();
  maintenance = std::thread([this] { Maintain(); });
  LogStart(config);
  return absl::OkStatus();
}

void Daemon::Parts::Maintain() {
  while (!stop_maintenance.WaitForNotificationWithTimeout(absl::Milliseconds(100))) {
    service->Maintain();
    rpc->Maintain();
    TellGpuHealth();
    ReloadTokens();
    TellRefusedConnections();
  }
}

void Daemon::Parts::TellRefusedConnections() {
  const uint64_t refused = rpc->refused_connections();
  if (refused == refused_connections_told || clock.Now() < next_refusal_told) return;
  next_refusal_told = clock.Now() + absl::Seconds(10);
  spdlog::error(
      "kvstowd refused {} connections: its file descriptors are used up; raise the hard limit of "
      "open files (ulimit -Hn, LimitNOFILE), or look for clients that connect and do nothing",
      refused - refused_connections_told);
  refused_connections_told = refused;
}

// Every second or so: whoever revokes a token wants it gone.
void Daemon::Parts::ReloadTokens() {
  if (clock.Now() < next_reload) return;
  next_reload = clock.Now() + absl::Seconds(1);
  const absl::Status status = tenants->ReloadTokens();
  if (!status.ok() && tokens_reloaded) {
    spdlog::error("kvstowd keeps the tokens it has: {}", std::string(status.message()));
  }
  tokens_reloaded = status.ok();
}

Metrics::Gauges Daemon::Parts::ReadGauges() const {
  Metrics::Gauges gauges;
  gauges.service = service->Snapshot();
  gauges.bulk_calls = rpc->bulk_calls();
  gauges.staging_bytes = staging == nullptr ? 0 : staging->used_bytes();
  gauges.device_staging_bytes = staging == nullptr ? 0 : staging->used_device_bytes();
  gauges.pinned_bytes = host->pinned_bytes();
  gauges.cuda_errors = gpu.device == nullptr ? 0 : gpu.device->errors();
  gauges.gpu_healthy = gpu_healthy();
  return gauges;
}

bool Daemon::Parts::gpu_healthy() const {
  return gpu_codec != nullptr && gpu_codec->healthy() && gpu.device->health().ok();
}

// The daemon goes on without its GPU; whoever wants to replace it is told by the health service.
void Daemon::Parts::TellGpuHealth() {
  if (gpu.device == nullptr) return;
  const bool healthy = gpu_healthy();
  if (gpu_was_healthy && !healthy) {
    spdlog::error("kvstowd lost its GPU; the CPU goes on: {}",
                  std::string(gpu.device->health().message()));
  }
  if (!gpu_tier_lost && gpu.tier != nullptr && !gpu.device->health().ok()) {
    gpu_tier_lost = true;
    store->LoseTier(TierKind::kGpu);
  }
  gpu_was_healthy = healthy;
  rpc->SetServing(kGpuHealthService, healthy);
}

std::string Daemon::Parts::EventEndpoints() const {
  if (events.empty()) return "none";
  return absl::StrJoin(events, ",", [](std::string* out, const auto& publisher) {
    absl::StrAppend(out, publisher->endpoint());
  });
}

void Daemon::Parts::LogStart(const DaemonConfig& config) const {
  const PlaneCodec& codec = service->codec();
  const std::string gpu_tier =
      gpu.tier == nullptr ? "" : absl::StrCat("gpu:", config.gpu_tier_bytes >> 20, "MiB,");
  spdlog::info(
      "kvstowd started version={} config=\"{}\" codec=eoptshrinkq device={} isa=\"{}\" threads={} "
      "tiers={}host:{}MiB staging={}MiB listeners={} tls={} insecure={} tenants={} events={} "
      "metrics={}",
      kVersion, config.source, std::string(codec.device()), std::string(codec.description()),
      config.threads, gpu_tier, config.host_tier_bytes >> 20, config.staging.budget_bytes >> 20,
      absl::StrJoin(rpc->listeners(), ","), config.rpc.tls.enabled() ? "on" : "off",
      config.insecure, absl::StrJoin(tenants->names(), ","), EventEndpoints(),
      metrics_listener ? metrics_listener->address() : "none");
  if (gpu.device == nullptr) spdlog::info("kvstowd uses no GPU: {}", gpu.why_not);
}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const DaemonConfig& config) {
  std::unique_ptr<Daemon> daemon(new Daemon(std::make_unique<Parts>()));
  KVSTOW_RETURN_IF_ERROR(daemon->parts_->Start(config));
  return daemon;
}

Daemon::Daemon(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Daemon::~Daemon() { Shutdown(absl::ZeroDuration()); }

size_t Daemon::Shutdown(absl::Duration grace) {
  size_t cut_off = 0;
  if (parts_->rpc != nullptr) cut_off = parts_->rpc->Shutdown(grace);
  if (parts_->maintenance.joinable()) {
    parts_->stop_maintenance.Notify();
    parts_->maintenance.join();
  }
  parts_->staging.reset();
  parts_->metrics_listener.reset();
  if (parts_->metrics != nullptr) parts_->metrics->SetGaugeSource(nullptr);
  // Work of calls that were cut off still holds parts of the store.
  if (parts_->executor != nullptr) parts_->executor->Drain();
  // After whatever there was to tell.
  parts_->events.clear();
  return cut_off;
}

const std::vector<std::string>& Daemon::listeners() const { return parts_->rpc->listeners(); }

const EventPublisher& Daemon::events(size_t i) const { return *parts_->events[i]; }

std::string Daemon::metrics_address() const {
  return parts_->metrics_listener ? parts_->metrics_listener->address() : "";
}

Tier& Daemon::host_tier() { return *parts_->host; }

}  // namespace kvstow
