#include "server/obs/metrics.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace kvstow {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;

// Lookup takes microseconds, a Put of a long prompt seconds.
const Histogram::BucketBoundaries kSeconds = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005,
                                              0.01,   0.025,   0.05,   0.1,   0.25,   0.5,
                                              1,      2.5,     5,      10,    30};
// NMSE: raw is 0, one bit about .36, two .12, four .01, each with the low-rank part taken off
// before.
const Histogram::BucketBoundaries kErrors = {1e-6, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02,
                                             0.03, 0.04,   0.05,  0.075,  0.1,   0.15, 0.25,  0.5};
const Histogram::BucketBoundaries kRanks = {0.5, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16};

std::string Str(absl::string_view s) { return std::string(s); }

const std::map<RemovalReason, std::string>& RemovalNames() {
  static const auto* const names = [] {
    auto* map = new std::map<RemovalReason, std::string>;
    for (RemovalReason r : kAllRemovalReasons) (*map)[r] = Str(Name(r));
    return map;
  }();
  return *names;
}

}  // namespace

struct Metrics::PerTenant {
  Counter *hit_tokens, *miss_tokens, *expired_leases, *record_bytes, *record_entries;
  Counter *events_published = nullptr, *events_lost = nullptr;  // null: none are published
  Gauge *physical_bytes, *leased_bytes, *blocks, *leases;
  std::map<TierKind, Gauge*> tier_bytes, quota_bytes;
  std::map<Refusal, Counter*> refused;
  Counter* client_coded[2];  // by CodecDirection
  std::map<PlaneFault, Counter*> plane_faults;
  std::map<TierKind, Counter*> stored_blocks;
  std::map<std::pair<TierKind, RemovalReason>, Counter*> removed_blocks, removed_bytes;
};
struct Metrics::PerTier {
  Gauge *capacity, *physical, *record, *logical, *blocks;
  Counter* checksum_failures;
};
struct Metrics::PerMove {
  Counter *moves, *bytes, *failures;
};
struct Metrics::PerPlaneKind {
  Histogram *error, *rank;
  Counter *tiles, *tiles_raw;
};
struct Metrics::PerDevice {
  // By CodecDirection, and by passing or permanent.
  prometheus::Counter *seconds[2], *bytes[2], *failures[2];
};

struct Metrics::PerMethod {
  Histogram* seconds;
  Counter* bytes = nullptr;  // of Put and Get, as the phases
  std::array<Histogram*, kCallPhases> phases = {};
};

Metrics::Metrics(MetricsConfig config) : config_(std::move(config)) {
  AddTenants();
  AddEvents();
  AddTiers();
  AddMoves();
  AddPlaneKinds();
  AddMethods();
  AddDevices();
  AddProcessWide();
}

Metrics::~Metrics() = default;

