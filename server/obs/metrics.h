// The daemon's Prometheus series (docs/architecture.md lists them). Events come in through the
// sinks; gauges are read from a snapshot at each scrape. Every series whose labels are known from
// the configuration exists from the start, so that a rate over it is 0 and not absent; only the
// prefill saved is absent until somebody says what it is measured by.
//
// Thread-safe. No key, token or client-chosen string becomes a label.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/core/call_sink.h"
#include "server/core/service.h"
#include "server/core/stats_sink.h"

namespace kvstow {

struct MetricsConfig {
  std::vector<std::string> tenants;  // by TenantId
  std::vector<TierKind> tiers;
  std::string version;
  std::vector<std::string> devices;  // that codec work may run on; the first is the daemon's own
  std::vector<std::string> data_paths = {"grpc"};
  std::vector<TenantId> event_tenants = {};  // whose events are published
};

// Sums since the start, for Stats.
struct Totals {
  uint64_t hit_tokens = 0, miss_tokens = 0;
  uint64_t checksum_failures = 0;
  std::map<std::string, uint64_t> removed_blocks, refused_blocks;  // by reason
  QualityReport k, v;
};

class Metrics final : public StatsSink, public CallSink, public prometheus::Collectable {
 public:
  explicit Metrics(MetricsConfig config);
  ~Metrics() override;

  // Where gauges come from. Set before the first scrape; unset (null), with nobody scraping any
  // more, before what it reads goes.
  struct Gauges {
    ServiceSnapshot service;
    uint64_t bulk_calls = 0;
    // With a GPU: host memory pinned, CUDA calls that failed since the start, whether it works.
    uint64_t pinned_bytes = 0;
    uint64_t staging_bytes = 0;
    uint64_t device_staging_bytes = 0;
    uint64_t cuda_errors = 0;
    bool gpu_healthy = false;
  };
  void SetGaugeSource(std::function<Gauges()> source);

  Totals totals() const;

  // ---- StatsSink ----
  void OnLookup(TenantId tenant, uint64_t hit_tokens, uint64_t miss_tokens) override;
  void OnPrefillSaved(TenantId tenant, absl::Duration time) override;
  void OnStored(TenantId tenant, TierKind tier, uint64_t blocks, uint64_t bytes) override;
  void OnRemoved(TenantId tenant, TierKind tier, RemovalReason reason, uint64_t blocks,
                 uint64_t bytes) override;
  void OnRefused(TenantId tenant, Refusal refusal, uint64_t blocks) override;
  void OnChecksumFailure(TierKind tier) override;
  void OnLeaseExpired(TenantId tenant) override;
  void OnEventsPublished(TenantId tenant, uint64_t events) override;
  void OnEventsLost(TenantId tenant, uint64_t events) override;
  void OnMoved(TierKind from, TierKind to, uint64_t records, uint64_t bytes) override;
  void OnMoveFailed(TierKind from, TierKind to, uint64_t records) override;
  void OnCodec(CodecDirection direction, absl::string_view device, uint64_t raw_bytes,
               absl::Duration busy) override;
  void OnCodecFailure(absl::string_view device, bool permanent) override;
  void OnClientCoded(TenantId tenant, CodecDirection direction, uint64_t raw_bytes) override;
  void OnPlaneFault(TenantId tenant, PlaneFault fault) override;
  void OnEncoded(TenantId tenant, uint64_t record_bytes, uint64_t entries, const QualityReport& k,
                 const QualityReport& v) override;

  // ---- CallSink ----
  void OnCall(const CallRecord& call) override;

  // ---- prometheus::Collectable ----
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  struct PerTenant;
  struct PerTier;
  struct PerMove;
  struct PerPlaneKind;
  struct PerMethod;
  struct PerDevice;

  void AddTenants();
  void AddEvents();
  void AddTiers();
  void AddMoves();
  void AddPlaneKinds();
  void AddMethods();
  void AddDevices();
  void AddProcessWide();
  void SetGauges(const Gauges& gauges) const;
  PerTenant& tenant(TenantId id) const;
  PerTier& tier(TierKind kind) const;
  PerMove& move(TierKind from, TierKind to) const;

  const MetricsConfig config_;
  mutable prometheus::Registry registry_;
  std::vector<std::unique_ptr<PerTenant>> tenants_;
  std::map<TierKind, std::unique_ptr<PerTier>> tiers_;
  std::map<std::pair<TierKind, TierKind>, std::unique_ptr<PerMove>> moves_;  // by from and to
  std::unique_ptr<PerPlaneKind> k_, v_;
  std::map<std::pair<std::string, std::string>, std::unique_ptr<PerMethod>> methods_;  // by path
  prometheus::Family<prometheus::Counter>* calls_ = nullptr;
  prometheus::Family<prometheus::Counter>* prefill_saved_ = nullptr;
  std::map<std::string, std::unique_ptr<PerDevice>> devices_;
  prometheus::Counter* cuda_errors_ = nullptr;
  prometheus::Gauge *pinned_bytes_ = nullptr, *gpu_healthy_ = nullptr;
  prometheus::Gauge *blocks_visible_ = nullptr, *blocks_incomplete_ = nullptr,
                    *blocks_pending_ = nullptr, *oldest_lease_ = nullptr, *queue_depth_ = nullptr,
                    *inflight_bytes_ = nullptr, *staged_bytes_ = nullptr, *sessions_ = nullptr,
                    *bulk_calls_ = nullptr, *staging_bytes_ = nullptr,
                    *device_staging_bytes_ = nullptr;

  mutable absl::Mutex mu_;
  std::function<Gauges()> source_ ABSL_GUARDED_BY(mu_);
  Totals totals_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