void Metrics::AddTenants() {
  auto& tokens = BuildCounter()
                     .Name("kvstow_lookup_tokens_total")
                     .Help("Prompt tokens that lookups found stored (hit) and did not (miss)")
                     .Register(registry_);
  prefill_saved_ =
      &BuildCounter()
           .Name("kvstow_prefill_seconds_saved_total")
           .Help(
               "What prefilling the tokens of hits would have taken, at the rates that "
               "clients declared")
           .Register(registry_);
  auto& expired = BuildCounter()
                      .Name("kvstow_expired_leases_total")
                      .Help("Leases that ended by their time to live")
                      .Register(registry_);
  auto& bytes = BuildCounter()
                    .Name("kvstow_record_bytes_total")
                    .Help(
                        "Bytes of the records encoded, everything counted; times 8 over "
                        "kvstow_record_entries_total is bits per entry")
                    .Register(registry_);
  auto& entries = BuildCounter()
                      .Name("kvstow_record_entries_total")
                      .Help("KV entries of the records encoded")
                      .Register(registry_);
  auto& refused = BuildCounter()
                      .Name("kvstow_refused_blocks_total")
                      .Help("Announced blocks that were not taken, by reason")
                      .Register(registry_);
  auto& client_coded =
      BuildCounter()
          .Name("kvstow_client_coded_bytes_total")
          .Help("Raw KV bytes that workers encoded themselves, or took encoded to decode")
          .Register(registry_);
  auto& plane_faults = BuildCounter()
                           .Name("kvstow_client_plane_faults_total")
                           .Help("Planes encoded by workers that were not taken, by reason")
                           .Register(registry_);
  auto& stored = BuildCounter()
                     .Name("kvstow_stored_blocks_total")
                     .Help("Blocks that became visible")
                     .Register(registry_);
  auto& removed = BuildCounter()
                      .Name("kvstow_removed_blocks_total")
                      .Help("Blocks that left the store, by reason")
                      .Register(registry_);
  auto& removed_bytes = BuildCounter()
                            .Name("kvstow_removed_bytes_total")
                            .Help("Physical bytes that left the store, by reason")
                            .Register(registry_);
  auto& physical = BuildGauge()
                       .Name("kvstow_tenant_physical_bytes")
                       .Help("Physical bytes of a tenant's records")
                       .Register(registry_);
  auto& in_tier = BuildGauge()
                      .Name("kvstow_tenant_tier_bytes")
                      .Help("Physical bytes of a tenant's records in a tier")
                      .Register(registry_);
  auto& quota = BuildGauge()
                    .Name("kvstow_tenant_quota_bytes")
                    .Help("Physical bytes that a tenant may have in a tier")
                    .Register(registry_);
  auto& leased = BuildGauge()
                     .Name("kvstow_tenant_leased_bytes")
                     .Help("Physical bytes that leases keep from eviction")
                     .Register(registry_);
  auto& blocks =
      BuildGauge().Name("kvstow_tenant_blocks").Help("Visible blocks").Register(registry_);
  auto& leases =
      BuildGauge().Name("kvstow_leases").Help("Leases that are held").Register(registry_);
  for (const std::string& name : config_.tenants) {
    auto t = std::make_unique<PerTenant>();
    t->hit_tokens = &tokens.Add({{"tenant", name}, {"result", "hit"}});
    t->miss_tokens = &tokens.Add({{"tenant", name}, {"result", "miss"}});
    t->expired_leases = &expired.Add({{"tenant", name}});
    t->record_bytes = &bytes.Add({{"tenant", name}});
    t->record_entries = &entries.Add({{"tenant", name}});
    t->physical_bytes = &physical.Add({{"tenant", name}});
    t->leased_bytes = &leased.Add({{"tenant", name}});
    t->blocks = &blocks.Add({{"tenant", name}});
    t->leases = &leases.Add({{"tenant", name}});
    t->client_coded[0] = &client_coded.Add({{"tenant", name}, {"direction", "encode"}});
    t->client_coded[1] = &client_coded.Add({{"tenant", name}, {"direction", "decode"}});
    for (PlaneFault f : kAllPlaneFaults) {
      t->plane_faults[f] = &plane_faults.Add({{"tenant", name}, {"reason", Str(Name(f))}});
    }
    for (Refusal r : kAllRefusals) {
      t->refused[r] = &refused.Add({{"tenant", name}, {"reason", Str(Name(r))}});
    }
    for (TierKind kind : config_.tiers) {
      const std::string tier = Str(Name(kind));
      t->tier_bytes[kind] = &in_tier.Add({{"tenant", name}, {"tier", tier}});
      t->quota_bytes[kind] = &quota.Add({{"tenant", name}, {"tier", tier}});
      t->stored_blocks[kind] = &stored.Add({{"tenant", name}, {"tier", tier}});
      for (const auto& [reason, text] : RemovalNames()) {
        const prometheus::Labels labels = {{"tenant", name}, {"tier", tier}, {"reason", text}};
        t->removed_blocks[{kind, reason}] = &removed.Add(labels);
        t->removed_bytes[{kind, reason}] = &removed_bytes.Add(labels);
      }
    }
    tenants_.push_back(std::move(t));
  }
}

void Metrics::AddEvents() {
  auto& published = BuildCounter()
                        .Name("kvstow_events_published_total")
                        .Help("Blocks named in the KV events published")
                        .Register(registry_);
  auto& lost = BuildCounter()
                   .Name("kvstow_events_lost_total")
                   .Help("What happened to blocks and no KV event tells: publishing fell behind")
                   .Register(registry_);
  for (const TenantId id : config_.event_tenants) {
    const prometheus::Labels labels = {{"tenant", config_.tenants[static_cast<size_t>(id)]}};
    tenant(id).events_published = &published.Add(labels);
    tenant(id).events_lost = &lost.Add(labels);
  }
}

void Metrics::AddTiers() {
  auto& capacity =
      BuildGauge().Name("kvstow_tier_capacity_bytes").Help("A tier's budget").Register(registry_);
  auto& physical = BuildGauge()
                       .Name("kvstow_tier_physical_bytes")
                       .Help("Bytes of the budget in use, whole pages counted")
                       .Register(registry_);
  auto& record = BuildGauge()
                     .Name("kvstow_tier_record_bytes")
                     .Help("Bytes of the records in a tier")
                     .Register(registry_);
  auto& logical = BuildGauge()
                      .Name("kvstow_tier_logical_bytes")
                      .Help("What the tier's blocks would take uncompressed")
                      .Register(registry_);
  auto& blocks =
      BuildGauge().Name("kvstow_tier_blocks").Help("Records in a tier").Register(registry_);
  auto& failures = BuildCounter()
                       .Name("kvstow_checksum_failures_total")
                       .Help("Records found damaged on their way out; each was dropped")
                       .Register(registry_);
  for (TierKind kind : config_.tiers) {
    const prometheus::Labels labels = {{"tier", Str(Name(kind))}};
    auto t = std::make_unique<PerTier>();
    *t = {&capacity.Add(labels), &physical.Add(labels), &record.Add(labels),
          &logical.Add(labels),  &blocks.Add(labels),   &failures.Add(labels)};
    tiers_[kind] = std::move(t);
  }
}

void Metrics::AddMoves() {
  auto& moves = BuildCounter()
                    .Name("kvstow_tier_moves_total")
                    .Help("Records moved from one tier to another")
                    .Register(registry_);
  auto& bytes = BuildCounter()
                    .Name("kvstow_tier_moved_bytes_total")
                    .Help("Bytes of the records moved from one tier to another")
                    .Register(registry_);
  auto& failures = BuildCounter()
                       .Name("kvstow_tier_move_failures_total")
                       .Help("Copies between tiers that failed; the records stayed where they were")
                       .Register(registry_);
  for (TierKind from : config_.tiers) {
    for (TierKind to : config_.tiers) {
      if (from == to) continue;
      const prometheus::Labels labels = {{"from", Str(Name(from))}, {"to", Str(Name(to))}};
      auto m = std::make_unique<PerMove>();
      *m = {&moves.Add(labels), &bytes.Add(labels), &failures.Add(labels)};
      moves_[{from, to}] = std::move(m);
    }
  }
}

void Metrics::AddPlaneKinds() {
  auto& error = BuildHistogram()
                    .Name("kvstow_relative_error")
                    .Help(
                        "Measured relative error (NMSE) of each record: centred for K and "
                        "latent planes, plain for V")
                    .Register(registry_);
  auto& rank = BuildHistogram()
                   .Name("kvstow_rank")
                   .Help("Mean rank of the shared low-rank part of each record's tiles")
                   .Register(registry_);
  auto& tiles = BuildCounter().Name("kvstow_tiles_total").Help("Tiles encoded").Register(registry_);
  auto& raw = BuildCounter()
                  .Name("kvstow_tiles_raw_total")
                  .Help("Tiles kept raw: not finite, or over the error bound")
                  .Register(registry_);
  for (auto* slot : {&k_, &v_}) {
    const prometheus::Labels labels = {{"plane", slot == &k_ ? "k" : "v"}};
    *slot = std::make_unique<PerPlaneKind>();
    **slot = {&error.Add(labels, kErrors), &rank.Add(labels, kRanks), &tiles.Add(labels),
              &raw.Add(labels)};
  }
}

void Metrics::AddMethods() {
  auto& seconds = BuildHistogram()
                      .Name("kvstow_call_seconds")
                      .Help("How long calls took, by method and data path")
                      .Register(registry_);
  auto& phases = BuildHistogram()
                     .Name("kvstow_call_phase_seconds")
                     .Help(
                         "Where the time of Puts and Gets went; the phases of a call add up to "
                         "what it took")
                     .Register(registry_);
  auto& bytes = BuildCounter()
                    .Name("kvstow_transfer_bytes_total")
                    .Help("KV bytes that travelled, by method and data path")
                    .Register(registry_);
  calls_ = &BuildCounter()
                .Name("kvstow_calls_total")
                .Help("Calls that ended, by method and status code")
                .Register(registry_);
  for (const char* method : {"Session", "OpenSpace", "Lookup", "Prefetch", "Put", "Get", "Release",
                             "Renew", "Drop", "Watch", "Stats", "Inspect"}) {
    calls_->Add({{"method", method}, {"code", "OK"}});
    const bool bulk = absl::string_view(method) == "Put" || absl::string_view(method) == "Get";
    for (const std::string& path : config_.data_paths) {
      if (!bulk && path != "grpc") continue;
      auto& m = methods_[{method, path}] = std::make_unique<PerMethod>();
      m->seconds = &seconds.Add({{"method", method}, {"path", path}}, kSeconds);
      if (!bulk) continue;
      m->bytes = &bytes.Add({{"method", method}, {"path", path}});
      for (CallPhase phase : kAllCallPhases) {
        m->phases[static_cast<size_t>(phase)] = &phases.Add(
            {{"method", method}, {"path", path}, {"phase", Str(Name(phase))}}, kSeconds);
      }
    }
  }
}

void Metrics::AddDevices() {
  auto& seconds = BuildCounter()
                      .Name("kvstow_codec_seconds_total")
                      .Help("Time spent encoding and decoding, summed over threads")
                      .Register(registry_);
  auto& bytes = BuildCounter()
                    .Name("kvstow_codec_bytes_total")
                    .Help("Raw KV bytes encoded and decoded")
                    .Register(registry_);
  auto& failures = BuildCounter()
                       .Name("kvstow_codec_failures_total")
                       .Help(
                           "Batches that a device gave up and the CPU did instead; permanent: and "
                           "everything after")
                       .Register(registry_);
  for (const std::string& device : config_.devices) {
    auto& m = *(devices_[device] = std::make_unique<PerDevice>());
    m.seconds[0] = &seconds.Add({{"direction", "encode"}, {"device", device}});
    m.seconds[1] = &seconds.Add({{"direction", "decode"}, {"device", device}});
    m.bytes[0] = &bytes.Add({{"direction", "encode"}, {"device", device}});
    m.bytes[1] = &bytes.Add({{"direction", "decode"}, {"device", device}});
    m.failures[0] = &failures.Add({{"device", device}, {"permanent", "false"}});
    m.failures[1] = &failures.Add({{"device", device}, {"permanent", "true"}});
  }
  cuda_errors_ = &BuildCounter()
                      .Name("kvstow_cuda_errors_total")
                      .Help("CUDA calls that failed")
                      .Register(registry_)
                      .Add({});
  pinned_bytes_ = &BuildGauge()
                       .Name("kvstow_pinned_bytes")
                       .Help("Bytes of the host tier that are pinned for the GPU")
                       .Register(registry_)
                       .Add({});
  gpu_healthy_ = &BuildGauge()
                      .Name("kvstow_gpu_healthy")
                      .Help("1 while the daemon uses a GPU and it works, else 0")
                      .Register(registry_)
                      .Add({});
}

void Metrics::AddProcessWide() {
  auto& blocks = BuildGauge()
                     .Name("kvstow_blocks")
                     .Help(
                         "Blocks by state: visible, incomplete (a shard or the parent is "
                         "missing), pending (a Put is sending them)")
                     .Register(registry_);
  blocks_visible_ = &blocks.Add({{"state", "visible"}});
  blocks_incomplete_ = &blocks.Add({{"state", "incomplete"}});
  blocks_pending_ = &blocks.Add({{"state", "pending"}});
  const auto gauge = [this](const char* name, const char* help) {
    return &BuildGauge().Name(name).Help(help).Register(registry_).Add({});
  };
  oldest_lease_ = gauge("kvstow_oldest_lease_age_seconds", "Age of the oldest lease");
  queue_depth_ = gauge("kvstow_executor_queue_depth", "Pieces of codec work waiting for a thread");
  inflight_bytes_ = gauge("kvstow_inflight_bytes", "Raw plane bytes between wire and codec");
  staged_bytes_ = gauge("kvstow_staged_bytes", "Encoded bytes of Puts that have not committed");
  sessions_ = gauge("kvstow_sessions", "Open sessions");
  bulk_calls_ = gauge("kvstow_bulk_calls", "Put and Get streams that are open");
  staging_bytes_ = gauge("kvstow_staging_bytes", "Memory shared with the sessions there are");
  device_staging_bytes_ =
      gauge("kvstow_device_staging_bytes", "Device memory shared with the sessions there are");
  BuildGauge()
      .Name("kvstow_build_info")
      .Help("Always 1; the labels say what runs")
      .Register(registry_)
      .Add({{"version", config_.version}, {"device", config_.devices.front()}})
      .Set(1);
}

void Metrics::SetGaugeSource(std::function<Gauges()> source) {
  absl::MutexLock lock(&mu_);
  source_ = std::move(source);
}

Totals Metrics::totals() const {
  absl::MutexLock lock(&mu_);
  return totals_;
}

Metrics::PerTenant& Metrics::tenant(TenantId id) const {
  return *tenants_[static_cast<size_t>(id)];
}

Metrics::PerTier& Metrics::tier(TierKind kind) const { return *tiers_.at(kind); }

Metrics::PerMove& Metrics::move(TierKind from, TierKind to) const { return *moves_.at({from, to}); }

void Metrics::OnLookup(TenantId id, uint64_t hit_tokens, uint64_t miss_tokens) {
  tenant(id).hit_tokens->Increment(static_cast<double>(hit_tokens));
  tenant(id).miss_tokens->Increment(static_cast<double>(miss_tokens));
  absl::MutexLock lock(&mu_);
  totals_.hit_tokens += hit_tokens;
  totals_.miss_tokens += miss_tokens;
}

void Metrics::OnStored(TenantId id, TierKind kind, uint64_t blocks, uint64_t) {
  tenant(id).stored_blocks.at(kind)->Increment(static_cast<double>(blocks));
}

void Metrics::OnRemoved(TenantId id, TierKind kind, RemovalReason reason, uint64_t blocks,
                        uint64_t bytes) {
  tenant(id).removed_blocks.at({kind, reason})->Increment(static_cast<double>(blocks));
  tenant(id).removed_bytes.at({kind, reason})->Increment(static_cast<double>(bytes));
  absl::MutexLock lock(&mu_);
  totals_.removed_blocks[Str(Name(reason))] += blocks;
}

void Metrics::OnRefused(TenantId id, Refusal refusal, uint64_t blocks) {
  tenant(id).refused.at(refusal)->Increment(static_cast<double>(blocks));
  absl::MutexLock lock(&mu_);
  totals_.refused_blocks[Str(Name(refusal))] += blocks;
}

void Metrics::OnChecksumFailure(TierKind kind) {
  tier(kind).checksum_failures->Increment();
  absl::MutexLock lock(&mu_);
  ++totals_.checksum_failures;
}

void Metrics::OnLeaseExpired(TenantId id) { tenant(id).expired_leases->Increment(); }

void Metrics::OnPrefillSaved(TenantId id, absl::Duration time) {
  prefill_saved_->Add({{"tenant", config_.tenants[static_cast<size_t>(id)]}})
      .Increment(absl::ToDoubleSeconds(time));
}

void Metrics::OnEventsPublished(TenantId id, uint64_t events) {
  Counter* const counter = tenant(id).events_published;
  if (counter != nullptr) counter->Increment(static_cast<double>(events));
}

void Metrics::OnEventsLost(TenantId id, uint64_t events) {
  Counter* const counter = tenant(id).events_lost;
  if (counter != nullptr) counter->Increment(static_cast<double>(events));
}

void Metrics::OnMoved(TierKind from, TierKind to, uint64_t records, uint64_t bytes) {
  move(from, to).moves->Increment(static_cast<double>(records));
  move(from, to).bytes->Increment(static_cast<double>(bytes));
}

void Metrics::OnMoveFailed(TierKind from, TierKind to, uint64_t records) {
  move(from, to).failures->Increment(static_cast<double>(records));
}

void Metrics::OnCodec(CodecDirection direction, absl::string_view device, uint64_t raw_bytes,
                      absl::Duration busy) {
  const PerDevice& m = *devices_.at(Str(device));
  const int i = direction == CodecDirection::kEncode ? 0 : 1;
  m.seconds[i]->Increment(absl::ToDoubleSeconds(busy));
  m.bytes[i]->Increment(static_cast<double>(raw_bytes));
}

void Metrics::OnCodecFailure(absl::string_view device, bool permanent) {
  devices_.at(Str(device))->failures[permanent ? 1 : 0]->Increment();
}

void Metrics::OnClientCoded(TenantId id, CodecDirection direction, uint64_t raw_bytes) {
  const int i = direction == CodecDirection::kEncode ? 0 : 1;
  tenant(id).client_coded[i]->Increment(static_cast<double>(raw_bytes));
}

void Metrics::OnPlaneFault(TenantId id, PlaneFault fault) {
  tenant(id).plane_faults.at(fault)->Increment();
}

void Metrics::OnEncoded(TenantId id, uint64_t record_bytes, uint64_t entries,
                        const QualityReport& k, const QualityReport& v) {
  tenant(id).record_bytes->Increment(static_cast<double>(record_bytes));
  tenant(id).record_entries->Increment(static_cast<double>(entries));
  const auto observe = [](PerPlaneKind& kind, const QualityReport& report, double error) {
    if (report.tiles == 0) return;
    kind.error->Observe(error);
    kind.rank->Observe(report.rank_mean());
    kind.tiles->Increment(static_cast<double>(report.tiles));
    kind.tiles_raw->Increment(static_cast<double>(report.tiles_raw));
  };
  observe(*k_, k, k.sums.centred_nmse());
  observe(*v_, v, v.sums.nmse());
  absl::MutexLock lock(&mu_);
  totals_.k.Merge(k);
  totals_.v.Merge(v);
}

void Metrics::OnCall(const CallRecord& call) {
  const std::string method = Str(call.method);
  auto it = methods_.find({method, Str(call.path)});
  if (it == methods_.end()) return;
  // A session lasts as long as its worker: its length says nothing about speed.
  if (method != "Session" && method != "Watch") {
    it->second->seconds->Observe(absl::ToDoubleSeconds(call.took));
  }
  if (it->second->bytes != nullptr) it->second->bytes->Increment(static_cast<double>(call.bytes));
  for (size_t i = 0; call.phases && i < kCallPhases; ++i) {
    if (it->second->phases[i] == nullptr) continue;
    it->second->phases[i]->Observe(absl::ToDoubleSeconds((*call.phases)[i]));
  }
  // At most one series a method and status code: bounded.
  calls_->Add({{"method", method}, {"code", absl::StatusCodeToString(call.code)}}).Increment();
}

void Metrics::SetGauges(const Gauges& g) const {
  const StoreSnapshot& store = g.service.store;
  for (const TierSnapshot& t : store.tiers) {
    PerTier& m = tier(t.tier);
    m.capacity->Set(static_cast<double>(t.usage.capacity_bytes));
    m.physical->Set(static_cast<double>(t.usage.used_bytes));
    m.record->Set(static_cast<double>(t.record_bytes));
    m.logical->Set(static_cast<double>(t.logical_bytes));
    m.blocks->Set(static_cast<double>(t.blocks));
  }
  for (const TenantSnapshot& t : store.tenants) {
    PerTenant& m = tenant(t.tenant);
    m.physical_bytes->Set(static_cast<double>(t.physical_bytes));
    m.leased_bytes->Set(static_cast<double>(t.leased_bytes));
    m.blocks->Set(static_cast<double>(t.blocks));
    m.leases->Set(static_cast<double>(t.leases));
    for (size_t i = 0; i < store.tiers.size(); ++i) {
      m.tier_bytes.at(store.tiers[i].tier)->Set(static_cast<double>(t.tier_bytes[i]));
      m.quota_bytes.at(store.tiers[i].tier)->Set(static_cast<double>(t.quota_bytes[i]));
    }
  }
  blocks_visible_->Set(static_cast<double>(store.visible_blocks));
  blocks_incomplete_->Set(static_cast<double>(store.incomplete_blocks));
  blocks_pending_->Set(static_cast<double>(store.pending_blocks));
  oldest_lease_->Set(absl::ToDoubleSeconds(store.oldest_lease_age));
  queue_depth_->Set(static_cast<double>(g.service.queue_depth));
  inflight_bytes_->Set(static_cast<double>(g.service.inflight_bytes));
  staged_bytes_->Set(static_cast<double>(g.service.staged_bytes));
  sessions_->Set(static_cast<double>(g.service.sessions));
  bulk_calls_->Set(static_cast<double>(g.bulk_calls));
  staging_bytes_->Set(static_cast<double>(g.staging_bytes));
  device_staging_bytes_->Set(static_cast<double>(g.device_staging_bytes));
  pinned_bytes_->Set(static_cast<double>(g.pinned_bytes));
  gpu_healthy_->Set(g.gpu_healthy ? 1 : 0);
  // Scrapes may overlap: of two that read the same value, one adds what the other has added.
  cuda_errors_->Increment(
      std::max(0.0, static_cast<double>(g.cuda_errors) - cuda_errors_->Value()));
}

std::vector<prometheus::MetricFamily> Metrics::Collect() const {
  std::function<Gauges()> source;
  {
    absl::MutexLock lock(&mu_);
    source = source_;
  }
  // Outside the lock: the store reports to this object under its own.
  if (source) SetGauges(source());
  return registry_.Collect();
}

}  // namespace kvstow
